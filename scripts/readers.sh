#!/usr/bin/env bash
# Opens the product's output with readers that nobody here wrote, and holds its token ids against Python's tokenizers, in an
# environment of its own that is kept under the cache by the hash of its requirements. Arguments: the folder of the binaries
# (gristmill, gristmill-worker, tokens); with a Parquet corpus behind it, only the tokens of that corpus are checked.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'readers: %s\n' "$1" >&2; exit 1; }
bin=${1:-}
[ -n "$bin" ] || die "usage: scripts/readers.sh BIN [CORPUS.parquet], BIN being the folder of the binaries: target/debug"
for program in gristmill gristmill-worker tokens; do
  [ -x "$bin/$program" ] || die "$bin/$program is missing; build it with: cargo build --workspace --bins"
done
command -v python3 >/dev/null 2>&1 || die "python3 is missing; install it with: apt-get install -y python3"
python3 -c 'import venv, ensurepip' 2>/dev/null || die "Python's venv is missing; install it with: apt-get install -y python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed, this is $(python3 --version)"

hash=$(sha256sum tests/interop/requirements.txt | cut -c1-16)
home="${GRISTMILL_CACHE:-$HOME/.cache/gristmill}/readers-$hash"
if [ ! -f "$home/complete" ]; then
  echo "readers: installing pyarrow, duckdb, polars and tokenizers into $home (about 155 MB to fetch, 500 MB on disk)" >&2
  rm -rf "$home"
  python3 -m venv "$home"
  "$home/bin/python" -m pip install -q --disable-pip-version-check --no-cache-dir --no-deps --only-binary=:all: \
    -r tests/interop/requirements.txt >&2
  touch "$home/complete"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gzip -dc assets/qwen2.5-tokenizer/tokenizer.json.gz > "$work/tokenizer.json"
if [ -n "${2:-}" ]; then
  "$home/bin/python" tests/interop/tokens.py --tokens "$bin/tokens" --tokenizer "$work/tokenizer.json" "$2"
  exit
fi

# The sources of a few dependencies: Rust and C, tables of Unicode, prose, empty files, lines without end.
names='anyhow cc half memchr ryu tokenizers zstd-safe'
mapfile -t trees < <(cargo metadata --format-version 1 --locked | python3 -c '
import json, os, sys
names = set(sys.argv[1].split())
for package in json.load(sys.stdin)["packages"]:
    if package["source"] and package["name"] in names:
        print(os.path.dirname(package["manifest_path"]))
' "$names")
[ "${#trees[@]}" -ge 6 ] || die "cargo metadata names too few of: $names"
mkdir "$work/sources"
"$bin/gristmill" pack "${trees[@]:0:3}" --output "$work/sources/first.parquet"
"$bin/gristmill" pack "${trees[@]:3}" --output "$work/sources/second.parquet"

"$home/bin/python" tests/interop/tokens.py --tokens "$bin/tokens" --tokenizer "$work/tokenizer.json" "$work"/sources/*.parquet
"$home/bin/python" tests/interop/readers.py --bin "$bin" --tokenizer "$work/tokenizer.json" --work "$work"
