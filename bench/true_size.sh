#!/usr/bin/env bash
# Tokens per second and peak memory at the true size: a random c2llm-0.5b over the first files, in order of their path, of the
# largest sources among this project's dependencies, in bfloat16 and in float32. Arguments: the folder of the binaries; SHAPE,
# FILES, MAX_TOKENS, THREADS and MORE (options for `model new`) in the environment change what runs.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/machine.sh
bin=${1:-}
[ -x "$bin/gristmill" ] || die "usage: bench/true_size.sh BIN, BIN being the folder of the binaries: target/release"
shape=${SHAPE:-c2llm-0.5b} files=${FILES:-120} max_tokens=${MAX_TOKENS:-512} threads=${THREADS:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo fetch --quiet --locked
tree=$(cargo metadata --format-version 1 --locked | python3 -c '
import json, os, sys
print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "tokio" and p["source"]))')
"$bin/gristmill" pack "$tree" --output "$work/corpus.parquet" 2>"$work/packed"
# shellcheck disable=SC2086 # several options
"$bin/gristmill" model new --shape "$shape" ${MORE:-} --tokenizer assets/qwen2.5-tokenizer/tokenizer.json.gz --seed 1 \
  --output "$work/model" >"$work/made"

describe "$bin" "bench/true_size.sh BIN"
printf 'model         %s %s, random, %s of bfloat16 weights\n' "$shape" "${MORE:-}" "$(du -h --apparent-size "$work"/model/*.safetensors | tail -1 | cut -f1)"
printf 'corpus        the first %s files of %s\n' "$files" "$(basename "$tree")"
printf 'settings      --max-tokens %s --threads %s\n\n' "$max_tokens" "$threads"
printf '%-8s %8s %8s %10s %12s %14s %16s %18s\n' compute rows tokens 'encode s' 'tokens/s' 'wall s' 'worker peak MiB' 'of that anonymous'
for compute in bf16 f32; do
  with_peaks "$work/peaks" "$bin/gristmill" embed "$work/corpus.parquet" --model "$work/model" --output "$work/$compute" \
    --limit "$files" --max-tokens "$max_tokens" --threads "$threads" --compute "$compute" --json >"$work/events"
  python3 - "$work/events" "$work/peaks" "$compute" <<'PYTHON'
import json, sys
summary = json.loads(open(sys.argv[1]).readlines()[-1])
run = summary["run"]
worker = max((line.split() for line in open(sys.argv[2]) if "worker" in line), key=lambda f: int(f[1]))
rate = summary["tokens"] / run["encode_s"]
print(f"{sys.argv[3]:8} {summary['rows']:8} {summary['tokens']:8} {run['encode_s']:10.1f} {rate:12.1f} {run['seconds']:14.1f} {worker[1]:>16} {worker[2]:>18}")
PYTHON
done
