# The first process of a node, in new mount, network, process id, host name
# and IPC namespaces. Arguments: the node's name, its directory on the
# machine, the pause program, the control group's name.
set -eu
name=$1 dir=$2 pause=$3 group=$4

# Part one, still in the machine's control groups: enter the node's own, and
# only then make them the root of what can be seen from here.
if [ "${5-}" != entered ]; then
    for hierarchy in $(cut -d' ' -f1 "$dir/cgroups"); do
        echo 0 >"$hierarchy/$group/cgroup.procs"
    done
    exec unshare --cgroup sh "$dir/init.sh" "$name" "$dir" "$pause" "$group" entered
fi

# Nothing that is mounted here shows on the machine; what a pod mounts may
# show in other pods of this node.
mount --make-rprivate /
mount -t proc proc /proc

# The machine stays reachable for as long as its directories are needed.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/machine /run/own /run/sysctl /run/lock
mount --rbind / /run/machine

# What is written to the machine's own directories is kept in memory, and
# ends with the node.
for top in etc opt var; do
    mkdir -p "/run/own/$top/changed" "/run/own/$top/work"
    mount -t overlay overlay -o "lowerdir=/$top,upperdir=/run/own/$top/changed,workdir=/run/own/$top/work" "/$top"
done

# The places that Kubernetes and containerd use by default are the node's own,
# whatever the machine has there.
while read -r own place; do
    mkdir -p "$place"
    mount --bind "/run/machine$dir/$own" "$place"
done <<PLACES
containerd-config /etc/containerd
cni-config /etc/cni/net.d
dbus /run/dbus
kubernetes /etc/kubernetes
containerd /var/lib/containerd
kubelet /var/lib/kubelet
pod-logs /var/log/pods
PLACES
mkdir -p /var/lib/cni /var/log/containers
mount -t tmpfs -o mode=755 tmpfs /var/lib/cni
mount -t tmpfs -o mode=755 tmpfs /var/log/containers
cp "/run/machine$dir/cgroups" /run/cgroups
umount -l /run/machine

# The node's control groups are the root of all there are.
if ! grep -q '^/sys/fs/cgroup 2' /run/cgroups; then
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
fi
while read -r mountpoint version options; do
    if [ "$version" = 2 ]; then
        mkdir -p "$mountpoint"
        mount -t cgroup2 cgroup2 "$mountpoint"
    else
        mkdir -p "$mountpoint"
        mount -t cgroup -o "$options" cgroup "$mountpoint"
    fi
    echo 0 >"$mountpoint/init/cgroup.procs"
done </run/cgroups

# kubelet sets these for the whole kernel: let it set a copy.
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    if [ -e "/proc/sys/$setting" ]; then
        copy=/run/sysctl/$(echo "$setting" | tr / .)
        cp "/proc/sys/$setting" "$copy"
        mount --bind "$copy" "/proc/sys/$setting"
    fi
done
# A volume may be mounted so that it shows in other pods.
mount --make-rshared /

echo 1 >/proc/sys/net/ipv4/ip_forward
hostname "$name"
rm -f /etc/hosts /etc/resolv.conf
echo "127.0.0.1 localhost $name" >/etc/hosts
# There is no name server, and pods learn that at once from an empty file.
: >/etc/resolv.conf

exec "$pause"
