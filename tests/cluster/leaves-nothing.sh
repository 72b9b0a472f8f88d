#!/bin/sh
# Proves that a cluster leaves the machine as it was, also after crashes.
#
#   leaves-nothing.sh                        take a cluster of its own through crashes, take it down, compare
#   leaves-nothing.sh snapshot FILE [NAME]   write down what the machine looks like
#   leaves-nothing.sh compare FILE [NAME]    compare with that; prints what is left and fails if anything is
#   leaves-nothing.sh self-test              show that each kind of thing left behind is found
#
# NAME is the cluster in question, the default one if it is not given. Other
# clusters may come and go meanwhile.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")" && pwd)
cluster=$here/cluster
checkout=$(CDPATH='' cd -- "$here/../.." && pwd)

about() {
    name=${1:-default}
    directory=$checkout/.cluster
    [ "$name" = default ] || directory=$directory/$name
}

# Patterns of what is other clusters'.
others() {
    for slot in /run/pullpass-cluster/slot-*; do
        [ -e "$slot" ] && [ "$(cat "$slot")" != "$directory" ] || continue
        number=${slot##*-}
        printf '%s\n' "pullpass$number[^0-9]" "pullpass$number\$" "pullpass-cluster-$number-" "slot-$number\$"
    done
}

own_namespace() { readlink "/proc/self/ns/$1"; }

# Processes that live in namespaces of their own, carry a cluster's mark, or
# are what clusters consist of.
processes() {
    mnt=$(own_namespace mnt) pid=$(own_namespace pid) net=$(own_namespace net)
    for process in /proc/[0-9]*; do
        # Kernel threads and what has just ended have no program.
        [ -e "$process/exe" ] || continue
        arguments=$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null | cut -c1-120) || continue
        started=$(sed 's/.*) //' "$process/stat" 2>/dev/null | cut -d' ' -f20) || continue
        group=$(sed -n 's/.*\/\(pullpass-cluster-[^/]*\).*/ in \1/p' "$process/cgroup" 2>/dev/null | head -n 1) || continue
        foreign=
        [ "$(readlink "$process/ns/mnt")" = "$mnt" ] || foreign=yes
        [ "$(readlink "$process/ns/pid")" = "$pid" ] || foreign=yes
        [ "$(readlink "$process/ns/net")" = "$net" ] || foreign=yes
        marked=$(tr '\0' '\n' <"$process/environ" 2>/dev/null | sed -n 's/^PULLPASS_CLUSTER_DIR=//p' | tail -n 1) || true
        case $arguments in
        */etcd\ * | etcd\ * | *kube-apiserver* | *kube-controller-manager* | *kube-scheduler* | *kubelet\ * | *kube-proxy* | \
            *containerd* | *docker-registry* | */pause\ * | */runc\ *) known=yes ;;
        *) known= ;;
        esac
        # Another cluster's.
        case $marked in "$checkout"/.cluster*) [ "$marked" = "$directory" ] || continue ;; esac
        [ -z "$foreign$marked$known$group" ] ||
            echo "process ${process#/proc/} started at tick $started of ${marked:-nobody}${group}: $arguments"
    done
}

interfaces() {
    ip -brief link show | sed 's/^/link /'
    ip -brief address show | sed 's/^/address /'
    ip route show table all | grep -v -e '^broadcast' -e 'expires' | sed 's/^/route /'
    ip rule show | sed 's/^/rule /'
}

# What kubelet, kube-proxy and CNI plugins like to change.
settings() {
    for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
        kernel/keys/root_maxbytes net/ipv4/ip_forward net/ipv4/conf/all/route_localnet net/ipv4/conf/all/forwarding \
        net/netfilter/nf_conntrack_max net/netfilter/nf_conntrack_tcp_timeout_established; do
        [ ! -e "/proc/sys/$setting" ] || echo "setting $setting $(cat "/proc/sys/$setting")"
    done
}

files() {
    for place in /etc/cni /etc/containerd /etc/kubernetes /opt/cni /opt/containerd /run /run/containerd /run/netns \
        /var/lib/cni /var/lib/containerd /var/lib/kubelet /var/lib/etcd /var/log/containers /var/log/pods \
        /usr/libexec/kubernetes "$HOME/.kube" "$HOME/.docker"; do
        find "$place" -maxdepth 2 2>/dev/null | sed 's/^/file /' || true
    done
    # Beside the default cluster's files there are other clusters'.
    for own in audit.log bin config etcd kubeconfig logs nodes pki registry registry.env run state.json; do
        [ ! -e "$directory/$own" ] || echo "file $directory/$own"
    done
    # The name under which internal/cluster locks it.
    lock=/run/pullpass-cluster/cluster-$(printf %s "$directory" | sha256sum | cut -d' ' -f1)
    [ ! -e "$lock.lock" ] || echo "file $lock"
}

everything() {
    processes
    interfaces
    settings
    files
    sed 's/^[^ ]* [^ ]* //' /proc/self/mountinfo | sed 's/^/mount /'
    find /sys/fs/cgroup -type d | sed 's/^/control group /'
    "$("$cluster" tool nft)" list ruleset | sed 's/^/firewall /'
}

