#!/usr/bin/env bash
# Build the native extension in place, for running from a checkout with PYTHONPATH=src.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake -S . -B build/dev -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v python3)" >/dev/null
cmake --build build/dev -j2
cp build/dev/_native*.so src/motley/ops/native/
