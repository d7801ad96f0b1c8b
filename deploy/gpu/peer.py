#!/usr/bin/env python3
"""The same work in PyTorch, as well as PyTorch does it: the peer that `standoff gpu check` is compared with.

    peer.py OUT.json [--seconds 1.0] [--heads 5,64]

From 1080p NV12 pictures in page-locked host memory to the heads' outputs in host memory: upload, antialiased bicubic
resize (luma and chroma each by itself, as standoff does it), colour conversion, normalisation, a DINOv2 in 16 bits with
linear heads on four of its layers. Preprocessing and model lie in one CUDA graph; the model is compiled by
torch.compile where that works. Weights are random: they do not change the time.
"""
import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12)}
SOURCE = (1080, 1920)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Heads(torch.nn.Module):
    """A DINOv2 of transformers with linear heads over the tokens of four layers."""

    def __init__(self, size, outputs):
        super().__init__()
        from transformers import Dinov2Config, Dinov2Model
        dim, depth, heads = SIZES[size]
        config = Dinov2Config(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, patch_size=14,
                              image_size=518, attn_implementation="sdpa")
        self.model = Dinov2Model(config)
        self.taps = [depth * quarter // 4 for quarter in (1, 2, 3, 4)]
        self.heads = torch.nn.ModuleList(torch.nn.Linear(4 * dim, count) for count in outputs)

    def forward(self, pixels):
        states = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        tokens = torch.cat([states[tap][:, 1:] for tap in self.taps], dim=-1)
        return [states[-1][:, 0].float()] + [head(tokens).float() for head in self.heads]


def preprocess(luma, chroma, width, height):
    """[n, 1080, 1920] and [n, 540, 960, 2] bytes to [n, 3, height, width] halves, letterboxed, BT.709 limited."""
    scale = min(width / SOURCE[1], height / SOURCE[0])
    inner = (round(SOURCE[0] * scale), round(SOURCE[1] * scale))
    y = F.interpolate(luma[:, None].float(), inner, mode="bicubic", antialias=True, align_corners=False)
    uv = chroma.permute(0, 3, 1, 2).float()
    uv = F.interpolate(uv, inner, mode="bicubic", antialias=True, align_corners=False) - 128
    y, u, v = (y[:, 0] - 16) / 219, uv[:, 0] / 224, uv[:, 1] / 224
    rgb = torch.stack([y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u], 1).clamp(0, 1)
    mean = torch.tensor(MEAN, device=rgb.device)[:, None, None]
    std = torch.tensor(STD, device=rgb.device)[:, None, None]
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    padded = F.pad((rgb - mean) / std, (left, width - inner[1] - left, top, height - inner[0] - top))
    return padded.half()


class Pipeline:
    """Buffers and one CUDA graph for one size of batch."""

    def __init__(self, model, batch, width, height):
        device = "cuda"
        rows = SOURCE[0] * 3 // 2
        self.host = torch.randint(0, 256, (batch, rows, SOURCE[1]), dtype=torch.uint8).pin_memory()
        self.device = self.host.to(device)

        def work():
            luma = self.device[:, :SOURCE[0]]
            chroma = self.device[:, SOURCE[0]:].reshape(batch, SOURCE[0] // 2, SOURCE[1] // 2, 2)
            return model(preprocess(luma, chroma, width, height))

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                outputs = work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = work()
        self.results = [torch.empty(o.shape, dtype=o.dtype).pin_memory() for o in outputs]

    def run(self, upload=True):
        if upload:
            self.device.copy_(self.host, non_blocking=True)
        self.graph.replay()
        for result, output in zip(self.results, self.outputs):
            result.copy_(output, non_blocking=True)
        torch.cuda.synchronize()


def measure(run, batch, seconds):
    for _ in range(3):
        run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    times.sort()
    return {"frames_per_s": batch * len(times) / sum(times), "latency_ms": 1000 * times[len(times) // 2],
            "latency_p99_ms": 1000 * times[min(len(times) - 1, int(0.99 * len(times)))]}


def peak_tflops():
    side = 8192
    a = torch.randn(side, side, device="cuda", dtype=torch.half)
    for _ in range(3):
        a @ a
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(10):
        a @ a
    last.record()
    torch.cuda.synchronize()
    return 10 * 2 * side ** 3 / (first.elapsed_time(last) / 1000) / 1e12


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--heads", default="5,64")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("peer: PyTorch sees no GPU")
    torch.manual_seed(1)
    outputs = [int(count) for count in arguments.heads.split(",")]
    found = {"peer": f"PyTorch {torch.__version__}", "device": torch.cuda.get_device_name(),
             "matmul_tflops": peak_tflops(), "rows": []}
    print(f"peer: {found['peer']}, 8192 x 8192 products at {found['matmul_tflops']:.0f} TFLOP/s", flush=True)
    for size, shapes in (("S", [(392, 224), (518, 294)]), ("B", [(392, 224), (518, 294)])):
        eager = Heads(size, outputs).half().cuda().eval()
        for width, height in shapes:
            for batch in (1, 2, 4, 8, 16, 32):
                # Compiling takes its time: where it counts.
                compiled = batch in (1, 16) and (width, height) == (392, 224)
                model, how = eager, "CUDA graph"
                if compiled:
                    # One graph holds preprocessing and model, so the compiler makes none of its own.
                    model, how = torch.compile(eager, mode="max-autotune-no-cudagraphs", dynamic=False), "compiled, CUDA graph"
                with torch.inference_mode():
                    try:
                        pipeline = Pipeline(model, batch, width, height)
                    except Exception as problem:
                        print(f"peer: {how}: {problem}", flush=True)
                        pipeline, how = Pipeline(eager, batch, width, height), "CUDA graph"
                    for place in ("host", "device"):
                        row = measure(lambda: pipeline.run(place == "host"), batch, arguments.seconds)
                        row |= {"model": size, "input": [width, height], "batch": batch, "from": place, "how": how}
                        found["rows"].append(row)
                        print(f"peer: ViT-{size} {width} x {height}, batch {batch}, from {place} memory, {how}: "
                              f"{row['frames_per_s']:.0f} frames/s, {row['latency_ms']:.2f} ms", flush=True)
                with open(arguments.out, "w") as file:
                    json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
