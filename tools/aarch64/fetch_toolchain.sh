#!/usr/bin/env bash
# Unpacks Debian's newest Rust and its arm64 standard library into the folder given; installs nothing.
set -euo pipefail
toolchain=$1
mkdir -p "$toolchain/debs" "$toolchain/lists/partial"
apt=(apt-get -qq -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 -o Dir::State::Lists="$toolchain/lists")
"${apt[@]}" update
release=$(apt-cache "${apt[@]:2}" depends libstd-rust-web-dev | sed -n 's/.*Depends: \(libstd-rust-web-[0-9.]*\)$/\1/p')
llvm=$(apt-cache "${apt[@]:2}" depends "$release" | sed -n 's/.*Depends: \(libllvm[0-9.]*\)$/\1/p')
(cd "$toolchain/debs" &&
    "${apt[@]}" download rustc-web "$llvm" {"$release",libstd-rust-web-dev}{,:arm64})
for package in "$toolchain"/debs/*.deb; do dpkg -x "$package" "$toolchain/root"; done
cat >"$toolchain/rustc" <<WRAPPER
#!/bin/sh
export LD_LIBRARY_PATH="$toolchain/root/usr/lib/x86_64-linux-gnu"
exec "$toolchain/root/usr/bin/rustc" --sysroot "$toolchain/root/usr" "\$@"
WRAPPER
chmod +x "$toolchain/rustc"
