#!/usr/bin/env bash
# Runs the measurements that the README quotes and keeps what they print under bench/results/. Arguments: the folder of the
# binaries, then the measurements to run: true_size, memory; both by default.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${1:-}
if [ ! -x "$bin/gristmill" ] || [ ! -x "$bin/gristmill-worker" ]; then
  echo "usage: scripts/bench.sh BIN [true_size] [memory], BIN being the folder of the binaries: target/release" >&2
  exit 1
fi
command -v python3 >/dev/null 2>&1 || { echo "bench: python3 is missing; install it with: apt-get install -y python3" >&2; exit 1; }
shift
[ $# -gt 0 ] || set -- true_size memory
mkdir -p bench/results
for what in "$@"; do
  [ -x "bench/$what.sh" ] || { echo "bench: there is no measurement $what; there are: true_size, memory" >&2; exit 1; }
  "bench/$what.sh" "$bin" | tee "bench/results/$what.txt.new"
  mv "bench/results/$what.txt.new" "bench/results/$what.txt"
done
