#!/usr/bin/env python3
"""Builds standoff.ptx from standoff.cu, byte for byte the same on every machine. No CUDA and no GPU is needed.

    kernels/rebuild-ptx.py            writes kernels/standoff.ptx
    kernels/rebuild-ptx.py --check    only says whether the committed file is what comes out; exit code 1 if not

NVRTC of this one version makes PTX that drivers from CUDA 12.2 on accept (JetPack 6 and newer); a newer one makes PTX
that they refuse. It is fetched with pip into a temporary folder and checked by its hash.
"""
import ctypes
import hashlib
import pathlib
import platform
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
VERSION = "12.2.140"
WHEEL_SHA256 = "b1cdcae6443cb7cdcfb5d1bf51896a148c9f82f9e65b27db9ab095eaed689aa7"
OPTIONS = ["--gpu-architecture=compute_75", "--fmad=false", "--std=c++17"]


def fetch_nvrtc(folder):
    if platform.machine() != "x86_64":
        sys.exit("rebuild-ptx: run this on an x86-64 machine: that is where the pinned NVRTC was published")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--dest", folder, f"nvidia-cuda-nvrtc-cu12=={VERSION}"], check=True)
    [wheel] = pathlib.Path(folder).glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        sys.exit(f"rebuild-ptx: {wheel.name} has sha256 {found}, not {WHEEL_SHA256}")
    zipfile.ZipFile(wheel).extractall(folder)
    return pathlib.Path(folder) / "nvidia/cuda_nvrtc/lib"


def compile_ptx(library_folder, source):
    # NVRTC looks for its builtins by the loader's rules: loaded first, they are found.
    ctypes.CDLL(str(next(library_folder.glob("libnvrtc-builtins.so*"))), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(library_folder / "libnvrtc.so.12"))
    program = ctypes.c_void_p()
    result = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"standoff.cu", 0, None, None)
    if result != 0:
        sys.exit(f"rebuild-ptx: nvrtcCreateProgram gave {result}")
    options = [option.encode() for option in OPTIONS]
    result = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if log.value.strip():
        print(log.value.decode(), file=sys.stderr)
    if result != 0:
        sys.exit("rebuild-ptx: standoff.cu does not compile")
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.value.decode()


def main():
    source = (HERE / "standoff.cu").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        ptx = compile_ptx(fetch_nvrtc(folder), source)
    head = (f"// Made by kernels/rebuild-ptx.py with NVRTC {VERSION} {' '.join(OPTIONS)}\n"
            f"// standoff.cu sha256 {hashlib.sha256(source).hexdigest()}\n")
    target = HERE / "standoff.ptx"
    if sys.argv[1:] == ["--check"]:
        same = target.is_file() and target.read_text() == head + ptx
        print(f"standoff.ptx is {'what comes out' if same else 'NOT what comes out: run kernels/rebuild-ptx.py'}")
        sys.exit(0 if same else 1)
    target.write_text(head + ptx)
    print(f"wrote {target.name}: {len(head + ptx)} bytes")


if __name__ == "__main__":
    main()
