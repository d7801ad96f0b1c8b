#!/usr/bin/env bash
# Boots a Debian 12 with the package in QEMU and lets its systemd run the service: start, reload, kill, hang, a bad
# configuration, stop.
#
#   deploy/try-boot.sh DIR standoff_VERSION_ARCH.deb      (as root)
#
# Makes a root and a disk of 4 GB in the new folder DIR, which is left behind to look at: DIR/report is what came out.
# Without KVM, which many machines that are virtual themselves do not have, so it is slow: about six minutes. The
# model is too slow for that; recorded features stand in for it, made by target/release/standoff (make build model).
set -euo pipefail

fail() {
    echo "try-boot: $*" >&2
    exit 1
}

[ $# = 2 ] && [ -f "$2" ] || fail "usage: deploy/try-boot.sh DIR standoff_VERSION_ARCH.deb"
[ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root"
for tool in debootstrap unshare qemu-system-x86_64 mke2fs debugfs; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done

# In a mount namespace of its own nothing stays mounted, however this ends.
if [ -z "${TRY_BOOT_INSIDE:-}" ]; then
    [ ! -e "$1" ] || fail "$1 is there already: give a new folder, or remove it"
    exec env TRY_BOOT_INSIDE=1 unshare --mount "$0" "$@"
fi

repository=$(cd "$(dirname "$0")/.." && pwd)
package=$(realpath "$2")
mkdir -p "$1"
folder=$(cd "$1" && pwd)
root=$folder/root
"$repository/target/release/standoff" bench --record "$folder/features.safetensors" --at 19,19,21.5 >"$folder/log" ||
    fail "the features cannot be recorded (make build model): see $folder/log"

echo "try-boot: Debian 12 with a kernel, systemd and mosquitto in $root"
debootstrap --variant=minbase --include=ca-certificates,systemd-sysv,udev,linux-image-amd64,mosquitto,mosquitto-clients \
    bookworm "$root" >>"$folder/log" 2>&1 || fail "debootstrap failed: see $folder/log"
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
    cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
fi
mount --bind /proc "$root/proc"
mount --bind /sys "$root/sys"
mount --rbind /dev "$root/dev"
inside() {
    chroot "$root" env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} "$@" </dev/null >>"$folder/log" 2>&1
}
cp "$package" "$root/opt/standoff.deb"
inside update-ca-certificates || fail "update-ca-certificates failed: see $folder/log"
inside apt-get update -q || echo "try-boot: warning: apt-get update failed, see $folder/log"
inside apt-get install -q -y --no-install-recommends /opt/standoff.deb || fail "apt-get failed: see $folder/log"

cp "$repository/tests/data/dock-demo/video.mp4" "$folder/features.safetensors" "$root/var/lib/standoff/"
inside chown -R standoff:standoff /var/lib/standoff
sed -e 's|file: ../tests.*|file: /var/lib/standoff/video.mp4|' -e 's|^    stale_after:.*|    loop: true\n    stale_after: 5s|' \
    -e 's|^node: demo.*|node: vm\nmodel: {recorded: /var/lib/standoff/features.safetensors}|' \
    "$repository/pipelines/dock-demo.yaml" >"$root/etc/standoff/standoff.yaml"

cat >"$root/opt/trial" <<'TRIAL'
#!/bin/bash
# Runs in the machine. A line that begins with NOT is a failure.
exec >/opt/report 2>&1
unit() { systemctl show standoff -p "$1" --value; }
step() { echo "== $*"; }
is() { if eval "$1"; then echo "ok: $1"; else echo "NOT: $1"; fi; }
within() { # SECONDS CONDITION
    for ((second = 0; second < $1; second++)); do
        eval "$2" && { echo "ok after $second s: $2"; return; }
        sleep 1
    done
    echo "NOT within $1 s: $2"
}
state='standoff/vm/camera/dock/alarm/forklift_near_edge'
yaml=/etc/standoff/standoff.yaml
step "start: it is ready when systemctl returns"
is 'systemctl start standoff'
is 'systemctl is-active -q standoff'
is '[ "$(timeout 60 mosquitto_sub -t standoff/vm/status -C 1)" = online ]'
is 'timeout 120 mosquitto_sub -t $state | grep -qm1 "\"state\":\"alarm\""'
step "the socket is for root and the group"
is 'standoff alarm list'
is '! runuser -u nobody -- standoff alarm list'
step "reload: a good file is taken, a bad one refused, and the service goes on"
cp $yaml /opt/good.yaml
sed -i 's/warning_m: 2.0/warning_m: 2.5/' $yaml
is 'systemctl reload standoff'
within 30 'timeout 20 mosquitto_sub -t $state -C 1 | grep -q "\"warning_m\":2.5"'
sed -i 's/alarm_m: 0.5/alarm_m: x/' $yaml
is '! systemctl reload standoff'
is 'systemctl is-active -q standoff'
cp /opt/good.yaml $yaml
step "killed: it is started again"
kill -9 "$(unit MainPID)"
within 60 '[ "$(unit NRestarts)" = 1 ] && systemctl is-active -q standoff'
step "hung: the watchdog kills it, and it is started again"
kill -STOP "$(unit MainPID)"
within 90 '[ "$(unit NRestarts)" = 2 ] && systemctl is-active -q standoff'
step "a bad file at the start: failed with exit code 2, and not tried again"
sed -i 's/alarm_m: 0.5/alarm_m: x/' $yaml
is '! systemctl restart standoff'
sleep 5
is '[ "$(unit ActiveState) $(unit ExecMainStatus) $(unit NRestarts)" = "failed 2 0" ]'
cp /opt/good.yaml $yaml
is 'systemctl reset-failed standoff && systemctl start standoff'
step "stop"
is 'systemctl stop standoff'
is '[ "$(unit Result)" = success ]'
is '[ "$(timeout 60 mosquitto_sub -t standoff/vm/status -C 1)" = offline ]'
step "exposure while it runs here"
systemd-analyze security standoff | tail -1
echo done
TRIAL
chmod +x "$root/opt/trial"
cat >"$root/etc/systemd/system/trial.service" <<'UNIT'
[Unit]
After=mosquitto.service
[Service]
Type=oneshot
ExecStart=/opt/trial
ExecStopPost=/usr/bin/systemctl --no-block poweroff
TimeoutStartSec=20min
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../trial.service "$root/etc/systemd/system/multi-user.target.wants/trial.service"
umount -l "$root/dev" "$root/sys" "$root/proc"
truncate -s 4G "$folder/disk"
mke2fs -q -F -t ext4 -d "$root" "$folder/disk"

echo "try-boot: boot"
kernel=$(ls "$root"/boot/vmlinuz-*)
timeout 1800 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nographic -no-reboot \
    -kernel "$kernel" -initrd "${kernel/vmlinuz/initrd.img}" -drive "file=$folder/disk,format=raw,if=virtio" \
    -append "root=/dev/vda rw console=ttyS0 loglevel=4 systemd.show_status=0" </dev/null >"$folder/console" 2>&1 ||
    fail "QEMU failed: see $folder/console"
debugfs -R "cat /opt/report" "$folder/disk" 2>/dev/null | tee "$folder/report"
grep -q '^done$' "$folder/report" || fail "the trial did not end: see $folder/console"
! grep -q '^NOT' "$folder/report" || fail "not as it should be"
echo "try-boot: ok"
