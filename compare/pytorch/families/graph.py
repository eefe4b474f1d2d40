"""Graph networks: edges as a list, and as a dense matrix."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from . import model, module

EDGES = torch.tensor([[0, 1, 2, 3, 4, 0, 2], [1, 2, 3, 4, 0, 2, 4]])


class DenseGcn(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, adjacency):
        a = adjacency + torch.eye(adjacency.shape[0], dtype=x.dtype)
        d = a.sum(1).rsqrt()
        a = d[:, None] * a * d[None, :]
        return a @ self.b(F.relu(a @ self.a(x)))


@model('gcn-dense', dynamic={'x': {0: 'nodes'}, 'adjacency': {0: 'nodes', 1: 'nodes'}})
def gcn_dense():
    adjacency = torch.zeros(5, 5)
    adjacency[EDGES[0], EDGES[1]] = adjacency[EDGES[1], EDGES[0]] = 1
    return DenseGcn(), {'x': torch.randn(5, 4), 'adjacency': adjacency}


class SparseGcn(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def spread(self, x, edges):
        source, target = edges[0], edges[1]
        degree = torch.zeros(x.shape[0], dtype=x.dtype).index_add(0, target, torch.ones_like(target, dtype=x.dtype)) + 1
        messages = x[source] / degree[source].sqrt().unsqueeze(1)
        total = torch.zeros_like(x).index_add(0, target, messages)
        return (total + x) / degree.sqrt().unsqueeze(1)

    def forward(self, x, edges):
        return self.spread(self.b(F.relu(self.spread(self.a(x), edges))), edges)


@model('gcn-index-add', dynamic={'x': {0: 'nodes'}, 'edges': {1: 'edges'}})
def gcn_sparse():
    return SparseGcn(), {'x': torch.randn(5, 4), 'edges': EDGES}


class Attention(nn.Module):
    """Attention over the edges, their weights normalized per node by scatter."""

    def __init__(self):
        super().__init__()
        self.value, self.score = nn.Linear(4, 6), nn.Linear(12, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x, edges):
        v = self.value(x)
        source, target = edges[0], edges[1]
        e = F.leaky_relu(self.score(torch.cat([v[source], v[target]], 1)), 0.2).exp()
        total = torch.zeros(x.shape[0], 1, dtype=x.dtype).scatter_add(0, target.unsqueeze(1), e)
        weight = e / (total[target] + 1e-6)
        out = torch.zeros_like(v).scatter_add(0, target.unsqueeze(1).expand(-1, v.shape[1]), v[source] * weight)
        return self.head(F.elu(out))


@model('gat-scatter', dynamic={'x': {0: 'nodes'}, 'edges': {1: 'edges'}})
def gat():
    return Attention(), {'x': torch.randn(5, 4), 'edges': EDGES}


class MaxPoolGraph(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, edges):
        h = self.a(x)
        index = edges[1].unsqueeze(1).expand(-1, 6)
        pooled = h.scatter_reduce(0, index, h[edges[0]], 'amax', include_self=True)
        mean = torch.zeros_like(h).scatter_reduce(0, index, h[edges[0]], 'mean', include_self=False)
        return self.b(pooled + mean)


@model('graph-max-pool', dynamic={'x': {0: 'nodes'}, 'edges': {1: 'edges'}})
def graph_max():
    return MaxPoolGraph(), {'x': torch.randn(5, 4), 'edges': EDGES}


@module('pna-scatter', dynamic={'x': {0: 'nodes'}, 'edges': {1: 'edges'}})
class Pna(nn.Module):
    """Sum, maximum and minimum of messages, by scatter; pooled by graph."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(24, 3)

    def forward(self, x, edges):
        s, t = edges[0], edges[1]
        m = torch.relu(self.a(torch.cat([x[s], x[t]], 1)))
        index = t.unsqueeze(1).expand_as(m)
        zero = torch.zeros(x.shape[0], 6, dtype=x.dtype)
        total = zero.scatter_add(0, index, m)
        parts = [total, zero.scatter_reduce(0, index, m, 'amax'), zero.scatter_reduce(0, index, m, 'amin'), zero.scatter_reduce(0, index, m, 'sum')]
        return self.b(torch.cat(parts, 1))

    inputs = staticmethod(lambda: {'x': torch.randn(5, 4), 'edges': torch.tensor([[0, 1, 2, 3, 4, 0, 2], [1, 2, 3, 4, 0, 2, 4]])})


@module('schnet', loss='output', dynamic={'z': {0: 'atoms'}, 'r': {0: 'atoms'}})
class SchNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.filter, self.mix, self.head = nn.Embedding(5, 6), nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 6)), nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, z, r):
        x = self.embed(z)
        d = ((r[:, None] - r[None]).square().sum(-1) + 1e-6).sqrt()
        g = torch.exp(-4 * (d.unsqueeze(-1) - torch.linspace(0, 2, 4, dtype=r.dtype)) ** 2)
        cut = 0.5 * (torch.cos(d * math.pi / 4) + 1) * (d < 4)
        w = self.filter(g) * cut.unsqueeze(-1)
        x = x + self.mix((x[None] * w).sum(1))
        return self.head(F.softplus(x) - math.log(2)).sum()

    inputs = staticmethod(lambda: {'z': torch.tensor([0, 1, 4, 2]), 'r': torch.randn(4, 3)})
