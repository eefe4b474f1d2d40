"""Accuracy of 8-bit models: quantized after training by onnxruntime, and trained by agd-onnx with --qat; with `int4`, of
models with weights of 4 bits: rounded to the nearest step, and trained.

    npm run build && python compare/quantization/main.py [int4] [lenet] [resnet20] [bert]

Needs torch, transformers, onnx and onnxruntime. Every file is evaluated by onnxruntime with its integer kernels, on the
1,000 test digits. The table is in docs/guide/qat.md.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = {"lenet": 3, "resnet20": 4, "bert": 6}
MORE = 1  # epoch of fine-tuning, with and without rounding


def load(name):
    arrays = np.load(ROOT / "models" / "mnist" / f"{name}.npz")
    return arrays["x"].astype(np.float32)[:, None] / 255, arrays["y"].astype(np.int64)


def patches(x):
    """The mean of each 4x4 patch as one of 32 tokens."""
    means = x.reshape(len(x), 7, 4, 7, 4).mean((2, 4)).reshape(len(x), 49)
    return np.minimum(means * 32, 31).astype(np.int64)


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters, option A of He et al. 2015."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, self.added = stride, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.added:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.added))
        return torch.relu(y + x)


def resnet20():
    """As of He et al. 2015, for one channel, with a first stride of 2."""
    layers = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for outputs in (16, 32, 64):
        for i in range(3):
            layers.append(Block(inputs, outputs, 2 if i == 0 and outputs > 16 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=32, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            max_position_embeddings=64, num_labels=10, attn_implementation="eager",
        )  # fmt: skip
        self.bert = BertForSequenceClassification(config)

    def forward(self, input_ids):
        return self.bert(input_ids=input_ids).logits


def make(name, folder):
    """The untrained model, and its data."""
    torch.manual_seed(0)
    path = folder / f"{name}.onnx"
    data = {split: load(split) for split in ("train", "test")}
    if name == "bert":
        data = {split: (patches(x), y) for split, (x, y) in data.items()}
    if name == "resnet20":
        # Images of 14x14, a third of them: a network of this depth takes long.
        data = {split: (x.reshape(len(x), 1, 14, 2, 14, 2).mean((3, 5)), y) for split, (x, y) in data.items()}
        data["train"] = tuple(array[:3000] for array in data["train"])
    input_name = "input_ids" if name == "bert" else "input"
    if name == "lenet":
        path.write_bytes((ROOT / "models" / "lenet.onnx").read_bytes())
    else:
        model = resnet20() if name == "resnet20" else Classifier()
        training = torch.onnx.TrainingMode.TRAINING if name == "resnet20" else torch.onnx.TrainingMode.EVAL
        torch.onnx.export(
            model, torch.tensor(data["test"][0][:2]), str(path), input_names=[input_name], output_names=["logits"],
            dynamic_axes={input_name: {0: "n"}, "logits": {0: "n"}}, opset_version=17, dynamo=False,
            training=training, do_constant_folding=name != "resnet20",
        )  # fmt: skip
    for split, (x, y) in data.items():
        np.savez(folder / f"{name}.{split}.npz", **{input_name: x, "target": y})
    return path, input_name, data


def cli(*args):
    subprocess.run(["node", str(ROOT / "bin" / "agd-onnx.js"), *map(str, args)], check=True, stdout=sys.stderr)


def train(name, folder, source, target, epochs, *more):
    cli("train", source, "--loss", "cross-entropy", "--data", folder / f"{name}.train.npz", "--epochs", epochs,
        "--export", "last", "-o", target, *more)  # fmt: skip


class Batches(CalibrationDataReader):
    def __init__(self, name, x, count=8, size=32):
        self.batches = iter([{name: x[i * size : (i + 1) * size]} for i in range(count)])

    def get_next(self):
        return next(self.batches, None)


def accuracy(path, input_name, x, y):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(None, {input_name: x[i : i + 100]})[0] for i in range(0, len(x), 100)])
    return f"{(logits.argmax(1) == y).mean() * 100:.1f} %"


def row(name, folder):
    path, input_name, data = make(name, folder)
    float_path = folder / f"{name}.float.onnx"
    train(name, folder, path, float_path, EPOCHS[name])
    small = ("--lr", "1e-4")
    longer = folder / f"{name}.longer.onnx"
    train(name, folder, float_path, longer, MORE, *small, "--batch-norm", "eval")
    results = [accuracy(p, input_name, *data["test"]) for p in (float_path, longer)]
    prepared = folder / f"{name}.prepared.onnx"
    quant_pre_process(str(longer), str(prepared), skip_symbolic_shape=True)
    for reduced in (False, True):
        after = folder / f"{name}.after.onnx"
        quantize_static(
            str(prepared), str(after), Batches(input_name, data["train"][0]), quant_format=QuantFormat.QDQ,
            per_channel=True, activation_type=QuantType.QUInt8, reduce_range=reduced,
        )  # fmt: skip
        results.append(accuracy(after, input_name, *data["test"]))
        for method in ("ema", "lsq"):
            ours = folder / f"{name}.{method}.onnx"
            qat = f"int8:method={method},reduce-range={str(reduced).lower()}"
            train(name, folder, float_path, ours, MORE, *small, "--qat", qat)
            results.append(accuracy(ours, input_name, *data["test"]))
            kinds = {node.op_type for node in onnx.load(ours).graph.node}
            assert "DequantizeLinear" in kinds and "BatchNormalization" not in kinds
    return f"| {name} | " + " | ".join(results) + " |"


def row_of_four_bits(name, folder):
    path, input_name, data = make(name, folder)
    float_path = folder / f"{name}.float.onnx"
    train(name, folder, path, float_path, EPOCHS[name])
    longer, state, rounded = (folder / f"{name}.{kind}.onnx" for kind in ("longer", "state.agd", "rounded"))
    train(name, folder, float_path, longer, MORE, "--lr", "1e-4", "--batch-norm", "eval")
    cli("inject", longer, "--loss", "cross-entropy", "--qat", "int4:method=fixed", "-o", state)
    cli("export", state, "-o", rounded)
    results = [accuracy(p, input_name, *data["test"]) for p in (float_path, longer, rounded)]
    for method in ("fixed", "ema", "lsq"):
        for lr in ("1e-4", "1e-3"):
            ours = folder / f"{name}.{method}.onnx"
            train(name, folder, float_path, ours, MORE, "--lr", lr, "--qat", f"int4:method={method}")
            results.append(accuracy(ours, input_name, *data["test"]))
    return f"| {name} | " + " | ".join(results) + " |"


def main():
    arguments = sys.argv[1:]
    is_four = "int4" in arguments
    names = [name for name in arguments if name != "int4"] or list(EPOCHS)
    head = ["model", "float", "float, trained on"]
    if is_four:
        head += ["rounded", *(f"{method}, lr {lr}" for method in ("fixed", "ema", "lsq") for lr in ("1e-4", "1e-3"))]
    else:
        head += [f"{way}{bits}" for bits in ("", ", 7 bits") for way in ("quantize_static", "--qat ema", "--qat lsq")]
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join("---" for _ in head) + " |")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print((row_of_four_bits if is_four else row)(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
