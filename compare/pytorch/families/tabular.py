"""Recommenders and tables."""

import torch
from torch import nn
from torch.nn import functional as F

from . import model, module

FIELDS = (7, 5, 11)
BATCH = {'ids': {0: 'batch'}, 'numbers': {0: 'batch'}}


def features(batch=4):
    ids = torch.stack([torch.randint(0, n, (batch,)) for n in FIELDS], 1)
    return {'ids': ids, 'numbers': torch.randn(batch, 3)}


class Embeddings(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, width) for n in FIELDS)

    def forward(self, ids):
        return torch.stack([t(ids[:, i]) for i, t in enumerate(self.tables)], 1)


class DeepFM(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.embed = Embeddings(1), Embeddings(6)
        self.deep = nn.Sequential(nn.Linear(21, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))
        self.linear = nn.Linear(3, 1)

    def forward(self, ids, numbers):
        v = self.embed(ids)
        pairs = 0.5 * (v.sum(1) ** 2 - (v ** 2).sum(1)).sum(1, keepdim=True)
        deep = self.deep(torch.cat([v.flatten(1), numbers], 1))
        return (self.linear(numbers) + self.first(ids).sum(1) + pairs + deep).squeeze(-1)


@model('deepfm', loss='bce-with-logits', dynamic=BATCH)
def deepfm():
    return DeepFM(), features()


class CrossNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = Embeddings(4)
        width = 15
        self.w = nn.ParameterList(nn.Parameter(torch.randn(width, 1) * 0.3) for _ in range(3))
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(3))
        self.full = nn.Linear(width, width)
        self.deep = nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(width + 8, 1)

    def forward(self, ids, numbers):
        x0 = x = torch.cat([self.embed(ids).flatten(1), numbers], 1)
        for w, b in zip(self.w, self.b):
            x = x0 * (x @ w) + b + x
        x = x0 * self.full(x) + x
        return self.head(torch.cat([x, self.deep(x0)], 1))


@model('deep-cross', loss='bce-with-logits', dynamic=BATCH, batch_norm=True)
def deep_cross():
    return CrossNetwork(), features()


class Bag(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 6, mode=mode)
        self.head = nn.Linear(6, 3)

    def forward(self, ids, offsets):
        return self.head(self.bag(ids, offsets))


for mode in ('sum', 'mean'):
    model(f'embedding-bag-{mode}')(
        lambda mode=mode: (Bag(mode), {'ids': torch.randint(0, 20, (9,)), 'offsets': torch.tensor([0, 3, 4])}))


class TwoTowers(nn.Module):
    """Users and items, every pair in the batch scored; embeddings with a padding row."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(9, 6), nn.Embedding(12, 6, padding_idx=0)
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, users, items):
        u = nn.functional.normalize(self.a(self.user(users)), dim=-1)
        mask = (items != 0).unsqueeze(-1).to(self.item.weight.dtype)
        pooled = (self.item(items) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return 10 * u @ nn.functional.normalize(self.b(pooled), dim=-1).T


@model('two-towers', dynamic={'users': {0: 'batch'}, 'items': {0: 'batch'}})
def two_towers():
    items = torch.randint(1, 12, (3, 4))
    items[0, 2:] = 0
    return TwoTowers(), {'users': torch.randint(0, 9, (3,)), 'items': items}


class Experts(nn.Module):
    """A mixture of experts and two tasks; the loss reads one of the outputs."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 6), nn.GELU()) for _ in range(3))
        self.gates = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))
        self.heads = nn.ModuleList([nn.Linear(6, 4), nn.Linear(6, 1)])

    def forward(self, x):
        experts = torch.stack([e(x) for e in self.experts], 1)
        mixed = [torch.einsum('be,bed->bd', gate(x).softmax(-1), experts) for gate in self.gates]
        return [head(m) for head, m in zip(self.heads, mixed)]


@model('mixture-of-experts', output=0, dynamic={'x': {0: 'batch'}})
def experts():
    return Experts(), {'x': torch.randn(4, 8)}


class TopExperts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.w1, self.w2 = nn.Parameter(torch.randn(4, 8, 6) * 0.3), nn.Parameter(torch.randn(4, 6, 5) * 0.3)

    def forward(self, x):
        weight, index = self.gate(x).softmax(-1).topk(2, -1)
        weight = weight / weight.sum(-1, keepdim=True)
        hidden = torch.einsum('bd,edh->beh', x, self.w1).relu()
        out = torch.einsum('beh,eho->beo', hidden, self.w2)
        picked = out.gather(1, index.unsqueeze(-1).expand(-1, -1, out.shape[-1]))
        return (picked * weight.unsqueeze(-1)).sum(1)


@model('top-k-experts', dynamic={'x': {0: 'batch'}})
def top_experts():
    return TopExperts(), {'x': torch.randn(4, 8)}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.SELU(), nn.Linear(16, 8)) for _ in range(2))
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@model('tabular-resnet', loss='mse', dynamic={'x': {0: 'batch'}})
def tabular_resnet():
    return Residual(), {'x': torch.randn(4, 6)}


@model('mlp-fresh', dynamic={'x': {0: 'batch'}}, fresh=True, batch_norm=True)
def mlp_fresh():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(),
                         nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)), {'x': torch.randn(5, 6)}


@module('tabnet', dynamic={'x': {0: 'batch'}}, batch_norm=True)
class TabNet(nn.Module):
    """Sparsemax attention over features."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(6)
        self.att, self.fc, self.head = nn.Linear(4, 6), nn.Linear(6, 16), nn.Linear(4, 3)

    def sparsemax(self, z):
        s = z.sort(-1, descending=True).values
        k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
        support = 1 + k * s > s.cumsum(-1)
        n = support.sum(-1, keepdim=True)
        tau = (s.cumsum(-1).gather(-1, n - 1) - 1) / n.to(z.dtype)
        return (z - tau).clamp(min=0)

    def forward(self, x):
        x = self.bn(x)
        d, a = F.glu(self.fc(x)).chunk(2, 1)
        out, prior = F.relu(d), 1.0
        for _ in range(2):
            m = self.sparsemax(self.att(F.glu(self.fc(x))[:, 4:]) * prior)
            prior = prior * (1.3 - m)
            out = out + F.relu(F.glu(self.fc(x * m))[:, :4])
        return self.head(out)

    inputs = staticmethod(lambda: {'x': torch.randn(4, 6)})


@module('dlrm', loss='bce-with-logits', dynamic={'ids': {0: 'batch'}, 'x': {0: 'batch'}})
class Dlrm(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, 4) for n in (5, 7, 9))
        self.bottom, self.top = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4 + 6, 1)

    def forward(self, ids, x):
        d = self.bottom(x)
        v = torch.stack([d] + [t(ids[:, i]) for i, t in enumerate(self.tables)], 1)
        z = torch.bmm(v, v.transpose(1, 2))
        i, j = torch.tril_indices(4, 4, -1)
        return self.top(torch.cat([d, z[:, i, j]], 1)).squeeze(1)

    inputs = staticmethod(lambda: {'ids': torch.stack([torch.randint(0, n, (4,)) for n in (5, 7, 9)], 1), 'x': torch.randn(4, 3)})