snapshot() {
    "$cluster" tool nft >/dev/null
    patterns=$(mktemp)
    others >"$patterns"
    # Locks come and go with every command on any cluster.
    everything | grep -v -e 'file /run/pullpass-cluster.*\.lock' -e 'file /run/pullpass-cluster$' -f "$patterns" | sort -u >"$1.unfinished"
    # Another cluster may have come during the listing.
    others >"$patterns"
    grep -v -e '^$' -f "$patterns" "$1.unfinished" >"$1" || true
    rm -f "$1.unfinished" "$patterns"
}

# How long, in seconds, the kernel may take to clear up.
patience=20

compare() {
    now=$(mktemp)
    deadline=$(($(date +%s) + patience))
    while :; do
        snapshot "$now"
        # Less than before is no trace, except for what the machine had set.
        left=$(comm -13 "$1" "$now")
        lost=$(comm -23 "$1" "$now" | grep -e '^setting' -e '^route' -e '^firewall' -e '^link' -e '^address' || true)
        if [ -z "$left$lost" ] || [ "$(date +%s)" -ge "$deadline" ]; then
            break
        fi
        sleep 1
    done
    rm -f "$now"
    if [ -n "$left$lost" ]; then
        [ -z "$left" ] || printf 'left behind:\n%s\n' "$left"
        [ -z "$lost" ] || printf 'changed or gone:\n%s\n' "$lost"
        return 1
    fi
    echo "nothing is left behind"
}

through_crashes() {
    about traces
    "$cluster" down --name $name
    before=$(mktemp)
    trap 'rm -f "$before"; "$cluster" down --name traces' EXIT
    trap 'exit 1' INT TERM
    snapshot "$before"

    # Interrupted at moments at which different things are half done.
    for seconds in 0.2 1 3; do
        echo "killing the start of a cluster after $seconds s"
        timeout --signal=KILL "$seconds" "$cluster" up --name $name || true
    done
    "$cluster" down --name $name
    compare "$before"

    echo "killing parts of a running cluster"
    "$cluster" up --name $name
    "$directory/bin/kubectl" run traces --image=pullpass.test/pause:1 --image-pull-policy=Never
    "$directory/bin/kubectl" wait --for=condition=Ready pod/traces --timeout=60s
    for component in node-1 etcd registry; do
        kill -KILL "$(cat "$directory/run/$component.pid")"
    done
    "$cluster" down --name $name
    compare "$before"

    echo "killing everything but the pods' supervisors, and losing the records"
    "$cluster" up --name $name
    for component in node-1-kubelet node-1-containerd node-1-kube-proxy kube-apiserver kube-controller-manager; do
        kill -KILL "$(cat "$directory/run/$component.pid")"
    done
    rm -rf "$directory/run" "$directory/pki"
    "$cluster" down --name $name
    compare "$before"
}

self_test() {
    about self-test
    patience=1
    before=$(mktemp)
    trap 'rm -f "$before"' EXIT
    snapshot "$before"
    compare "$before"
    group=$(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs | head -n 1)
    group=$(dirname "$group")/pullpass-cluster-left
    shown=0
    # What is left; how the report shows it; how to leave it; how to remove it.
    while IFS='|' read -r what report leave remove; do
        # All of them are words of this very file.
        eval "$leave"
        output=$(compare "$before") || true
        eval "$remove"
        if ! echo "$output" | grep -e "$report"; then
            echo "not found: $what" >&2
            exit 1
        fi
        shown=$((shown + 1))
    done <<LEFT
a process of a cluster|^process .* of $directory: sleep|PULLPASS_CLUSTER_DIR=$directory sleep 600 & left=\$!|kill -KILL \$left
a process in namespaces|^process .* of nobody: sleep|unshare --mount --pid --fork --kill-child sleep 600 & left=\$!|kill -KILL \$left
a mount|^mount .* /mnt |mount -t tmpfs left /mnt|umount /mnt
an interface|^link left0|ip link add left0 type bridge|ip link delete left0
a network namespace|^mount .*net:|touch "$before.net"; unshare --net="$before.net" true|umount "$before.net"; rm "$before.net"
a route|^route 198.18.0.0/22|ip route add 198.18.0.0/22 dev lo|ip route delete 198.18.0.0/22 dev lo
a firewall rule|^firewall table ip left|\$("$cluster" tool nft) add table ip left|\$("$cluster" tool nft) delete table ip left
a control group|^control group .*cluster-left|mkdir "$group"|rmdir "$group"
a file|^file $directory/kubeconfig|mkdir -p "$directory"; : >"$directory/kubeconfig"|rm -r "$directory"
a setting|^setting kernel/panic 17|old=\$(cat /proc/sys/kernel/panic); echo 17 >/proc/sys/kernel/panic|echo "\$old" >/proc/sys/kernel/panic
LEFT
    compare "$before"
    echo "all $shown kinds of traces are found"
}

case ${1-} in
'') through_crashes ;;
snapshot) about "${3-}" && snapshot "$2" ;;
compare) about "${3-}" && compare "$2" ;;
self-test) self_test ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
