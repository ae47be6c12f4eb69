# The guest's session: runs the one command in /.vm and reports its status. The first process reads this when it has set
# the system up; where that is systemd, a unit runs it.
#
# The kernel's console is one serial line; the command's output and the status have virtio ports of their own, so that
# nothing is mixed and no byte is changed.
b=/usr/bin/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

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
    echo "session: no port $1" >/dev/console
    $b poweroff -f
}
out=$(port out)
err=$(port err)
exec 3>"$(port control)"
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
    1 | $$ | "$relay_out" | "$relay_err") ;;
    *) kill -9 "$process" 2>/dev/null ;;
    esac
done
# What cannot be killed must not keep the status from the host.
($b sleep 5; kill -9 "$relay_out" "$relay_err") 2>/dev/null 3>&- &
wait "$relay_out" "$relay_err"
read -r status </.vm/status
echo "status $status" >&3
$b poweroff -f
