"""Accuracy of quantized models: quantized after training, and trained by agd-onnx with --qat.

    npm run build && python compare/quantization/main.py [--texts FILE FILE] [lenet] [resnet20] [bert]

Needs torch, transformers, onnx and onnxruntime. From one trained float model, each way gets the same additional epoch:
the float model is trained on and then quantized, or training continues with --qat. Rates are chosen on 1,000 samples kept
from training, with the first seed; accuracies are of the test samples, as mean and standard deviation over three seeds.
Every file is evaluated by onnxruntime with its integer kernels. `bert` tells from eight words which of two plain English
texts they are from, such as tinyshakespeare and WikiText-2. The tables are in docs/guide/qat.md.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = {"lenet": 3, "resnet20": 5, "bert": 5}
SAMPLES = {"lenet": 4000, "resnet20": 2000, "bert": 6000}
HELD = 1000  # samples to choose rates on
RATES = ("1e-4", "1e-3")
SEEDS = 3
# At its default rate, AGD does not learn this task (docs/explain/agd.md); AdamW does.
OPTIMIZER = {"bert": ["--optimizer", "adamw"]}
WORDS, LENGTH = 1000, 8
# Weights of 7 bits: without VNNI, the kernels of 8 bits saturate.
WAYS = {
    "float": ["--batch-norm", "eval"],
    "int8": ["--qat", "int8:reduce-range=true"],
    "int4 lsq": ["--qat", "int4:method=lsq"],
    "int4 ema": ["--qat", "int4:method=ema"],
}


def load(name):
    arrays = np.load(ROOT / "models" / "mnist" / f"{name}.npz")
    return arrays["x"].astype(np.float32)[:, None] / 255, arrays["y"].astype(np.int64)


def windows(paths, split):
    """Windows of words, of which the most frequent have a number each, and the text that they are from."""
    texts = [re.findall("[a-z]+", path.read_text().replace("<unk>", " ").lower())[:200_000] for path in paths]
    halves = [words[: len(words) // 2] if split == "train" else words[len(words) // 2 :] for words in texts]
    known = Counter(word for words in texts for word in words[: len(words) // 2]).most_common(WORDS - 1)
    number = {word: i + 1 for i, (word, _) in enumerate(known)}
    random = np.random.default_rng(0)
    y = random.integers(0, 2, SAMPLES["bert"] + HELD if split == "train" else 2000)
    codes = [np.array([number.get(word, 0) for word in words]) for words in halves]
    starts = [random.integers(0, len(codes[i]) - LENGTH) for i in y]
    return np.stack([codes[i][start : start + LENGTH] for i, start in zip(y, starts)]).astype(np.int64), y


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
            vocab_size=WORDS, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
            max_position_embeddings=LENGTH, num_labels=2, attn_implementation="eager",
        )  # fmt: skip
        self.bert = BertForSequenceClassification(config)

    def forward(self, input_ids):
        return self.bert(input_ids=input_ids).logits


def make(name, folder, seed, texts):
    """The untrained model, and its data."""
    torch.manual_seed(seed)
    path = folder / f"{name}.onnx"
    data = {split: windows(texts, split) if name == "bert" else load(split) for split in ("train", "test")}
    if name == "resnet20":
        # Images of 14x14: a network of this depth takes long.
        data = {split: (x.reshape(len(x), 1, 14, 2, 14, 2).mean((3, 5)), y) for split, (x, y) in data.items()}
    x, y = data["train"]
    data["train"] = x[: SAMPLES[name]], y[: SAMPLES[name]]
    data["held"] = x[-HELD:], y[-HELD:]
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
    x, y = data["train"]
    np.savez(folder / f"{name}.train.npz", **{input_name: x, "target": y})
    return path, input_name, data


def cli(*args):
    subprocess.run(["node", str(ROOT / "bin" / "agd-onnx.js"), *map(str, args)], check=True, stdout=sys.stderr)


def train(name, folder, source, target, seed, *more):
    cli("train", source, "--loss", "cross-entropy", "--data", folder / f"{name}.train.npz", "--seed", seed, "--quiet",
        "--export", "last", "-o", target, *OPTIMIZER.get(name, []), *more)  # fmt: skip


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
    return (logits.argmax(1) == y).mean() * 100


def after_training(source, target, input_name, x, weights):
    """Quantized by onnxruntime; weights of 4 bits, which its static quantizer does not take, rounded to the nearest level."""
    if weights == "int8":
        prepared = target.with_suffix(".prepared.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(target), Batches(input_name, x), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, reduce_range=True,
        )  # fmt: skip
        return
    state = target.with_suffix(".agd.onnx")
    cli("inject", source, "--loss", "cross-entropy", "--qat", "int4:method=fixed", "-o", state)
    cli("export", state, "-o", target)


def accuracies(name, folder, seed, texts, rates):
    """By way; `rates` are those that were chosen with the first seed, and are filled in by it."""
    path, input_name, data = make(name, folder, seed, texts)
    trained = folder / f"{name}.float.onnx"
    train(name, folder, path, trained, seed, "--epochs", EPOCHS[name])
    result = {"float": accuracy(trained, input_name, *data["test"])}
    longer = folder / f"{name}.longer.onnx"
    for way, flags in WAYS.items():
        files = {}
        for rate in [rates[way]] if way in rates else RATES:
            files[rate] = folder / f"{name}.{way}.{rate}.onnx".replace(" ", "-")
            train(name, folder, trained, files[rate], seed, "--epochs", 1, "--lr", rate, *flags)
        held = {rate: accuracy(file, input_name, *data["held"]) for rate, file in files.items()}
        rates.setdefault(way, max(held, key=held.get))
        best = files[rates[way]]
        result[f"{way}, {rates[way]}"] = accuracy(best, input_name, *data["test"])
        if way == "float":
            longer.write_bytes(best.read_bytes())
    for weights in ("int8", "int4"):
        for kind, source in (("float", trained), ("longer", longer)):
            target = folder / f"{name}.{weights}.{kind}.onnx"
            after_training(source, target, input_name, data["train"][0], weights)
            result[f"{weights} after training ({kind})"] = accuracy(target, input_name, *data["test"])
    return result


def main():
    arguments = sys.argv[1:]
    texts = None
    if "--texts" in arguments:
        at = arguments.index("--texts")
        texts = [Path(path) for path in arguments[at + 1 : at + 3]]
        del arguments[at : at + 3]
    for name in arguments or (list(EPOCHS) if texts else ["lenet", "resnet20"]):
        rates = {}
        with tempfile.TemporaryDirectory() as folder:
            runs = []
            for seed in range(SEEDS):
                runs.append(accuracies(name, Path(folder), seed, texts, rates))
                print(f"{name}, seed {seed}: {runs[-1]}", file=sys.stderr, flush=True)
        print(name)
        for way in runs[0]:
            values = np.array([run[way] for run in runs])
            print(f"  {way:32} {values.mean():.1f} ± {values.std(ddof=1):.1f} %", flush=True)


if __name__ == "__main__":
    main()
