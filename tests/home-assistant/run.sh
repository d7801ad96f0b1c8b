#!/usr/bin/env bash
# Loads what standoff announces into a real Home Assistant and reports on every entity.
#
#   tests/home-assistant/run.sh [VERSION MODE [look]]   2026.2 or 2025.4; device or components. Without them: 2026.2
#                                                       in both modes, then 2025.4 with components. `look` reads every
#                                                       entity and sets none.
#
# It needs Python 3.13 (PY313=/path/to/python3.13), mosquitto, the installed model (make model) and, for each version,
# about 700 MB for a virtual environment below target/. It is no part of `make test`. STANDOFF says which program.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
program=${STANDOFF:-$top/target/release/standoff}

skip() { echo "SKIP: $*"; exit 0; }
python=
# A shim of pyenv is there also when the version that it stands for is not switched on.
for candidate in ${PY313:-python3.13 "$HOME"/.pyenv/versions/3.13.*/bin/python}; do
  "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null && python=$candidate
done
[ -n "$python" ] || skip "Home Assistant needs Python 3.13 (set PY313)"
broker=$(PATH=$PATH:/usr/sbin command -v mosquitto) || skip "mosquitto is not installed"
[ -x "$program" ] || { echo "$program is missing: make build, or set STANDOFF"; exit 1; }

install() { # VERSION VENV
  local version=$1 venv=$2
  [ -e "$venv/installed" ] && return
  echo "installing Home Assistant $version into $venv"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -q uv
  "$venv/bin/uv" pip install -q --python "$venv/bin/python" -r "$here/requirements-$version.txt"
  # 2026.2.3 asks for a later Python 3.13 than most machines have; it does not need it here.
  if [ "$version" = 2026.2 ]; then
    "$venv/bin/python" -m pip install -q --no-deps --no-compile --ignore-requires-python homeassistant==2026.2.3
  fi
  touch "$venv/installed"
}

check() ( # VERSION MODE [look]
  version=$1 mode=$2 set=--exercise
  [ "${3:-}" != look ] || set=
  venv=$top/target/home-assistant-$version
  install "$version" "$venv"
  folder=$(mktemp -d)
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  printf 'listener %s 127.0.0.1\nallow_anonymous true\npersistence false\n' "$port" > "$folder/mosquitto.conf"
  "$broker" -c "$folder/mosquitto.conf" > "$folder/mosquitto.log" 2>&1 &
  mosquitto=$!
  trap 'kill $mosquitto 2>/dev/null || true; rm -rf "$folder"' EXIT
  # From 13 to 18 s of the dock's clip, again and again: all things are there, so that every distance has a value,
  # and the forklift is so near to the person that there is an alarm.
  "$venv/bin/python" - "$top/tests/data/dock-demo/video.mp4" "$folder/clip.mp4" <<'CUT'
import av, sys
source, cut = av.open(sys.argv[1]), av.open(sys.argv[2], "w")
video = source.streams.video[0]
add = getattr(cut, "add_stream_from_template", None)
out = add(video) if add else cut.add_stream(template=video)
start = int(13 / video.time_base)
for packet in source.demux(video):
    if packet.dts is not None and 13 <= packet.pts * video.time_base < 18:
        packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, out
        cut.mux(packet)
cut.close()
CUT
  sed -e "s|^mqtt:|home_assistant: {discovery: $mode}\nstate_dir: $folder/state\nhttp: {listen: off}\nmqtt:\n  port: $port\n  allow_remote_control: true|" \
    -e "s|file: ../tests.*|file: $folder/clip.mp4|" -e "s|^    stale_after:|    loop: true\n    stale_after:|" \
    "$top/pipelines/dock-demo.yaml" > "$folder/site.yaml"
  report=$top/target/home-assistant-$version-$mode.json
  echo "Home Assistant $version, $mode:"
  timeout 300 "$venv/bin/python" "$here/ha_check.py" "127.0.0.1:$port" --wait 60 --settle 15 $set \
    --run "$program run $folder/site.yaml" --out "$report" 2> "$folder/standoff.log" || {
    code=$?
    "$python" - "$report" <<'PRINT'
import json, sys
report = json.load(open(sys.argv[1]))
print(json.dumps({k: v for k, v in report.items() if k != "entities"}, indent=1))
[print(e["entity_id"], e["state"], e["problems"]) for e in report.get("entities", []) if e["problems"]]
PRINT
    tail -20 "$folder/standoff.log"
    exit "$code"
  }
  # Before 2025.10 entity ids come from names, so the card's are others there.
  [ "$version" = 2025.4 ] && report=
  "$venv/bin/python" "$here/check_yaml.py" "$top/deploy/home-assistant" ${report:+"$report"}
)

if [ $# -ge 2 ]; then
  check "$@"
else
  check 2026.2 device
  check 2026.2 components
  check 2025.4 components
fi
