#!/usr/bin/env bash
# Copies the shared libraries that gristmill-worker needs into the folder given, where its rpath finds them.
set -euo pipefail
cd "$(dirname "$0")/.."
from=$(readlink -f "${LIBTORCH:-third_party/libtorch/torch}")
to=$1
mkdir -p "$to/torch/lib"
cp -L "$from"/lib/{libtorch.so,libtorch_cpu.so,libc10.so,libgomp*} "$to/torch/lib/"
# libtorch looks for them beside its own folder.
nvidia=$(dirname "$from")/nvidia/cu13/lib
if [ -d "$nvidia" ]; then
  mkdir -p "$to/nvidia/cu13/lib"
  cp -L "$nvidia"/{libcudart,libcupti}.so* "$to/nvidia/cu13/lib/"
fi
