#!/usr/bin/busybox sh
# The first process of a guest whose root is a disk: mounts the disk, puts this run's files and the kernel's modules on
# it, and becomes its first process. The disk takes writes, and the host throws them away.
b=/usr/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev 2>/dev/null
for module in virtio_pci virtio_blk ext4; do $b modprobe "$module" 2>/dev/null; done
for tries in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -b /dev/vda ] && break
    $b usleep 50000
done
$b mkdir /.new
if ! $b mount -t ext4 -o noatime /dev/vda /.new; then
    echo "rootfs: the disk cannot be mounted" >/dev/console
    $b poweroff -f
fi
$b mkdir -p /.new/usr/lib/modules
$b cp -a /usr/lib/modules/. /.new/usr/lib/modules/
$b cp -a /.root/. /.new/
$b umount /dev /sys /proc
exec $b switch_root /.new /.vm/init
