#!/usr/bin/env bash
# NVIDIA's compute-sanitizer on the kernel: the test of equality with the CPU, on few chunks, since it is slow.
# `tests/sanitizer.sh [TOOL...]` runs memcheck (accesses out of bounds), racecheck (shared memory without a barrier) and
# synccheck (barriers that not all come to), or the tools that are named. It says so if there is none, or no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
sanitizer=$(command -v compute-sanitizer || true)
for folder in /usr/local/cuda/bin /opt/cuda/bin; do
  [[ -n $sanitizer || ! -x $folder/compute-sanitizer ]] || sanitizer=$folder/compute-sanitizer
done
if [[ -z $sanitizer ]]; then
  echo "skipped: compute-sanitizer is not installed (it comes with the CUDA toolkit)"
  exit 0
fi
(($#)) || set -- memcheck racecheck synccheck
# The path of the test program is what cargo says of the one that it has built.
program=$(cargo test --release --test gpu --no-run --message-format=json 2>/dev/null |
  grep -o '"executable":"[^"]*/gpu-[^"]*"' | tail -n 1 | cut -d '"' -f 4)
for tool; do
  echo "== $tool"
  S3A_GPU_CHUNKS="${S3A_GPU_CHUNKS:-40}" "$sanitizer" --tool "$tool" --error-exitcode 99 \
    "$program" --exact a_gpu_equals_the_cpu --nocapture
done
