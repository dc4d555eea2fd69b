#!/usr/bin/env bash
# Packs what a machine with a GPU needs to test and measure a commit into dist/gpu.tar.xz: the wheel, the tests as programs, the
# benchmarks, the kernels' sources. That machine needs neither cargo nor a network: tools/gpu/run.sh says how it goes there.
#
#     bundle.sh                   the golden checkpoints are taken from the checkout that run.sh is started in
#     bundle.sh --goldens         they are packed too (13 MB more), for a machine without a checkout
set -euo pipefail
cd "$(dirname "$0")/../.."
out=dist/gpu
rm -rf "$out" "$out.tar.xz"
mkdir -p "$out/bin" "$out/benches" "$out/no-cublaslt"

# Every test of the backend, and those of the engine that open a device. Without link-time optimization: it takes minutes a program
# and would leave less in common between them, which the archive stores once.
engine_tests=$(grep --files-with-matches use_cuda_device tests/*.rs)
targets=$(for file in rust/cuda/tests/*.rs $engine_tests; do echo "--test $(basename "$file" .rs)"; done)
# shellcheck disable=SC2086
cargo test --locked --release --config profile.release.lto=false --no-run --message-format=json-render-diagnostics \
    -p rustllm-cuda -p rustllm $targets |
    python3 -c '
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message.get("profile", {}).get("test"):
        folder = "backend" if "rust/cuda" in message["manifest_path"] else "engine"
        test = message["target"]["name"]
        shutil.copy(message["executable"], f"{sys.argv[1]}/{folder}-{test}")
' "$out/bin"
strip "$out"/bin/*
maturin build --release --out "$out/wheels"

# A library with nothing in it: where it comes first, cuBLASLt is not found.
cc -shared -nostdlib -x c /dev/null -o "$out/no-cublaslt/libcublasLt.so"
ln -s libcublasLt.so "$out/no-cublaslt/libcublasLt.so.13"

cp -r benches/gpu benches/make_models.py "$out/benches/"
mkdir "$out/cuda"
cp cuda/*.cu cuda/*.cuh "$out/cuda/"
if [[ ${1:-} == --goldens ]]; then
    mkdir "$out/tests"
    cp -r tests/goldens "$out/tests/"
fi
cp tools/gpu/run.sh "$out/"
git rev-parse HEAD >"$out/commit"
# The programs have almost all in common: a window that reaches from one to the next.
tar --create --directory dist gpu | xz --threads=1 --lzma2=preset=6,dict=64MiB >"$out.tar.xz"
du -sh "$out" "$out.tar.xz"
rm -rf "$out"
