"""Accuracy and perplexity of models trained in float32, in float16 and bfloat16 (--precision), and of float16 files.

    npm run build && python compare/precision/main.py [lenet] [resnet20] [gpt] [--test FILE]

Needs torch, transformers, onnx and onnxruntime. On the CPU, 16-bit operators round their operands and results and compute in
float32, as PyTorch's autocast does on a GPU with float32 accumulation. Scored are the 1,000 test digits of models/mnist or
those of FILE, an .npz of `x` (count, 28, 28), uint8, and `y`; the text is this project's documentation, of which the last
tenth is held out. The table is in docs/guide/precision.md.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("quantization", ROOT / "compare" / "quantization" / "main.py")
digits = importlib.util.module_from_spec(spec)
spec.loader.exec_module(digits)

EPOCHS = {"lenet": 6, "resnet20": 5, "gpt": 2}
CONTEXT = 64
SEEDS = {"lenet": (0, 1), "resnet20": range(6), "gpt": (0,)}


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -1e9).triu(1))

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5 + self.mask
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """A language model of bytes."""

    def __init__(self, width=64, layers=2, heads=4):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(CONTEXT))
        return self.head(self.norm(self.layers(x)))


def make_gpt(folder):
    torch.manual_seed(0)
    text = b"".join(path.read_bytes() for path in sorted((ROOT / "docs").rglob("*.md")))[:120_000]
    bytes_ = np.frombuffer(text, np.uint8).astype(np.int64)
    count = (len(bytes_) - 1) // CONTEXT
    x, y = (bytes_[i : i + count * CONTEXT].reshape(count, CONTEXT) for i in (0, 1))
    cut = count * 9 // 10
    data = {"train": (x[:cut], y[:cut]), "test": (x[cut:], y[cut:])}
    path = folder / "gpt.onnx"
    torch.onnx.export(
        Gpt(), torch.tensor(x[:2]), str(path), input_names=["input"], output_names=["logits"],
        dynamic_axes={"input": {0: "n"}, "logits": {0: "n"}}, opset_version=18, dynamo=False,
    )  # fmt: skip
    for split, (x, y) in data.items():
        np.savez(folder / f"gpt.{split}.npz", input=x, target=y)
    return path, "input", data


def score(name, path, input_name, x, y):
    """Accuracy in percent, or perplexity."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(None, {input_name: x[i : i + 100]})[0] for i in range(0, len(x), 100)])
    if name != "gpt":
        return (logits.argmax(1) == y).mean() * 100
    loss = nn.functional.cross_entropy(torch.tensor(logits).double().flatten(0, 1), torch.tensor(y).flatten())
    return loss.exp().item()


def row(name, folder, test):
    path, input_name, data = make_gpt(folder) if name == "gpt" else digits.make(name, folder, 0, None)
    if test and name != "gpt":
        arrays = np.load(test)
        size = data["test"][0].shape[-1]
        x = arrays["x"].astype(np.float32).reshape(-1, 1, size, 28 // size, size, 28 // size).mean((3, 5)) / 255
        data["test"] = x, arrays["y"].astype(np.int64)
    half = folder / f"{name}.half.onnx"
    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), half)
    results = []
    for source, precision in ((path, "fp32"), (path, "fp16"), (path, "bf16"), (half, "fp16")):
        scores = []
        for seed in SEEDS[name]:
            target = folder / "trained.onnx"
            digits.train(name, folder, source, target, seed, "--epochs", EPOCHS[name], "--precision", precision,
                         "--schedule", "cosine", "--lr", "3e-3" if name == "gpt" else "1e-3")  # fmt: skip
            types = {t.data_type for t in onnx.load(target).graph.initializer}
            assert (onnx.TensorProto.FLOAT16 in types) == (source == half)
            scores.append(score(name, target, input_name, *data["test"]))
            print(f"{name} {source.name} {precision} seed {seed}: {scores[-1]:.2f}", file=sys.stderr, flush=True)
        results.append(np.mean(scores))
    first = results[0]
    shown = [f"{first:.2f}", *(f"{x:.2f} ({(x / first - 1) * 100:+.2f} %)" for x in results[1:])]
    return f"| {name} | " + " | ".join(shown) + " |"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*")
    parser.add_argument("--test")
    args = parser.parse_args()
    head = ["model", "fp32", "fp16", "bf16", "float16 file"]
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join("---" for _ in head) + " |")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models or EPOCHS:
            print(row(name, Path(folder), args.test), flush=True)


if __name__ == "__main__":
    main()
