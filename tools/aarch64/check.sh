#!/usr/bin/env bash
# Compiles the CPU kernels for aarch64, so that the NEON code cannot rot on machines without one.
#
# Uses the toolchain's own standard library for that target where it is installed (rustup target add
# aarch64-unknown-linux-gnu); else, on Debian, unpacks Debian's newest Rust with its arm64 standard library under target/,
# installing nothing. Where a cross linker and an emulator are installed (Debian: gcc-aarch64-linux-gnu, qemu-user), it
# also runs the crate's unit tests, which hold NEON to the bits of the scalar kernels. Ends with 77 where no toolchain can
# be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
triple=aarch64-unknown-linux-gnu

check() {
    cargo check --locked --target "$triple" -p rustllm-cpu --all-targets
    if command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null; then
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
        cargo test --locked --target "$triple" -p rustllm-cpu --lib
    fi
}

if [ -d "$(rustc --print sysroot)/lib/rustlib/$triple/lib" ]; then
    check
    exit
fi

toolchain=$PWD/target/aarch64-toolchain
if [ ! -x "$toolchain/rustc" ]; then
    tools/aarch64/fetch_toolchain.sh "$toolchain" || {
        echo "check-aarch64: skipped, no toolchain could be had" >&2
        exit 77
    }
fi
export RUSTC=$toolchain/rustc CARGO_TARGET_DIR=target/aarch64
check
