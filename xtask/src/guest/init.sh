#!/usr/bin/busybox sh
# The guest's first process: mounts what a Linux system has, and goes on with the session.
#
# Everything here is done by busybox, by its own name, so that the programs under test are Debian's and none of them is
# needed to get as far as the command.
b=/usr/bin/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

$b mount -t proc -o nosuid,nodev,noexec proc /proc
$b mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
$b mount -t devtmpfs -o nosuid devtmpfs /dev 2>/dev/null
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
$b mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm
for link in "fd fd" "fd/0 stdin" "fd/1 stdout" "fd/2 stderr"; do
    $b ln -sfn "/proc/self/${link% *}" "/dev/${link#* }"
done

# Device nodes whose opening loads their module: /dev/loop-control, /dev/net/tun, /dev/fuse, …
while read -r module name type; do
    case $module in '#'*) continue ;; esac
    numbers=${type#?}
    type=${type%"$numbers"}
    case $name in */*) $b mkdir -p "/dev/${name%/*}" ;; esac
    [ -e "/dev/$name" ] || $b mknod -m 600 "/dev/$name" "$type" "${numbers%:*}" "${numbers#*:}"
done <"/lib/modules/$($b uname -r)/modules.devname"

# Copied files may lie in these: the filesystem is mounted aside, filled, and moved into place.
fresh() {
    $b mkdir /.vm/mount
    $b mount -t tmpfs -o "mode=$2" tmpfs /.vm/mount
    $b cp -a "$1/." /.vm/mount/
    $b mount --move /.vm/mount "$1"
    $b rmdir /.vm/mount
}
fresh /tmp 1777
fresh /run 755

$b mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security
$b mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 /sys/fs/cgroup
$b mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf /sys/fs/bpf
$b mount -t tracefs -o nosuid,nodev,noexec tracefs /sys/kernel/tracing 2>/dev/null
$b mount -t debugfs -o nosuid,nodev,noexec debugfs /sys/kernel/debug 2>/dev/null
$b hostname guest
$b ip link set lo up

. /.vm/session
