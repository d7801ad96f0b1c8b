#!/usr/bin/env bash
# Tries the two commands of the README on an empty Debian 12 that has only Rust, git, make and a C compiler.
#
#   deploy/try-fresh.sh DIR [TARGET...]      (as root; targets of the Makefile, by default: demo test)
#
# Makes a Debian root in the new folder DIR with debootstrap, copies this machine's Rust into it, clones the last
# commit and runs make there. DIR is left behind to look at; ARGS goes through to `make demo`. Takes about 4 GB.
set -euo pipefail

fail() {
    echo "try-fresh: $*" >&2
    exit 1
}

[ $# -ge 1 ] || fail "which folder? usage: deploy/try-fresh.sh DIR [TARGET...]"
[ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root"
for tool in debootstrap git rustc unshare; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done

# In a mount namespace of its own nothing stays mounted, however this ends.
if [ -z "${TRY_FRESH_INSIDE:-}" ]; then
    [ ! -e "$1" ] || fail "$1 is there already: give a new folder, or remove it"
    exec env TRY_FRESH_INSIDE=1 unshare --mount "$0" "$@"
fi

repository=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
fresh=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- demo test

echo "try-fresh: Debian 12 with git, make and a C compiler in $fresh"
debootstrap --variant=minbase --include=ca-certificates,git,make,gcc,libc6-dev bookworm "$fresh" >"$fresh.log" ||
    fail "debootstrap failed: see $fresh.log"

# The network as this machine has it: names, and certificates of its own if any.
cp -L /etc/resolv.conf /etc/hosts "$fresh/etc/"
if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
    cp /usr/local/share/ca-certificates/*.crt "$fresh/usr/local/share/ca-certificates/"
fi
mount --bind /proc "$fresh/proc"
mount --bind /sys "$fresh/sys"
mount --rbind /dev "$fresh/dev"
chroot "$fresh" update-ca-certificates >>"$fresh.log" 2>&1

echo "try-fresh: Rust, $(rustc --version)"
mkdir -p "$fresh/opt/rust"
tar -C "$(rustc --print sysroot)" --exclude=share/doc -cf - . | tar -C "$fresh/opt/rust" -xf -

echo "try-fresh: clone of $(git -C "$repository" rev-parse --short HEAD)"
git clone -q --no-hardlinks "$repository" "$fresh/opt/standoff"
for target in "$@"; do
    echo "try-fresh: make $target"
    start=$SECONDS
    chroot "$fresh" env -i HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" \
        PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        make -C /opt/standoff "$target" ARGS="${ARGS:-}" </dev/null || fail "make $target failed"
    echo "try-fresh: make $target took $((SECONDS - start)) s"
done
