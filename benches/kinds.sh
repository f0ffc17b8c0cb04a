#!/usr/bin/env bash
# Sizes by kind of data: each directory of KINDS (two levels down where the first has no files) packed alone.
#
#   benches/kinds.sh S3A KINDS [OPTION...] > docs/results/kinds.csv
#
# S3A is the program, OPTIONs go to `s3a pack`. SquashFS (128 KiB and 1 MiB, xz), xz -9e and 7z's PPMd of a tar are measured
# beside it where they are installed. Sizes do not depend on the machine, so it may be busy.
set -euo pipefail
s3a=$1 kinds=$2
shift 2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
seven=$(command -v 7z || command -v 7zz || true)

squash() {
  command -v mksquashfs >/dev/null || return 0
  rm -f "$scratch/sq"
  mksquashfs "$1" "$scratch/sq" -comp xz -b "$2" -processors 1 -no-xattrs -all-root -quiet -no-progress >/dev/null
  stat -c %s "$scratch/sq"
}
ppmd() {
  [[ -n $seven ]] || return 0
  rm -f "$scratch/p.7z"
  (cd "$1" && "$seven" a -m0=ppmd:o=16:mem=256m -ms=on "$scratch/p.7z" . >/dev/null)
  stat -c %s "$scratch/p.7z"
}

mapfile -t directories < <(
  for top in "$kinds"/*/; do
    if [[ -n $(find "$top" -maxdepth 1 -type f -print -quit) ]]; then echo "$top"; else printf '%s\n' "$top"*/; fi
  done
)
echo "kind,bytes,s3a,squashfs_128k,squashfs_1m,xz_9e,7z_ppmd"
for directory in "${directories[@]}"; do
  directory=${directory%/}
  bytes=$(find "$directory" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }')
  "$s3a" pack "$directory" -f -q -o "$scratch/a.s3a" --no-check "$@"
  own=$(stat -c %s "$scratch/a.s3a")
  xz=$(tar -C "$directory" --sort=name -c . | xz -9e -c | wc -c)
  echo "${directory#"$kinds"/},$bytes,$own,$(squash "$directory" 128K),$(squash "$directory" 1M),$xz,$(ppmd "$directory")"
done
