"""Writes the models and data of docs/explain/agd.md's comparison, but for LeNet's, which are in models/.

prepare.py TINYSHAKESPEARE.txt CRITEO.csv OUT
"""

import csv
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

CONTEXT = 32
warnings.filterwarnings('ignore')


class Lstm(nn.Module):
    def __init__(self, letters, width=128):
        super().__init__()
        self.embed = nn.Embedding(letters, 64)
        self.lstm = nn.LSTM(64, width, batch_first=True)
        self.head = nn.Linear(width, letters)

    def forward(self, tokens):
        return self.head(self.lstm(self.embed(tokens))[0])


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Gpt(nn.Module):
    def __init__(self, letters, width=64, heads=4, layers=2):
        super().__init__()
        self.embed = nn.Embedding(letters, width)
        self.position = nn.Parameter(torch.zeros(CONTEXT, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.position)))


class DeepCross(nn.Module):
    """Wang, Fu, Fu, Wang: «Deep & Cross Network for Ad Click Predictions», 2017."""

    def __init__(self, sizes, numbers, width=8, crosses=2):
        super().__init__()
        # One table for all fields: each has its own rows.
        self.embed = nn.Embedding(sum(sizes), width)
        n = len(sizes) * width + numbers
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(n, 1) / n ** 0.5) for _ in range(crosses))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(n)) for _ in range(crosses))
        self.deep = nn.Sequential(nn.Linear(n, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(n + 32, 1)

    def forward(self, ids, numbers):
        first = x = torch.cat([self.embed(ids).flatten(1), numbers], 1)
        for weight, bias in zip(self.weights, self.biases):
            x = first * (x @ weight) + bias + x
        return self.head(torch.cat([x, self.deep(first)], 1)).squeeze(1)


def export(name, module, inputs):
    torch.onnx.export(
        module, tuple(inputs.values()), OUT / f'{name}.onnx', dynamo=False, opset_version=18,
        input_names=list(inputs), output_names=['logits'], dynamic_axes={k: {0: 'batch'} for k in [*inputs, 'logits']})


def text(path, train=8192, held=512):
    """Windows of the text's first nine tenths to train on, and of the rest."""
    letters, ids = np.unique(list(Path(path).read_text()), return_inverse=True)
    cut = len(ids) * 9 // 10
    for name, part, count in (('train', ids[:cut], train), ('val', ids[cut:], held)):
        x, y = (part[i:i + count * CONTEXT].reshape(count, CONTEXT).astype(np.uint8) for i in (0, 1))
        np.savez_compressed(OUT / f'text-{name}.npz', tokens=x, target=y)
    tokens = torch.zeros(2, CONTEXT, dtype=torch.int64)
    for name, make in (('lstm', Lstm), ('gpt', Gpt)):
        torch.manual_seed(0)
        export(name, make(len(letters)), {'tokens': tokens})


def table(name, ids, numbers, clicks, sizes, train):
    for part, rows in (('train', slice(train)), ('val', slice(train, None))):
        arrays = dict(ids=ids, numbers=numbers, target=clicks)
        kinds = dict(ids=np.int32, numbers=np.float32, target=np.float32)
        np.savez_compressed(OUT / f'{name}-{part}.npz', **{k: v[rows].astype(kinds[k]) for k, v in arrays.items()})
    torch.manual_seed(0)
    example = {'ids': torch.zeros(2, len(sizes), dtype=torch.int64), 'numbers': torch.zeros(2, numbers.shape[1])}
    export(name, DeepCross(sizes, numbers.shape[1]), example)


def criteo(path, train=150):
    """Logarithms of the counts, missing ones as 0; categories that the first rows have once or never are one."""
    rows = list(csv.DictReader(open(path)))
    np.random.default_rng(0).shuffle(rows)
    counts = np.array([[float(r[f'I{i}'] or 0) for i in range(1, 14)] for r in rows])
    numbers = np.log1p(counts.clip(0))
    numbers = (numbers - numbers[:train].mean(0)) / (numbers[:train].std(0) + 1e-6)
    columns, sizes = [], []
    for i in range(1, 27):
        values = [r[f'C{i}'] for r in rows]
        known = [v for v, n in Counter(values[:train]).most_common() if n > 1]
        index = {v: sum(sizes) + 1 + k for k, v in enumerate(known)}
        columns.append([index.get(v, sum(sizes)) for v in values])
        sizes.append(1 + len(known))
    table('criteo', np.array(columns).T, numbers, np.array([float(r['label']) for r in rows]), sizes, train)


def planted(train=16384, held=4096, sizes=(2000, 1000, 500, 100, 50, 20, 10, 5), width=4):
    """Clicks drawn from a factorization machine; categories are as frequent as Zipf's law has it."""
    random = np.random.default_rng(0)
    offsets = np.cumsum((0, *sizes[:-1]))
    ids = np.stack([random.choice(n, train + held, p=(p := 1 / np.arange(1, n + 1)) / p.sum()) for n in sizes], 1) + offsets
    numbers = random.standard_normal((train + held, 4))
    vectors, own = random.standard_normal((sum(sizes), width)), random.standard_normal(sum(sizes))
    v = vectors[ids]
    pairs = ((v.sum(1) ** 2 - (v ** 2).sum(1)) / 2).sum(1)
    logits = 0.25 * pairs + 0.5 * own[ids].sum(1) + numbers @ random.standard_normal(4) * 0.5 - 1
    clicks = random.random(len(ids)) < 1 / (1 + np.exp(-logits))
    table('planted', ids, numbers, clicks, sizes, train)
    right, p = clicks[train:], 1 / (1 + np.exp(-logits[train:]))
    print(f'planted: {clicks.mean():.1%} clicks; who knows how they were drawn has a log loss of '
          f'{-np.log(np.where(right, p, 1 - p)).mean():.4f}')


if __name__ == '__main__':
    OUT = Path(sys.argv[3])
    OUT.mkdir(parents=True, exist_ok=True)
    text(sys.argv[1])
    criteo(sys.argv[2])
    planted()
