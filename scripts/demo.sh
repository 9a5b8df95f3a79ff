#!/usr/bin/env bash
# The whole product on real files: packs the sources of this project's own dependencies, makes a small random model with
# the real tokenizer, embeds, verifies, and shows what came out. Starts anew each time. Arguments: the folder of the
# binaries (gristmill, gristmill-worker, neighbours), and --all for every dependency: more than 10,000 files.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'demo: %s\n' "$1" >&2; exit 1; }
step() { printf '\n%s\n' "== $1"; }
usage="usage: scripts/demo.sh BIN [--all], BIN being the folder of the binaries: target/release"
bin=${1:-}
[ -n "$bin" ] || die "$usage"
case "${2:-}" in --all) most_bytes= ;; "") most_bytes=300000 ;; *) die "$usage" ;; esac
for program in gristmill gristmill-worker neighbours; do
  [ -x "$bin/$program" ] || die "$bin/$program is missing; build it with: cargo build --release --workspace"
done
command -v python3 >/dev/null 2>&1 || die "python3 is missing; install it with: apt-get install -y python3"

# The folders of all packages of the lock file, on this platform or not; without --all those of at most so many bytes.
packages() {
  cargo metadata --format-version 1 --locked | python3 -c '
import json, os, sys
most = int(sys.argv[1]) if sys.argv[1] else float("inf")
for package in sorted(json.load(sys.stdin)["packages"], key=lambda p: p["manifest_path"]):
    root = os.path.dirname(package["manifest_path"])
    files = (os.path.join(folder, file) for folder, _, names in os.walk(root) for file in names)
    if package["source"] and sum(map(os.path.getsize, files)) <= most:
        print(root)
' "$most_bytes"
}

start=$SECONDS
rm -rf .demo
mkdir -p .demo
step "pack: the sources of this project's dependencies"
cargo fetch --quiet --locked
mapfile -t trees < <(packages)
[ "${#trees[@]}" -gt 0 ] || die "cargo metadata names no dependency's sources"
"$bin/gristmill" pack "${trees[@]}" --output .demo/corpus.parquet

step "model new: a small random model with the real tokenizer"
"$bin/gristmill" model new --shape tiny --tokenizer assets/qwen2.5-tokenizer/tokenizer.json.gz --seed 1 --output .demo/model

step "embed"
"$bin/gristmill" embed .demo/corpus.parquet --model .demo/model --output .demo/vectors --max-tokens 256

step "verify: every row of the corpus stands in the output exactly once"
"$bin/gristmill" verify .demo/vectors --input

step "what came out: .demo/vectors/*.parquet"
"$bin/neighbours" .demo/vectors
printf '\nThe model is random: near are files that share tokens, not those that mean the same. %d seconds.\n' $((SECONDS - start))
