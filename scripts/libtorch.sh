#!/usr/bin/env bash
# Fetches the pinned libtorch wheels by hash, unpacks the CPU part into a cache keyed by the lock's hash, and links
# third_party/libtorch to it. With LIBTORCH set, checks that folder instead and fetches nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
version=2.11.0

die() { printf 'libtorch: %s\n' "$1" >&2; exit 1; }
need() { command -v "$1" >/dev/null 2>&1 || die "$1 is missing; install it with: apt-get install -y $2"; }

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "only Linux on x86-64 is supported, this is $(uname -s) on $(uname -m)"
need g++ g++
need make make

if [ -n "${LIBTORCH:-}" ]; then
  header="$LIBTORCH/include/torch/headeronly/version.h"
  [ -f "$header" ] || [ -d "$LIBTORCH/include/torch" ] || die "LIBTORCH=$LIBTORCH holds no include/torch; name the folder that has include/ and lib/"
  [ -f "$LIBTORCH/lib/libtorch_cpu.so" ] || die "LIBTORCH=$LIBTORCH holds no lib/libtorch_cpu.so"
  found=$(awk '/define TORCH_VERSION_(MAJOR|MINOR|PATCH) /{v = v sep $3; sep = "."} END {print v}' "$header" 2>/dev/null || true)
  [ "$found" = "$version" ] || die "LIBTORCH=$LIBTORCH is version ${found:-unknown}, but $version is needed; unset LIBTORCH to have the right one fetched"
  exit 0
fi

need unzip unzip
need python3 python3
python3 -m pip --version >/dev/null 2>&1 || die "pip is missing; install it with: apt-get install -y python3-pip"
python3 -c 'import venv, ensurepip' 2>/dev/null || die "Python's venv is missing; install it with: apt-get install -y python3-venv"

hash=$(sha256sum scripts/libtorch.lock | cut -c1-16)
home="${GRISTMILL_CACHE:-$HOME/.cache/gristmill}/libtorch/$hash"
if [ ! -f "$home/complete" ]; then
  mkdir -p "$home"
  work=$(mktemp -d "$home/unpack.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "libtorch: fetching the wheels of torch $version (about 545 MB)" >&2
  python3 -m pip download -q --disable-pip-version-check --no-deps --no-cache-dir --require-hashes --only-binary=:all: \
    --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 \
    -d "$work/wheels" -r scripts/libtorch.lock >&2
  unzip -q -o "$work"/wheels/torch-*.whl 'torch/include/*' torch/lib/libtorch.so torch/lib/libtorch_cpu.so \
    torch/lib/libc10.so 'torch/lib/libgomp*' torch/version.py -d "$work/unpacked"
  for wheel in "$work"/wheels/nvidia_*.whl; do
    unzip -q -o "$wheel" 'nvidia/cu13/lib/libcudart.so*' -d "$work/unpacked" 2>/dev/null ||
      unzip -q -o "$wheel" 'nvidia/cu13/lib/libcupti.so*' -d "$work/unpacked"
  done
  rm -rf "$home/torch" "$home/nvidia"
  mv "$work/unpacked/torch" "$work/unpacked/nvidia" "$home/"
  touch "$home/complete"
fi
mkdir -p third_party
ln -sfn "$home" third_party/libtorch
