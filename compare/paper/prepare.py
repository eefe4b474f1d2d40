"""Writes models and data of docs/explain/paper.md: prepare.py DIR [--words FILE.txt] [--letters FILE.txt] [--digits FILE.npz]
[--avazu FILE.csv] [--criteo FILE.csv]. Each file gives the tasks that need it; each task has parts to train on, to choose
learning rates by and to report on.
"""

import argparse
import csv
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / 'optimizers'))
from prepare import Block, DeepCross, Gpt  # noqa: E402

WORDS, WINDOW, LETTERS = 2000, 20, 32
PARTS = ('train', 'val', 'test')
warnings.filterwarnings('ignore')


class WordLstm(nn.Module):
    def __init__(self, layers, width=64):
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, WORDS)

    def forward(self, tokens):
        return self.head(self.lstm(self.embed(tokens))[0])


class WordTransformer(nn.Module):
    def __init__(self, width=64, heads=4, layers=2):
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.position = nn.Parameter(0.02 * torch.randn(WINDOW, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, WORDS)
        nn.init.normal_(self.embed.weight, 0, 0.02)

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.position)))


class Residual(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer))
        same = inner == outer and stride == 1
        self.skip = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))


def resnet(blocks, width=8):
    """He, Zhang, Ren, Sun: «Deep Residual Learning for Image Recognition», 2016, for small images, at half its width.
    3 stages of so many blocks: 6 blocks + 2 layers."""
    layers, inner = [nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()], width
    for stage in range(3):
        for block in range(blocks):
            layers.append(Residual(inner, width << stage, 2 if stage and not block else 1))
            inner = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, 10))


class ClickMlp(nn.Module):
    """One table of embeddings for all fields: each has its own rows."""

    def __init__(self, sizes, width=8):
        super().__init__()
        self.embed = nn.Embedding(sum(sizes), width)
        self.mlp = nn.Sequential(
            nn.Linear(len(sizes) * width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, ids):
        return self.mlp(self.embed(ids).flatten(1)).squeeze(1)


def write(name, model, inputs, arrays, sizes):
    """The model, and rows of `arrays` one part after the other."""
    torch.onnx.export(
        model, tuple(inputs.values()), OUT / f'{name}.onnx', dynamo=False, opset_version=18,
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        input_names=list(inputs), output_names=['logits'], dynamic_axes={k: {0: 'batch'} for k in [*inputs, 'logits']})
    first = 0
    for part, size in zip(PARTS, sizes):
        rows = slice(first, first + size)
        np.savez_compressed(OUT / f'{name}-{part}.npz', **{k: v[rows] for k, v in arrays.items()})
        first += size


def windows(ids, length, sizes):
    count = sum(sizes)
    if len(ids) <= count * length:
        raise SystemExit(f'The text has {len(ids)} tokens; {count * length + 1} are needed.')
    x, y = (ids[i:i + count * length].reshape(count, length) for i in (0, 1))
    return {'tokens': x, 'target': y}


def words(path, sizes=(1024, 128, 128)):
    """The most frequent words of the whole text have numbers; the others are one."""
    text = Path(path).read_text().replace('\n', ' <eos> ').split()
    known = {word: i + 1 for i, (word, _) in enumerate(Counter(text).most_common(WORDS - 1))}
    arrays = windows(np.array([known.get(word, 0) for word in text], np.int32), WINDOW, sizes)
    example = {'tokens': torch.zeros(2, WINDOW, dtype=torch.int64)}
    lstms = {f'lstm{layers}': lambda layers=layers: WordLstm(layers) for layers in (1, 2, 3)}
    for name, make in {**lstms, 'transformer': WordTransformer}.items():
        torch.manual_seed(0)
        write(name, make(), example, arrays, sizes)


def letters(path, sizes=(1024, 128, 128)):
    alphabet, ids = np.unique(list(Path(path).read_text()), return_inverse=True)
    torch.manual_seed(0)
    example = {'tokens': torch.zeros(2, LETTERS, dtype=torch.int64)}
    write('gpt', Gpt(len(alphabet)), example, windows(ids.astype(np.int32), LETTERS, sizes), sizes)


def digits(path, sizes=(1200, 297, 300)):
    """scikit-learn's 1,797 digits of 8x8, values 0 to 16."""
    data = np.load(path)
    order = np.random.default_rng(0).permutation(len(data['y']))
    arrays = {'input': (data['x'][order, None] / 16).astype(np.float32), 'target': data['y'][order].astype(np.int32)}
    for name, blocks in (('resnet20', 3), ('resnet32', 5)):
        torch.manual_seed(0)
        write(name, resnet(blocks).train(), {'input': torch.zeros(2, 1, 8, 8)}, arrays, sizes)


def categories(rows, names, known):
    """Numbers of the values by field; those that the first `known` rows have once or never are one of each field."""
    columns, sizes = [], []
    for name in names:
        values = [row[name] for row in rows]
        frequent = [v for v, n in Counter(values[:known]).most_common() if n > 1]
        index = {v: sum(sizes) + 1 + k for k, v in enumerate(frequent)}
        columns.append([index.get(v, sum(sizes)) for v in values])
        sizes.append(1 + len(frequent))
    return np.array(columns, np.int32).T, sizes


def shuffled(path):
    with open(path) as file:
        rows = list(csv.DictReader(file))
    np.random.default_rng(0).shuffle(rows)
    parts = [len(rows) * 6 // 10, len(rows) * 2 // 10]
    return rows, (*parts, len(rows) - sum(parts))


def avazu(path):
    rows, sizes = shuffled(path)
    fields = [name for name in rows[0] if name not in ('id', 'click', 'hour', 'device_id', 'device_ip')]
    ids, counts = categories(rows, fields, sizes[0])
    target = np.array([float(row['click']) for row in rows], np.float32)
    torch.manual_seed(0)
    example = {'ids': torch.zeros(2, len(fields), dtype=torch.int64)}
    write('avazu', ClickMlp(counts), example, {'ids': ids, 'target': target}, sizes)


def criteo(path):
    rows, sizes = shuffled(path)
    ids, counts = categories(rows, [f'C{i}' for i in range(1, 27)], sizes[0])
    numbers = np.log1p(np.array([[float(row[f'I{i}'] or 0) for i in range(1, 14)] for row in rows]).clip(0))
    train = numbers[:sizes[0]]
    numbers = ((numbers - train.mean(0)) / (train.std(0) + 1e-6)).astype(np.float32)
    target = np.array([float(row['label']) for row in rows], np.float32)
    torch.manual_seed(0)
    example = {'ids': torch.zeros(2, 26, dtype=torch.int64), 'numbers': torch.zeros(2, 13)}
    write('criteo', DeepCross(counts, 13), example, {'ids': ids, 'numbers': numbers, 'target': target}, sizes)


if __name__ == '__main__':
    TASKS = (words, letters, digits, avazu, criteo)
    parser = argparse.ArgumentParser()
    parser.add_argument('out', type=Path)
    for task in TASKS:
        parser.add_argument(f'--{task.__name__}')
    args = parser.parse_args()
    OUT = args.out
    OUT.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        path = getattr(args, task.__name__)
        if path:
            task(path)
