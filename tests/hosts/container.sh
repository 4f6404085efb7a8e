# A container as batch systems start one: root file system read-only, no home, a foreign uid, loopback alone.
# Usage, inside `unshare --mount --net`: container.sh WRITABLE PYTHON_HOME COMMAND...; WRITABLE is seen as /mnt.
set -e
writable=$1 python_home=$2
shift 2
ip link set lo up
mount --bind "$writable" /mnt
# An interpreter in a home that nobody else may enter, such as root's: that home holds nothing but it.
home=$(cd "$python_home" && while [ "$PWD" != / ]; do [ $(($(stat -c 0%a .) & 1)) = 1 ] || closed=$PWD; cd ..; done; echo "$closed")
if [ -n "$home" ]; then
    kept=$(mktemp -d -p /mnt)
    mount --bind "$python_home" "$kept"
    mount -t tmpfs -o mode=755 tmpfs "$home"
    mkdir -p "$python_home"
    mount --bind "$kept" "$python_home"
    umount "$kept"
    rmdir "$kept"
fi
for place in /tmp /var "$PWD"; do
    mount --bind "$place" "$place"
    mount -o remount,ro,bind "$place"
done
exec setpriv --reuid 12345 --regid 12345 --clear-groups env -i "PATH=$PATH" "PYTHONPATH=$PWD" LANG=C.UTF-8 \
    HOME=/nonexistent FAIRFACE_CACHE_DIR=/mnt/cache "$@"
