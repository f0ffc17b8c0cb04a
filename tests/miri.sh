#!/usr/bin/env bash
# Runs the parsers, the range coder, the tokenizer and the matcher under Miri, which finds undefined
# behavior, for this machine and for others: big-endian, 32 bits, ARM. Prints rows for
# docs/results/miri.csv.
#
#   tests/miri.sh [-t TESTS] [TARGET...]
#
# -t names the tests to run, by parts of their names; all together take an hour or so. A target may
# end in +avx2, for the vector kernels. Needs a nightly toolchain with the components miri and
# rust-src. Miri runs no C, so tests that pack or unpack with zstd are left out, and C need not be
# compiled for other machines: what stands in for the compiler makes empty objects.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
host=$(rustc -vV | sed -n 's/host: //p')
tests=(payloads_are_these wire:: coder:: archive::path:: archive::path_set:: archive::pack::order archive::tar
  model::tokens model::matcher model::config kernels::buffer)
while getopts t: option; do
  case $option in
    t) read -ra tests <<<"$OPTARG" ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
targets=("$@")
((${#targets[@]})) || targets=("$host" "$host+avx2" s390x-unknown-linux-gnu i686-unknown-linux-gnu
  aarch64-unknown-linux-gnu)
left_out=(--skip wire::zstd_raw --skip wire::frame --skip packed --skip paths_longer_than_path_max --skip symlinks_are_not_followed)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/miri PROPTEST_CASES=${PROPTEST_CASES:-4}
mkdir -p "$CARGO_TARGET_DIR"
export CC=$CARGO_TARGET_DIR/no-cc CARGO_FEATURE_PURE=1 CARGO_PROFILE_DEV_DEBUG=0
cat >"$CC" <<'SH'
#!/bin/sh
case " $* " in *" -c "*) ;; *) exec cc "$@" ;; esac
while [ $# -gt 0 ]; do
  if [ "$1" = -o ]; then out=$2; fi
  shift
done
exec cc -c -x c /dev/null -o "$out"
SH
chmod +x "$CC"
flags=${MIRIFLAGS:--Zmiri-disable-isolation}

echo target,passed,failed,seconds,date,commit
failed=0
for target in "${targets[@]}"; do
  log=$CARGO_TARGET_DIR/$target.log start=$(date +%s)
  triple=${target%+*} features="" what=("${tests[@]}")
  if [[ $triple != "$target" ]]; then features=-Ctarget-feature=+avx2,+popcnt what=(what_this_cpu_can_run_passes); fi
  miri=(cargo +nightly miri test --target "$triple" --no-default-features --lib
    --config 'profile.dev.package."*".opt-level=0' --)
  # A name that fits no test any more is a mistake here, and would pass unseen.
  listed=$(MIRIFLAGS=$flags RUSTFLAGS=$features "${miri[@]}" --list "${left_out[@]}" 2>"$log") || failed=1
  for name in "${what[@]}"; do
    if ! grep -qF -- "$name" <<<"$listed"; then echo "no test is called $name" | tee -a "$log" >&2 && failed=1; fi
  done
  MIRIFLAGS=$flags RUSTFLAGS=$features "${miri[@]}" "${what[@]}" "${left_out[@]}" >>"$log" 2>&1 || failed=1
  read -r passed wrong < <(sed -n 's/^test result: .*\. \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$log" | tail -1)
  echo "$target,${passed:-none},${wrong:-none},$(($(date +%s) - start)),$(date +%F),$(git rev-parse --short HEAD)"
done
exit $failed
