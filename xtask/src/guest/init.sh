#!/usr/bin/busybox sh
# The guest's first process: mounts what a Linux system has, runs the one command in /.vm, and reports its status.
#
# Everything here is done by busybox, by its own name, so that the programs under test are Debian's and none of them is
# needed to get as far as the command. The kernel's console is one serial line; the command's output and the status have
# virtio ports of their own, so that nothing is mixed and no byte is changed.
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

for module in virtio_pci virtio_console; do $b modprobe "$module" 2>/dev/null; done

port() {
    for tries in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        for file in /sys/class/virtio-ports/*/name; do
            [ -e "$file" ] || continue
            read -r name <"$file"
            if [ "$name" = "$1" ]; then
                file=${file%/name}
                echo "/dev/${file##*/}"
                return
            fi
        done
        $b usleep 50000
    done
    echo "init: no port $1" >/dev/console
    $b poweroff -f
}
out=$(port out)
err=$(port err)
exec 3>"$(port control)"

$b mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security
$b mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 /sys/fs/cgroup
$b mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf /sys/fs/bpf
$b mount -t tracefs -o nosuid,nodev,noexec tracefs /sys/kernel/tracing 2>/dev/null
$b mount -t debugfs -o nosuid,nodev,noexec debugfs /sys/kernel/debug 2>/dev/null
$b hostname guest
$b ip link set lo up

echo hello >&3

# Pipes between the command and the ports: a port can be opened once only, and programs open /dev/stderr again.
$b mkfifo -m 622 /.vm/out /.vm/err
$b cat /.vm/out >"$out" 3>&- &
relay_out=$!
$b cat /.vm/err >"$err" 3>&- &
relay_err=$!
$b setsid $b sh -c '/usr/bin/bash /.vm/command; echo $? >/.vm/status' \
    </dev/null >/.vm/out 2>/.vm/err 3>&-

# What the command left behind would hold the pipes open for ever. Kernel threads do not mind.
for process in /proc/[0-9]*; do
    process=${process#/proc/}
    case $process in
    1 | "$relay_out" | "$relay_err") ;;
    *) kill -9 "$process" 2>/dev/null ;;
    esac
done
# What cannot be killed must not keep the status from the host.
($b sleep 5; kill -9 "$relay_out" "$relay_err") 2>/dev/null 3>&- &
wait "$relay_out" "$relay_err"
read -r status </.vm/status
echo "status $status" >&3
$b poweroff -f
