#!/usr/bin/env bash
# A tree of a million small files: seconds of the processor and of the clock, memory and size of packing
# with s3a, tar and mksquashfs, and what listing it through each mount takes. Prints rows for
# docs/results/million.csv.
#
#   benches/million.sh [FOLDER [FILES]]
#
# The tree is made in FOLDER (a new one by default) and stays there if FOLDER is given. Needs GNU time,
# python3, bc, mksquashfs, squashfuse or root for its mount, and a release build of s3a (or S3A_BINARY).
set -euo pipefail
cd "$(dirname "$0")/.."
s3a=${S3A_BINARY:-$PWD/target/release/s3a}
folder=${1:-$(mktemp -d)}
files=${2:-1000000}
[[ $# -gt 0 ]] || trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"
cd "$folder"

# Files of 40 to 400 bytes of text, most of them different, in folders of about a hundred.
[[ -d tree ]] || python3 - "$files" <<'END'
import os, random, sys
draw = random.Random(1)
words = [''.join(draw.choice('etaoinshrdlucmfw') for _ in range(draw.randint(2, 9))) for _ in range(4000)]
kinds = ['.txt', '.json', '.log', '.py', '.html', '']
for number in range(int(sys.argv[1])):
    if number % 100 == 0:
        path = 'tree/%02x/%03d-%s' % (number // 100 % 97, number // 100, draw.choice(words))
        os.makedirs(path)
    name = '%s_%s%d%s' % (draw.choice(words), draw.choice(words), number % 1000, draw.choice(kinds))
    text = ' '.join(draw.choice(words) for _ in range(draw.randint(6, 60)))
    with open(os.path.join(path, name), 'w') as file:
        file.write(text + '\n')
    if number % 3 == 0:
        moment = 1600000000 * 10**9 + draw.randrange(10**17)
        os.utime(os.path.join(path, name), ns=(moment, moment))
END

# measure COMMAND...: seconds of the processor and of the clock into $seconds, KiB into $memory.
measure() {
  /usr/bin/time -f '%U %S %e %M' -o time.txt "$@" >out.txt 2>&1
  read -r user system clock memory <time.txt
  seconds=$(bc <<<"$user + $system"),$clock
}
size() { stat -c %s "$1"; }
row() { printf '%s,%s,%s,%s,%s,%s,%s\n' "$@"; }
row program files cpu_seconds,seconds memory_kib bytes metadata_bytes what

find tree -type f >/dev/null # The same cache for all.
measure tar -cf tree.tar tree
row tar "$files" "$seconds" "$memory" "$(size tree.tar)" "" pack
rm -f tree.sqfs tree.s3a
measure mksquashfs tree tree.sqfs -comp zstd -Xcompression-level 19 -b 16k -processors 2 -no-progress
metadata=$(sed -n 's/^\(Inode\|Directory\) table size \([0-9]*\) bytes.*/\2/p' out.txt | paste -sd+ | bc)
row mksquashfs "$files" "$seconds" "$memory" "$(size tree.sqfs)" "$metadata" pack
measure "$s3a" pack tree -o tree.s3a --model none -q
metadata=$("$s3a" info --json tree.s3a | python3 -c 'import json,sys; print(json.load(sys.stdin)["metadata_bytes"])')
row s3a "$files" "$seconds" "$memory" "$(size tree.s3a)" "$metadata" pack
measure "$s3a" ls tree.s3a
row s3a "$files" "$seconds" "$memory" "" "" ls
measure "$s3a" verify --fast tree.s3a
row s3a "$files" "$seconds" "$memory" "" "" "verify --fast"
rm -rf out
measure "$s3a" unpack tree.s3a -C out -q
row s3a "$files" "$seconds" "$memory" "" "" unpack
rm -rf out

mkdir -p mnt
measure "$s3a" mount tree.s3a mnt
row s3a "$files" "$seconds" "" "" "" "mount until ready"
daemon=$(pgrep -n -f "s3a mount tree.s3a mnt" || true)
measure ls -lR mnt
memory=$(awk '/VmHWM/ {print $2}' "/proc/$daemon/status" 2>/dev/null || echo "")
row s3a "$files" "$seconds" "$memory" "" "" "ls -lR through the mount"
"$s3a" umount mnt
if mount -o loop,ro tree.sqfs mnt 2>/dev/null; then
  measure ls -lR mnt
  row mksquashfs "$files" "$seconds" "" "" "" "ls -lR through the kernel's mount"
  umount mnt
elif command -v squashfuse >/dev/null; then
  squashfuse tree.sqfs mnt
  measure ls -lR mnt
  row mksquashfs "$files" "$seconds" "" "" "" "ls -lR through squashfuse"
  fusermount -u mnt
fi
measure ls -lR tree
row none "$files" "$seconds" "" "" "" "ls -lR of the tree itself"
