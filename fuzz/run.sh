#!/usr/bin/env bash
# Runs fuzz targets under libFuzzer, guided by coverage, each for a number of executions or seconds,
# whichever ends first, and prints rows for docs/results/fuzzing.csv.
#
#   fuzz/run.sh [-n EXECUTIONS] [-t SECONDS] [-s SANITIZER] [-q] [-b] [TARGET...]
#
# Each begins with its seeds (tests/bodies) and its corpus (fuzz/corpus/TARGET.tar.xz, unpacked
# under fuzz/target); afterwards the corpus is reduced to what covers the same, and replaced by
# that. -b uses the targets that a run before has built. -q is for many executions after runs
# without it: comparisons are not traced and rare features not preferred, which takes up to two
# thirds of the time. Needs a nightly toolchain and cargo-fuzz. An input that fails is kept under
# fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
executions=10000000 seconds=600 sanitizer=none build=1 quick=
while getopts n:t:s:bq option; do
  case $option in
    n) executions=$OPTARG ;;
    t) seconds=$OPTARG ;;
    s) sanitizer=$OPTARG ;;
    b) build= ;;
    q) quick=1 ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
targets=("$@")
((${#targets[@]})) || targets=(header index chunk coder model_file open_then_read_all path roundtrip tar)

# Longest input: room for the seeds of the target, and no more, since short ones run faster.
longest() {
  case $1 in
    model_file) echo 24000 ;;
    open_then_read_all | tar) echo 6144 ;;
    index | chunk) echo 4096 ;;
    roundtrip) echo 60 ;;
    *) echo 512 ;;
  esac
}

# Unpacks the corpus of a target into $work/kept; a new target has none.
unpack() {
  rm -rf "$work/kept/$1" && mkdir -p "$work/kept/$1"
  if [[ -e fuzz/corpus/$1.tar.xz ]]; then tar -xJf "fuzz/corpus/$1.tar.xz" -C "$work/kept/$1"; fi
}

# Packs some of the reduced corpus, which stays whole under fuzz/target: 120 inputs of all sizes,
# without the largest that would make it more than 90 KB. The same inputs give the same file.
keep() {
  rm -rf "$work/kept/$1" && mkdir -p "$work/kept/$1"
  find "$work/$1.merged" -type f -printf '%s %p\n' | sort -n |
    awk '{line[NR] = $0} END {step = NR > 120 ? NR / 120 : 1; for (i = 1; i <= NR; i += step) print line[int(i)]}' |
    awk '{sum += $1; if (sum > 90000) exit; print $2}' | xargs -r cp -t "$work/kept/$1"
  find "$work/kept/$1" -type f -printf '%P\n' | LC_ALL=C sort |
    tar --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 -C "$work/kept/$1" -cf - -T - |
    xz -9e >"fuzz/corpus/$1.tar.xz"
}

work=fuzz/target/corpus
binaries=fuzz/target/fuzzers-$sanitizer
if [[ $build ]]; then
  cargo +nightly fuzz build --fuzz-dir fuzz -s "$sanitizer" ${quick:+--no-trace-compares} >&2
  mkdir -p "$binaries"
  for target in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$target" .rs)
    cp "fuzz/target/$(rustc -vV | sed -n 's/host: //p')/release/$name" "$binaries/"
  done
  S3A_FUZZ_SEEDS=$PWD/$work/seeds cargo test --release --test fuzz seeds_are_written_out -- --ignored >&2
fi
commit=$(git rev-parse --short HEAD)
machine=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)

echo target,sanitizer,executions,seconds,edges,features,corpus_files,corpus_bytes,peak_mib,failures,machine,date,commit
for target in "${targets[@]}"; do
  log=$work/$target.log
  mkdir -p "$work/seeds/$target" "$work/$target" "fuzz/artifacts/$target"
  start=$(date +%s) failures=0
  "$binaries/$target" -runs="$executions" -max_total_time="$seconds" -max_len="$(longest "$target")" \
    -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 ${quick:+-entropic=0} \
    -artifact_prefix="fuzz/artifacts/$target/" \
    "$work/$target" "$work/kept/$target" "$work/seeds/$target" >"$log" 2>&1 || failures=1
  took=$(($(date +%s) - start))
  executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
  read -r edges features < <(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 \2/p' "$log" | tail -1)
  # Nothing is lost if the merge is cut off: the old corpus goes only when the new one is there.
  rm -rf "$work/$target.merged" && mkdir "$work/$target.merged"
  if "$binaries/$target" -set_cover_merge=1 -max_len="$(longest "$target")" "$work/$target.merged" \
    "$work/$target" "$work/kept/$target" "$work/seeds/$target" >>"$log" 2>&1; then
    keep "$target"
  fi
  files=$(find "$work/kept/$target" -type f | wc -l)
  bytes=$(find "$work/kept/$target" -type f -printf '%s\n' | awk '{sum += $1} END {print sum + 0}')
  printf '%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,"%s",%s,%s\n' "$target" "$sanitizer${quick:+ (-q)}" "${executed:-0}" "$took" \
    "${edges:-0}" "${features:-0}" "$files" "$bytes" "${peak:-0}" "$failures" "$machine" "$(date +%F)" "$commit"
done
