#!/usr/bin/env python3
"""Empties the code for other GPUs in a CUDA library, so that it packs small: thin.py IN OUT 90

A CUDA library holds its kernels once for every generation. Each copy says in its header for which compute capability it
is (magic 0xBA55ED50 begins a container, its entries follow); the loader takes the one that fits. The others are filled
with zeros and stay as long as they are, so nothing else in the file moves.
"""
import struct
import sys

CONTAINER = 0xBA55ED50
ENTRY = struct.Struct("<HHIQ12xI8xQ")


def main():
    source, target, wanted = sys.argv[1], sys.argv[2], {int(arch) for arch in sys.argv[3:]}
    data = bytearray(open(source, "rb").read())
    kept = emptied = 0
    start = data.find(struct.pack("<I", CONTAINER))
    while start != -1:
        version, header, length = struct.unpack_from("<HHQ", data, start + 4)
        if version != 1 or header != 16 or start + header + length > len(data):
            start = data.find(struct.pack("<I", CONTAINER), start + 4)
            continue
        at, end = start + header, start + header + length
        while at < end:
            _, _, entry_header, payload, arch, _ = ENTRY.unpack_from(data, at)
            first, last = at + entry_header, at + entry_header + payload
            if arch in wanted:
                kept += payload
            else:
                data[first:last] = bytes(payload)
                emptied += payload
            at = last
        start = data.find(struct.pack("<I", CONTAINER), end)
    if not kept:
        sys.exit(f"thin: {source} has no code for {sorted(wanted)}")
    open(target, "wb").write(data)
    print(f"thin: kept {kept / 1e6:.0f} MB of code, emptied {emptied / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
