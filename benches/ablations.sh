#!/usr/bin/env bash
# Small trainings that differ in one thing each, for docs/results/ablations.csv: what a folder takes that was
# not trained on, in chunks of 16 KiB that stand alone.
#
#   benches/ablations.sh TRAIN... -- FOLDER
#
# S3A names the program (default: target/release/s3a), STEPS the steps of 4,096 tokens (default: 220), FIRST the
# row to begin with.
set -euo pipefail
s3a=${S3A:-target/release/s3a} steps=${STEPS:-220} first=${FIRST:-1}
train=()
while [[ $1 != -- ]]; do train+=("$1"); shift; done
folder=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
raw=$(find "$folder" -type f -printf '%s\n' | awk '{sum += $1} END {print sum}')

# what|options. Multiply-adds are counted with the full window.
rows='S: the sizes of small|
S, window 32|--window 32
S, window 64|--window 64
S, window 256|--window 256
S, two heads|--heads 2
S, eight heads|--heads 8
S, two heads of keys and values|--kv-heads 2
S, four heads of keys and values (none shared)|--kv-heads 4
S, one layer|--layers 1
S, three layers|--layers 3
S, four layers of width 96|--layers 4 --width 96 --heads 3 --ff 288
S, one layer of width 192|--layers 1 --width 192 --heads 6 --ff 576
S, feed-forward of twice the width|--ff 256
S, feed-forward of four times the width|--ff 512
S, vocabulary of 512|--vocab 512
S, vocabulary of 2048|--vocab 2048
S, the rate falls over the last fifth|--decay 20
S, the rate falls all the time|--decay 100
S, half the rate|--rate 0.5
S, twice the rate|--rate 2
S, token dropout of a tenth|--token-dropout 0.1'
number=0
while IFS='|' read -r what options; do
  number=$((number + 1))
  ((number >= first)) || continue
  start=$(date +%s)
  # shellcheck disable=SC2086
  "$s3a" train "${train[@]}" -o "$work/m.safetensors" --steps "$steps" --sequences 8 --warm-up 20 --every "$steps" \
    --seed 1 -j 1 -q $options </dev/null
  seconds=$(($(date +%s) - start))
  rm -f "$work/a.s3a"
  "$s3a" pack "$folder" -o "$work/a.s3a" --model "$work/m.safetensors" --chunk-size 16k --references 0 \
    --no-check -q -j 1 </dev/null
  bytes=$(stat -c %s "$work/a.s3a")
  python3 - "$what" "$work/m.safetensors" "$((steps * 4096))" "$seconds" "$bytes" "$raw" "$folder" <<'P'
import json, os, struct, sys
what, path, tokens, seconds, size, raw, folder = sys.argv[1:]
data = open(path, "rb").read()
head = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
c = json.loads(head["__metadata__"]["s3a"])
def tensor(name):
    begin, end = head[name]["data_offsets"]
    return data[len(data) - max(t["data_offsets"][1] for n, t in head.items() if n != "__metadata__"):][begin:end]
# Bytes of a token, taking the longest each time.
known, at, words = tensor("vocab.bytes"), 0, set()
for length in tensor("vocab.lengths"):
    words.add(known[at:at + length])
    at += length
longest, count, taken = max(map(len, words)), 0, 0
for root, _, names in os.walk(folder):
    for name in sorted(names)[:4]:
        text = open(os.path.join(root, name), "rb").read()[:4000]
        taken, at = taken + len(text), 0
        while at < len(text):
            at += next((n for n in range(longest, 1, -1) if text[at:at + n] in words), 1)
            count += 1
inner = c["heads"] * c["head_size"]
qkv = inner + 2 * c["kv_heads"] * c["head_size"]
slots = len(c["orders"]) + len(c["seconds"])
layer = c["width"] * (qkv + inner + 2 * c["ff"]) + 2 * c["window"] * inner
macs = c["layers"] * layer + c["width"] * (c["vocab"] + slots)
per_token = taken / count
print(f'"{what}",{c["vocab"]},{per_token:.3f},{macs},{macs / per_token:.0f},{tokens},{seconds},{int(size) * 8 / int(raw):.4f}', flush=True)
P
  rm -f "$work"/m.*
done <<<"$rows"
