#!/usr/bin/env bash
# Builds the program for 64-bit Arm (Jetson and others) on an x86-64 Debian 12: Debian's cross compiler, and its packages
# for arm64 unpacked into a folder. Nothing is installed for arm64 on this machine.
#
#   deploy/cross-aarch64.sh [FEATURES]     default gstreamer,cuda,tensorrt
#
# The result lies in target/aarch64-unknown-linux-gnu/release/. Where qemu-user is installed it is started once.
set -euo pipefail
cd "$(dirname "$0")/.."

features=${1:-gstreamer,cuda,tensorrt}
target=aarch64-unknown-linux-gnu
root=$PWD/target/aarch64-root
say() { echo "cross: $*"; }

if ! command -v aarch64-linux-gnu-g++ >/dev/null; then
    say "installing the cross compiler"
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get install -q -y --no-install-recommends g++-aarch64-linux-gnu >/dev/null
fi
rustup target add "$target"

if [ ! -f "$root/complete" ]; then
    say "fetching Debian's packages for arm64"
    mkdir -p "$root/apt/state/lists/partial" "$root/apt/cache/archives/partial"
    : >"$root/apt/status"
    # An apt of its own, for which nothing is installed: it fetches all that these packages need.
    apt=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "Dir::State=$root/apt/state"
        -o "Dir::State::status=$root/apt/status" -o "Dir::Cache=$root/apt/cache" -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" update -q >/dev/null
    apt-get "${apt[@]}" install -q -y --no-install-recommends --download-only \
        libc6-dev libstdc++-12-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev >/dev/null
    for package in "$root"/apt/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    rm -rf "$root/apt"
    touch "$root/complete"
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C link-arg=--sysroot=$root"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_SYSROOT_DIR=$root
export PKG_CONFIG_LIBDIR=$root/usr/lib/aarch64-linux-gnu/pkgconfig:$root/usr/share/pkgconfig
cargo build --release --target "$target" --no-default-features --features "$features"

program=target/$target/release/standoff
say "$(stat -c %s "$program") bytes, needs $(aarch64-linux-gnu-objdump -T "$program" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)"
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
if [ -n "$qemu" ]; then
    say "$("$qemu" -L "$root" "$program" --version), started with $(basename "$qemu")"
else
    say "not started: install qemu-user-static to try it here"
fi
