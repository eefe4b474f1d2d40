"""Points and sets."""

import torch
from torch import nn
from torch.nn import functional as F

from . import module


@module('pointnet', dynamic={'x': {0: 'batch', 2: 'points'}}, batch_norm=True)
class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.t1, self.t2 = nn.Conv1d(3, 8, 1), nn.Linear(8, 9)
        self.a, self.bn, self.b = nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.Conv1d(8, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        t = self.t2(F.relu(self.t1(x)).max(2)[0]).view(-1, 3, 3) + torch.eye(3, dtype=x.dtype)
        x = torch.bmm(x.transpose(1, 2), t).transpose(1, 2)
        return self.head(self.b(F.relu(self.bn(self.a(x)))).max(2)[0])

    inputs = staticmethod(lambda: {'x': torch.randn(3, 3, 10)})


@module('dgcnn', dynamic={'x': {0: 'batch'}}, exporters=('legacy',))
class EdgeConv(nn.Module):
    """Neighbours by distance, gathered by topk."""

    def __init__(self):
        super().__init__()
        self.edge, self.head = nn.Conv2d(6, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        b, c, n = x.shape
        d = torch.cdist(x.transpose(1, 2), x.transpose(1, 2))
        index = d.topk(3, -1, largest=False).indices
        near = torch.gather(x.unsqueeze(2).expand(-1, -1, n, -1), 3, index.unsqueeze(1).expand(-1, c, -1, -1))
        own = x.unsqueeze(-1).expand_as(near)
        return self.head(F.leaky_relu(self.edge(torch.cat([near - own, own], 1))).amax(-1).mean(-1))

    inputs = staticmethod(lambda: {'x': torch.randn(2, 3, 6)})


@module('set-transformer', dynamic={'x': {0: 'batch', 1: 'points'}})
class SetTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.inducing, self.seed = nn.Parameter(torch.randn(1, 4, 8)), nn.Parameter(torch.randn(1, 1, 8))
        self.a, self.b, self.c = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        i = self.inducing.expand(x.shape[0], -1, -1)
        h = self.a(i, x, x, need_weights=False)[0]
        x = self.norm(x + self.b(x, h, h, need_weights=False)[0])
        s = self.seed.expand(x.shape[0], -1, -1)
        return self.head(self.c(s, x, x)[0].squeeze(1))

    inputs = staticmethod(lambda: {'x': torch.randn(2, 5, 3)})


@module('slot-attention', loss='mse', dynamic={'x': {0: 'batch'}})
class Slots(nn.Module):
    def __init__(self):
        super().__init__()
        self.slots = nn.Parameter(torch.randn(1, 3, 6))
        self.k, self.v, self.q = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 6)
        self.gru, self.norm = nn.GRUCell(6, 6), nn.LayerNorm(6)

    def forward(self, x):
        s = self.slots.repeat(x.shape[0], 1, 1)
        k, v = self.k(x), self.v(x)
        for _ in range(2):
            a = torch.softmax(self.q(self.norm(s)) @ k.transpose(1, 2), 1) + 1e-8
            a = a / a.sum(-1, keepdim=True)
            s = self.gru((a @ v).flatten(0, 1), s.flatten(0, 1)).view(s.shape)
        return s

    inputs = staticmethod(lambda: {'x': torch.randn(2, 5, 4)})
