#!/usr/bin/env bash
# Peak memory over a large corpus: 1 GB of text made from a seed, `tiny`, --max-tokens 128. Every process must stay below its
# weights + 1.5 GiB. Arguments: the folder of the binaries; BYTES and THREADS in the environment change what runs. Needs about
# 3 GB on the disk of TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/machine.sh
bin=${1:-}
[ -x "$bin/gristmill" ] || die "usage: bench/memory.sh BIN, BIN being the folder of the binaries: target/release"
bytes=${BYTES:-1000000000} threads=${THREADS:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Files of 1 to 60 kB and some of 10 MB, of words that look like code, all from one seed.
python3 - "$work/text" "$bytes" <<'PYTHON'
import os, random, sys
root, left = sys.argv[1], int(sys.argv[2])
draw = random.Random(7)
words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz_", k=draw.randint(2, 11))) for _ in range(20000)]
signs = [" ", " = ", "(", ")", ";\n", "\n    ", ".", ", ", " -> ", "[0]", "\n\n", "123"]
block = "".join(draw.choice(words) + draw.choice(signs) for _ in range(400_000))
number = 0
while left > 0:
    size = min(left, 10_000_000 if number % 4000 == 3999 else draw.randint(1_000, 60_000))
    start = draw.randrange(len(block))
    text = f"// {number}\n" + (block[start:] + block * (size // len(block) + 1))[:size]
    folder = os.path.join(root, f"{number // 1000:04}")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f"{number}.rs"), "w") as file:
        file.write(text[:size])
    left -= size
    number += 1
PYTHON
"$bin/gristmill" model new --shape tiny --tokenizer assets/qwen2.5-tokenizer/tokenizer.json.gz --seed 1 --output "$work/model" >"$work/made"
weights=$(($(du -c --apparent-size --block-size=1M "$work"/model/*.safetensors | tail -1 | cut -f1)))
limit=$((weights + 1536))

describe "$bin" "bench/memory.sh BIN"
printf 'model         tiny, %s MiB of weights\nsettings      --max-tokens 128 --threads %s\nlimit         %s MiB a process\n\n' "$weights" "$threads" "$limit"
with_peaks "$work/pack" "$bin/gristmill" pack "$work/text" --output "$work/corpus.parquet"
rm -rf "$work/text"
with_peaks "$work/embed" "$bin/gristmill" embed "$work/corpus.parquet" --model "$work/model" --output "$work/vectors" \
  --max-tokens 128 --threads "$threads" --json >"$work/events"
tail -1 "$work/events"
with_peaks "$work/verify" "$bin/gristmill" verify "$work/vectors" --input
failed=0
printf '\n%-8s %-18s %10s %14s\n' command process 'peak MiB' 'anonymous MiB'
for command in pack embed verify; do
  while read -r name peak anonymous; do
    printf '%-8s %-18s %10s %14s\n' "$command" "$name" "$peak" "$anonymous"
    [ "$peak" -le "$limit" ] || failed=1
  done <"$work/$command"
done
[ "$failed" = 0 ] || { echo "over the limit of $limit MiB"; exit 1; }
echo "every process stayed below $limit MiB"
