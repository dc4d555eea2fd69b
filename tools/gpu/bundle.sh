#!/usr/bin/env bash
# Collects in dist/gpu what a machine with a GPU needs to test and measure a commit: the wheel, the tests as programs, the golden
# checkpoints, the benchmarks. That machine needs neither cargo nor a network: copy the folder there and run its run.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=dist/gpu
rm -rf "$out"
mkdir -p "$out/bin" "$out/wheels"

cargo test --locked --release --no-run --message-format=json -p rustllm-cuda -p rustllm \
    --test conformance --test attention_widths --test '*batch_invariance' --test graph --test sampling \
    --test cuda --test goldens_parity --test pooling_parity |
    python3 -c '
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message.get("profile", {}).get("test"):
        package = message["package_id"].split("#")[0].rsplit("/", 1)[-1]
        test = message["target"]["name"]
        shutil.copy(message["executable"], f"{sys.argv[1]}/{package}-{test}")
' "$out/bin"
strip "$out"/bin/*
maturin build --release --out "$out/wheels"
mkdir -p "$out/tests" "$out/benches"
cp -r tests/goldens "$out/tests/"
cp -r benches/gpu benches/make_models.py "$out/benches/"
cp tools/gpu/run.sh "$out/"
git rev-parse HEAD >"$out/commit"
du -sh "$out"
