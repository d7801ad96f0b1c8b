#!/usr/bin/env bash
# Tries the Debian package on an empty Debian 12: installs it with apt and looks at what it made.
#
#   deploy/try-deb.sh DIR standoff_VERSION_ARCH.deb      (as root)
#
# Makes a Debian root in the new folder DIR with debootstrap, which is left behind to look at. Nothing is started
# there: a chroot has no systemd. MODEL=1 also runs deploy/install.sh's part that fetches model and library (100 MB).
set -euo pipefail

fail() {
    echo "try-deb: $*" >&2
    exit 1
}

[ $# = 2 ] && [ -f "$2" ] || fail "usage: deploy/try-deb.sh DIR standoff_VERSION_ARCH.deb"
[ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root"
for tool in debootstrap unshare; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done

# In a mount namespace of its own nothing stays mounted, however this ends.
if [ -z "${TRY_DEB_INSIDE:-}" ]; then
    [ ! -e "$1" ] || fail "$1 is there already: give a new folder, or remove it"
    exec env TRY_DEB_INSIDE=1 unshare --mount "$0" "$@"
fi

repository=$(cd "$(dirname "$0")/.." && pwd)
package=$(realpath "$2")
size=$(stat -c %s "$package")
echo "try-deb: $(basename "$package"), $((size / 1000)) kB"
[ "$size" -lt 60000000 ] || fail "the package is larger than 60 MB"

mkdir -p "$1"
fresh=$(cd "$1" && pwd)
echo "try-deb: Debian 12 in $fresh"
debootstrap --variant=minbase --include=ca-certificates bookworm "$fresh" >"$fresh.log" 2>&1 ||
    fail "debootstrap failed: see $fresh.log"

# The network as this machine has it: names, and certificates of its own if any.
cp -L /etc/resolv.conf /etc/hosts "$fresh/etc/"
if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
    cp /usr/local/share/ca-certificates/*.crt "$fresh/usr/local/share/ca-certificates/"
fi
mount --bind /proc "$fresh/proc"
mount --bind /sys "$fresh/sys"
mount --rbind /dev "$fresh/dev"
inside() {
    chroot "$fresh" env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} "$@" </dev/null
}
inside update-ca-certificates >>"$fresh.log" 2>&1

echo "try-deb: apt-get install"
cp "$package" "$fresh/opt/standoff.deb"
inside apt-get update -q >>"$fresh.log" 2>&1 || echo "try-deb: warning: apt-get update failed, see $fresh.log"
inside apt-get install -q -y --no-install-recommends /opt/standoff.deb >>"$fresh.log" 2>&1 ||
    fail "apt-get could not install the package: see $fresh.log"

inside standoff --version
inside standoff check /etc/standoff/standoff.yaml
inside id standoff
inside stat -c '%A %U:%G %n' /etc/standoff /etc/standoff/standoff.yaml /var/lib/standoff
mode=$(inside stat -c '%a %U:%G' /etc/standoff/standoff.yaml)
[ "$mode" = "640 root:standoff" ] || fail "the configuration has mode $mode"
if inside systemctl is-enabled standoff >/dev/null 2>&1; then
    fail "the service is enabled before anybody has configured it"
fi

echo "try-deb: systemd-analyze"
inside systemd-analyze verify /usr/lib/systemd/system/standoff.service || fail "systemd-analyze verify is not content"
level=$(inside systemd-analyze security --offline=true standoff.service | sed -n 's/.*exposure level[^:]*: \([0-9.]*\).*/\1/p')
echo "try-deb: exposure $level"
awk -v level="$level" 'BEGIN { exit !(level != "" && level <= 2.0) }' || fail "exposure $level is above 2.0"

if [ -n "${MODEL:-}" ]; then
    echo "try-deb: deploy/install.sh"
    cp "$repository/deploy/install.sh" "$fresh/opt/"
    inside bash /opt/install.sh /opt/standoff.deb >>"$fresh.log" 2>&1 || fail "install.sh failed: see $fresh.log"
    inside runuser -u standoff -- env STANDOFF_HOME=/var/lib/standoff standoff model list
fi

echo "try-deb: what a start without a model says (exit code 2: the unit does not try again)"
code=0
inside runuser -u standoff -- env STANDOFF_HOME=/nonexistent timeout 60 standoff run /etc/standoff/standoff.yaml || code=$?
[ "$code" = 2 ] || fail "exit code $code"

echo "try-deb: remove and purge"
inside apt-get purge -q -y standoff >>"$fresh.log" 2>&1 || fail "apt-get could not purge the package: see $fresh.log"
[ ! -e "$fresh/etc/standoff/standoff.yaml" ] && [ ! -e "$fresh/var/lib/standoff" ] || fail "purge leaves files behind"
echo "try-deb: ok"
