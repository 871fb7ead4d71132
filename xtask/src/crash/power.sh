#!/bin/sh
# power.sh make|cut|mend|end SLOT...: for each node a file system of its own in a file, below $CRASH_DIR, and its loss of power.
#
#   make   a new ext4 of $CRASH_MIB MiB, mounted at data/nodeSLOT
#   cut    the file system stops at once and writes nothing more, neither data nor journal (FS_IOC_SHUTDOWN, NOLOGFLUSH)
#   mend   unmounted and mounted again: the journal is replayed, what was in the page cache is gone
#   end    unmounted and removed
set -eu
dir="$CRASH_DIR"
word="$1"
shift

for slot in "$@"; do
    image="$dir/$slot.img"
    place="$dir/data/node$slot"
    case "$word" in
    make)
        mkdir -p "$place"
        truncate -s "${CRASH_MIB:-192}M" "$image"
        mkfs.ext4 -q -F "$image"
        mount -o loop "$image" "$place"
        ;;
    cut)
        python3 -c '
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack("I", 2))
' "$place"
        ;;
    mend)
        # The kernel takes the io_uring of a killed process apart after the process is gone.
        tries=100
        until umount "$place" 2>/dev/null; do
            tries=$((tries - 1))
            if [ "$tries" = 0 ]; then
                umount "$place"
                break
            fi
            sleep 0.1
        done
        mount -o loop "$image" "$place"
        ;;
    end)
        umount "$place" 2>/dev/null || umount -l "$place" 2>/dev/null || true
        rm -f "$image"
        ;;
    *)
        echo "power.sh: make, cut, mend or end" >&2
        exit 2
        ;;
    esac
done
