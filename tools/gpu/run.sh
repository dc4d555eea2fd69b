#!/usr/bin/env bash
# Tests and measures on a machine with a GPU, from what tools/gpu/bundle.sh packed:
#
#     tar xf dist/gpu.tar.xz -C FOLDER        # where there is no xz: python3 -m tarfile -e dist/gpu.tar.xz FOLDER
#     FOLDER/gpu/run.sh [PART...] [OPTION...]
#
#     doctor        what the machine has, and what rustllm finds of it
#     smoke         a few tokens of the built-in model, on the CPU and on the GPU
#     conformance   every op against the reference, with cuBLASLt and without
#     engine        the whole engine: its steps as graphs, its batches, its tokens beside the CPU's
#     parity        every golden checkpoint against transformers
#     backend       all other tests of the backend
#     bench         the device's limits, rustllm and transformers on torch: options go to benches/gpu/bench.py
#     nvrtc         every op once more, its kernels compiled on this machine
#     sanitizer     every op under compute-sanitizer's memcheck and racecheck
#
# All of them in this order where none is named. A part may be named in a run of its own; options go to the programs of the parts:
#
#     run.sh bench --models llama-3.1-8b-shape --engines rustllm
#     run.sh engine --skip tokens_are_those_of_the_cpu
#
# RUSTLLM_RESULTS       folder of the log, of a line for each step (steps.txt) and for each figure (figures.jsonl), each written as
#                       it comes; runs add to it. ./results where unset
# RUSTLLM_BENCH_MODELS  folder of the models that are measured, kept for the next run: /dev/shm/rustllm-models where unset
# RUSTLLM_CHECKOUT      folder with tests/goldens: the current one or this script's where unset
# RUSTLLM_TEST_CASES    cases of conformance, nvrtc and sanitizer: those alone whose names have this in them
# RUSTLLM_TEST_GPU      simulator: to try this script with the simulator as the driver
set -uo pipefail
results=$(realpath -m "${RUSTLLM_RESULTS:-results}")
models=$(realpath -m "${RUSTLLM_BENCH_MODELS:-/dev/shm/rustllm-models}")
here=$(realpath "$(dirname "$0")")
checkout=$(realpath "${RUSTLLM_CHECKOUT:-.}")
[[ -d $checkout/tests/goldens ]] || checkout=$here
cd "$here" || exit 1
mkdir -p "$results"
exec > >(tee -a "$results/log.txt") 2>&1
log=$!

parts=()
while [[ $# -gt 0 && $1 != -* ]]; do
    parts+=("$1")
    shift
done
[[ ${#parts[@]} -gt 0 ]] || parts=(doctor smoke conformance engine parity backend bench nvrtc sanitizer)

export CARGO_MANIFEST_DIR=$checkout PYTHONUNBUFFERED=1 RUST_BACKTRACE=1
export RUSTLLM_TEST_GPU=${RUSTLLM_TEST_GPU:-1} RUST_TEST_THREADS=${RUST_TEST_THREADS:-1}
# Programs look where the dynamic linker does, and pip's packages are elsewhere.
found=$(python3 -c '
import importlib.util, pathlib
spec = importlib.util.find_spec("nvidia")
folders = [pathlib.Path(each, "cu13", "lib") for each in spec.submodule_search_locations] if spec else []
print(":".join(str(folder) for folder in folders if folder.is_dir()))')
export LD_LIBRARY_PATH=$found${LD_LIBRARY_PATH:+${found:+:}$LD_LIBRARY_PATH}
failed=0

# step SECONDS COMMAND...: runs it for so long at most, and notes how it ended.
step() {
    local limit=$1 begin=$SECONDS status
    shift
    echo "== $*"
    timeout --kill-after=10 "$limit" "$@" </dev/null
    status=$?
    echo "$(date -u +%T) status $status, $((SECONDS - begin)) s: $*" >>"$results/steps.txt"
    tail -n 1 "$results/steps.txt"
    [[ $status -eq 0 ]] || failed=1
    return "$status"
}

# tests SECONDS PROGRAM OPTION...: its tests; if any fails each in a process of its own, since a device's error ends all after it.
# Not if they took too long: the log ends with the one that did.
tests() {
    local limit=$1 program=$2 test
    shift 2
    step "$limit" "$program" --nocapture "$@"
    case $? in 0 | 124 | 137) return ;; esac
    "$program" --list "$@" 2>/dev/null | sed -n 's/: test$//p' | while read -r test; do
        step 60 "$program" --nocapture --exact "$test"
    done
}

# The wheel, unpacked once.
install() {
    export PYTHONPATH=$here/site${PYTHONPATH:+:$PYTHONPATH}
    [[ -d $here/site/rustllm ]] && return
    python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$here/site" "$here"/wheels/*.whl
}

doctor() {
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
    echo "commit $(cat commit), golden checkpoints in $checkout, models in $models"
    echo "libraries of pip's packages: ${found:-none}"
    # What it misses, fastapi for example, it names; tests and benchmarks can do without.
    timeout 60 python3 -m rustllm doctor
}

smoke() {
    local device
    for device in cuda cpu; do
        step 120 python3 -m rustllm generate "def fibonacci(n):" --device "$device" --temperature 0 --max-tokens 16 "$@"
    done
}

conformance() {
    # What the dynamic linker says it loaded, so that it is seen what was tested.
    step 30 env LD_DEBUG=files LD_DEBUG_OUTPUT="$here/loaded" RUSTLLM_TEST_CASES=linear bin/backend-conformance every_op
    grep -ho 'calling init: .*\(libcuda\.\|libcublasLt\).*' "$here"/loaded.* | sort -u
    rm -f "$here"/loaded.*
    echo "with what there is of cuBLASLt:"
    tests 240 bin/backend-conformance "$@"
    echo "without cuBLASLt:"
    LD_LIBRARY_PATH=$here/no-cublaslt:$LD_LIBRARY_PATH tests 240 bin/backend-conformance every_op "$@"
}

engine() { tests 400 bin/engine-cuda "$@"; }

parity() {
    local program
    for program in bin/engine-*; do
        [[ $program == bin/engine-cuda ]] || tests 240 "$program" on_cuda "$@"
    done
}

backend() {
    local program
    for program in bin/backend-*; do
        [[ $program == bin/backend-conformance ]] || tests 120 "$program" "$@"
    done
}

bench() {
    local command=(python3 benches/gpu/bench.py "$models" --results "$results/figures.jsonl") engines
    if [[ $# -gt 0 ]]; then
        step 540 "${command[@]}" "$@"
        return
    fi
    for engines in "limits rustllm" deterministic no-graphs torch; do
        # shellcheck disable=SC2086
        step 540 "${command[@]}" --engines $engines
    done
}

nvrtc() { RUSTLLM_CUDA_DIR=$here/cuda step 400 bin/backend-conformance --nocapture every_op "$@"; }

sanitizer() {
    local tool
    for tool in memcheck racecheck; do
        step 280 compute-sanitizer --tool "$tool" --error-exitcode 1 bin/backend-conformance --nocapture every_op "$@"
    done
}

install
for part in "${parts[@]}"; do
    case $part in
    doctor | smoke | conformance | engine | parity | backend | bench | nvrtc | sanitizer) "$part" "$@" ;;
    *) echo "no part is called $part" && failed=1 ;;
    esac
done
exec >/dev/null 2>&1
wait "$log"
exit "$failed"
