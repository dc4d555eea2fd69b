#!/usr/bin/env bash
# Runs in a folder that tools/gpu/bundle.sh made, on a machine with a GPU: tests, tests under compute-sanitizer, benchmarks.
#
#     run.sh [tests] [sanitizer] [benches]        all of them by default
#
# Needs the driver and, for the benchmarks' limits and peer, a python3 with torch and transformers.
set -uo pipefail
cd "$(dirname "$0")"
export RUSTLLM_TEST_GPU=1 CARGO_MANIFEST_DIR=$PWD
parts=${*:-tests sanitizer benches}
failed=0
try() {
    echo "== $*"
    "$@" || { failed=1; echo "FAILED: $*"; }
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
cat commit
for part in $parts; do
    case $part in
    tests)
        for test in bin/*; do try "$test" --test-threads=1; done
        ;;
    sanitizer)
        for tool in memcheck racecheck; do
            try compute-sanitizer --tool "$tool" --error-exitcode 1 bin/cuda-conformance every_op_agrees
        done
        ;;
    benches)
        site=$(mktemp -d)
        python3 -m pip install --quiet --no-index --no-deps --target "$site" wheels/*.whl
        export PYTHONPATH=$site
        work=$(mktemp -d)
        try python3 benches/make_models.py "$work" llama-3.1-8b-shape qwen2.5-0.5b-shape --no-tokenizer
        try python3 benches/gpu/bench.py "$work"
        rm -rf "$work" "$site"
        ;;
    esac
done
exit $failed
