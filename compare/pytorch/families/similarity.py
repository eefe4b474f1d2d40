"""Losses of pairs and triples, which the file computes itself, and networks that are used twice."""

import torch
from torch import nn
from torch.nn import functional as F

from . import module


@module('triplet', loss='output', dynamic={'a': {0: 'batch'}, 'p': {0: 'batch'}, 'n': {0: 'batch'}}, exporters=('dynamo',))
class Triplet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, a, p, n):
        a, p, n = self.net(a), self.net(p), self.net(n)
        return F.triplet_margin_loss(a, p, n, margin=2.0) + (2 - F.cosine_similarity(a, p)).mean() + F.pairwise_distance(a, n).mean()

    inputs = staticmethod(lambda: {'a': torch.randn(3, 5), 'p': torch.randn(3, 5), 'n': torch.randn(3, 5)})


@module('info-nce', loss='output', dynamic={'a': {0: 'batch'}, 'b': {0: 'batch'}}, scalars=('temperature',))
class InfoNce(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5, 4)
        self.temperature = nn.Parameter(torch.tensor(1.7))

    def forward(self, a, b):
        a, b = F.normalize(self.net(a), dim=-1), F.normalize(self.net(b), dim=-1)
        logits = a @ b.T * self.temperature.exp()
        target = torch.arange(a.shape[0])
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    inputs = staticmethod(lambda: {'a': torch.randn(4, 5), 'b': torch.randn(4, 5)})


@module('arcface', dynamic={'x': {0: 'batch'}, 'labels': {0: 'batch'}}, loss='output')
class ArcFace(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.w = nn.Linear(5, 4), nn.Parameter(torch.randn(6, 4))

    def forward(self, x, labels):
        c = F.linear(F.normalize(self.net(x)), F.normalize(self.w)).clamp(-1 + 1e-6, 1 - 1e-6)
        hot = F.one_hot(labels, 6).bool()
        y = torch.where(hot, torch.cos(torch.acos(c) + 0.3), c) * 8
        return F.cross_entropy(y, labels), y

    inputs = staticmethod(lambda: {'x': torch.randn(3, 5), 'labels': torch.tensor([0, 5, 2])})


@module('hyperbolic', loss='output', dynamic={'i': {0: 'batch'}, 'j': {0: 'batch'}}, exporters=('dynamo',))
class Poincare(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(6, 3)
        nn.init.uniform_(self.e.weight, -0.3, 0.3)

    def forward(self, i, j):
        u, v = self.e(i), self.e(j)
        d = (u - v).square().sum(-1)
        x = 1 + 2 * d / ((1 - u.square().sum(-1)) * (1 - v.square().sum(-1)))
        return torch.acosh(x).mean() + torch.atanh(u.norm(dim=-1)).mean() + torch.asinh(v).sum()

    inputs = staticmethod(lambda: {'i': torch.tensor([0, 1, 2]), 'j': torch.tensor([3, 4, 5])})


@module('siamese-fresh', fresh=True, loss='mse', dynamic={'a': {0: 'batch'}, 'b': {0: 'batch'}})
class Siamese(nn.Module):
    """One network for two inputs; its fresh biases and scales are read twice."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(4))
        for m in (self.net[0], self.net[2]):
            nn.init.zeros_(m.bias)

    def forward(self, a, b):
        return (self.net(a) * self.net(b)).sum(1)

    inputs = staticmethod(lambda: {'a': torch.randn(3, 4), 'b': torch.randn(3, 4)})
