#!/usr/bin/env python3
"""Writes the 32-bit floats of a safetensors file as 16-bit ones: halve.py IN OUT. Needs nothing but Python."""
import array
import json
import struct
import sys


def main():
    data = open(sys.argv[1], "rb").read()
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:8 + length])
    base, parts, at = 8 + length, [], 0
    for name, tensor in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [0])[0]):
        if name == "__metadata__":
            continue
        first, last = tensor["data_offsets"]
        raw = data[base + first:base + last]
        if tensor["dtype"] == "F32":
            values = array.array("f", raw)
            raw = struct.pack(f"<{len(values)}e", *values)
            tensor["dtype"] = "F16"
        tensor["data_offsets"] = [at, at + len(raw)]
        at += len(raw)
        parts.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(sys.argv[2], "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(parts)


if __name__ == "__main__":
    main()
