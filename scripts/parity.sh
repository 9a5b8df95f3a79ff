#!/usr/bin/env bash
# Compares the product's vectors with the PyTorch reference of tests/reference, in an environment of its own that is kept
# under the cache by the hash of its requirements. Arguments: the folder of the binaries, then options for tests/reference/parity.py
# (--count, --seed, --threads), or `golden` to write tests/data/golden anew.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'parity: %s\n' "$1" >&2; exit 1; }
bin=${1:-}
for program in gristmill gristmill-worker; do
  [ -x "$bin/$program" ] || die "usage: scripts/parity.sh BIN [golden | OPTIONS], BIN holding gristmill and gristmill-worker: target/debug"
done
shift
python3 -c 'import venv, ensurepip' 2>/dev/null || die "Python's venv is missing; install it with: apt-get install -y python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed, this is $(python3 --version)"

hash=$(sha256sum tests/reference/requirements.txt | cut -c1-16)
home="${GRISTMILL_CACHE:-$HOME/.cache/gristmill}/parity-$hash"
if [ ! -f "$home/complete" ]; then
  echo "parity: installing torch and transformers into $home (about 2.8 GB to fetch, 5 GB on disk)" >&2
  rm -rf "$home"
  python3 -m venv "$home"
  "$home/bin/python" -m pip install -q --disable-pip-version-check --no-cache-dir --no-deps -r tests/reference/requirements.txt >&2
  touch "$home/complete"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gzip -dc assets/qwen2.5-tokenizer/tokenizer.json.gz > "$work/tokenizer.json"
if [ "${1:-}" = golden ]; then
  "$home/bin/python" tests/reference/golden.py --gristmill "$bin/gristmill" --tokenizer "$work/tokenizer.json"
  exit
fi
"$home/bin/python" tests/reference/parity.py --gristmill "$bin/gristmill" --worker "$bin/gristmill-worker" \
  --tokenizer "$work/tokenizer.json" --texts "${CARGO_HOME:-$HOME/.cargo}/registry/src" "$@"
