# Runs a daemon in a node whose namespaces it has entered: in the node's
# control groups, below those of its pods. Arguments: the daemon and its own.
set -eu
while read -r mountpoint version options; do
    echo 0 >"$mountpoint/init/cgroup.procs"
done </run/cgroups
exec "$@"
