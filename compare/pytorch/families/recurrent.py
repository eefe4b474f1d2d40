"""Sequences, step by step and by convolution."""

import torch
from torch import nn
from torch.nn import functional as F

from . import model, module

SEQUENCE = {'x': {0: 'batch', 1: 'time'}}


class Tagger(nn.Module):
    def __init__(self, cell, **options):
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.cell = getattr(nn, cell)(8, 10, batch_first=True, **options)
        self.head = nn.Linear(10 * (2 if options.get('bidirectional') else 1), 6)

    def forward(self, x):
        y, _ = self.cell(self.embed(x))
        return self.head(y)


def tagger(name, cell, **options):
    model(name, dynamic=SEQUENCE)(lambda: (Tagger(cell, **options), {'x': torch.randint(0, 30, (3, 5))}))


tagger('gru', 'GRU')
tagger('gru-2', 'GRU', num_layers=2)
tagger('gru-bidirectional', 'GRU', bidirectional=True)
tagger('lstm', 'LSTM')
tagger('lstm-3', 'LSTM', num_layers=3)
tagger('lstm-bidirectional-2', 'LSTM', num_layers=2, bidirectional=True)
tagger('rnn-tanh', 'RNN')
tagger('rnn-relu', 'RNN', nonlinearity='relu', num_layers=2)
tagger('lstm-no-bias', 'LSTM', bias=False)


class Packed(nn.Module):
    """Sequences of different lengths, the last state of each classified."""

    def __init__(self, cell):
        super().__init__()
        self.cell = getattr(nn, cell)(4, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=True)
        y, h = self.cell(packed)
        h = h[0] if isinstance(h, tuple) else h
        y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
        return self.head(torch.cat([h[0], h[1]], 1) + y.sum(1))


for cell in ('LSTM', 'GRU'):
    model(f'{cell.lower()}-packed', exporters=('legacy',))(
        lambda cell=cell: (Packed(cell), {'x': torch.randn(3, 5, 4), 'lengths': torch.tensor([5, 3, 2])}))


class StatefulLanguageModel(nn.Module):
    """State in, state out, as models that are used step by step have it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.cell = nn.LSTM(8, 8)
        self.head = nn.Linear(8, 20)
        self.head.weight = self.embed.weight

    def forward(self, x, h, c):
        y, (h, c) = self.cell(self.embed(x), (h, c))
        return self.head(y), h, c


@model('lstm-stateful-tied', dynamic={'x': {0: 'time', 1: 'batch'}, 'h': {1: 'batch'}, 'c': {1: 'batch'}})
def stateful():
    return StatefulLanguageModel(), {'x': torch.randint(0, 20, (4, 2)), 'h': torch.randn(1, 2, 8), 'c': torch.randn(1, 2, 8)}


class Attentive(nn.Module):
    """An encoder and a decoder of recurrent cells with attention between them."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.GRU(4, 6, batch_first=True), nn.GRUCell(10, 6)
        self.score = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        memory, h = self.encoder(x)
        h, y, out = h[0], x[:, -1], []
        for _ in range(3):
            a = torch.softmax(torch.einsum('bd,btd->bt', self.score(h), memory), 1)
            context = torch.einsum('bt,btd->bd', a, memory)
            h = self.decoder(torch.cat([y, context], 1), h)
            y = self.head(h)
            out.append(y)
        return torch.stack(out, 1)


@model('seq2seq-attention', loss='mse', dynamic={'x': {0: 'batch'}})
def seq2seq():
    return Attentive(), {'x': torch.randn(2, 5, 4)}


class ManualCells(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.rnn = nn.LSTMCell(4, 5), nn.RNNCell(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        h = c = s = torch.zeros(x.shape[1], 5, dtype=x.dtype)
        for t in range(x.shape[0]):
            h, c = self.lstm(x[t], (h, c))
            s = self.rnn(h, s)
        return self.head(s)


@model('cells-unrolled')
def cells():
    return ManualCells(), {'x': torch.randn(4, 2, 4)}


class TemporalBlock(nn.Module):
    def __init__(self, cin, cout, dilation):
        super().__init__()
        norm = torch.nn.utils.parametrizations.weight_norm
        self.pad = 2 * dilation
        self.conv1 = norm(nn.Conv1d(cin, cout, 3, padding=self.pad, dilation=dilation))
        self.conv2 = norm(nn.Conv1d(cout, cout, 3, padding=self.pad, dilation=dilation))
        self.skip = nn.Conv1d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x):
        y = torch.relu(self.conv1(x)[:, :, :-self.pad])
        y = torch.relu(self.conv2(y)[:, :, :-self.pad])
        return torch.relu(y + self.skip(x))


@model('tcn', dynamic={'x': {0: 'batch', 2: 'time'}})
def tcn():
    class Tcn(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(*(TemporalBlock(3 if d == 1 else 6, 6, d) for d in (1, 2, 4)))
            self.head = nn.Linear(6, 5)

        def forward(self, x):
            return self.head(self.blocks(x).transpose(1, 2))

    return Tcn(), {'x': torch.randn(2, 3, 12)}


class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, 8, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=d) for d in (1, 2, 4))
        self.mixed = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
        self.head = nn.Conv1d(8, 5, 1)

    def forward(self, x):
        x, skips = self.first(x), 0
        for conv, mix, d in zip(self.dilated, self.mixed, (1, 2, 4)):
            a, b = conv(F.pad(x, (d, 0))).chunk(2, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            x = x + mix(y)
            skips = skips + y
        return self.head(F.relu(skips)).transpose(1, 2)


@model('wavenet', dynamic={'x': {0: 'batch'}})
def wavenet():
    return WaveNet(), {'x': torch.randn(2, 1, 10)}


@module('conv-lstm', dynamic={'x': {0: 'batch'}})
class ConvLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates, self.head = nn.Conv2d(2 + 4, 16, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        h = c = torch.zeros(x.shape[0], 4, x.shape[3], x.shape[4], dtype=x.dtype)
        for t in range(x.shape[1]):
            i, f, o, g = self.gates(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)

    inputs = staticmethod(lambda: {'x': torch.randn(2, 3, 2, 5, 5)})


@module('qrnn', dynamic={'x': {0: 'batch'}})
class Qrnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(4, 18, 2), nn.Linear(6, 3)

    def forward(self, x):
        z, f, o = self.conv(F.pad(x, (1, 0))).chunk(3, 1)
        z, f, o = z.tanh(), f.sigmoid(), o.sigmoid()
        c, out = torch.zeros_like(z[..., 0]), []
        for t in range(x.shape[-1]):
            c = f[..., t] * c + (1 - f[..., t]) * z[..., t]
            out.append(o[..., t] * c)
        return self.head(torch.stack(out, 1))

    inputs = staticmethod(lambda: {'x': torch.randn(2, 4, 6)})


class Crf(nn.Module):
    """The forward algorithm of a conditional random field, a loop over time."""

    def __init__(self):
        super().__init__()
        self.emit = nn.Linear(4, 3)
        self.transitions, self.start, self.end = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))

    def forward(self, x, tags, mask):
        e = self.emit(x)
        batch = torch.arange(x.shape[0])
        score = self.start[tags[:, 0]] + e[:, 0].gather(1, tags[:, :1])[:, 0]
        alpha = self.start + e[:, 0]
        for t in range(1, x.shape[1]):
            m = mask[:, t]
            step = self.transitions[tags[:, t - 1], tags[:, t]] + e[:, t].gather(1, tags[:, t:t + 1])[:, 0]
            score = score + step * m.to(x.dtype)
            new = torch.logsumexp(alpha.unsqueeze(2) + self.transitions + e[:, t].unsqueeze(1), 1)
            alpha = torch.where(m.unsqueeze(1), new, alpha)
        last = tags.gather(1, mask.long().sum(1, keepdim=True) - 1)[:, 0]
        return (torch.logsumexp(alpha + self.end, 1) - score - self.end[last]).mean()


def crf_inputs():
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return {'x': torch.randn(2, 5, 4), 'tags': torch.randint(0, 3, (2, 5)), 'mask': mask}


CRF = {n: {0: 'batch', 1: 'time'} for n in ('x', 'tags', 'mask')}
model('crf', loss='output', dynamic={n: {0: 'batch'} for n in CRF})(lambda: (Crf(), crf_inputs()))
model('crf-loop', loss='output', dynamic=CRF, script=True, exporters=('legacy',))(lambda: (Crf(), crf_inputs()))


@module('s4d', dynamic={'x': {0: 'batch'}}, exporters=('dynamo',))
class S4D(nn.Module):
    """A diagonal state space, its kernel computed with exponentials and cosines, convolved."""

    def __init__(self):
        super().__init__()
        self.re, self.im, self.c, self.dt = (nn.Parameter(torch.randn(4, 3) * 0.3) for _ in range(4))
        self.d, self.head = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)

    def forward(self, x):
        t = torch.arange(x.shape[-1], dtype=x.dtype)
        dt = self.dt.exp().unsqueeze(-1)
        kernel = (self.c.unsqueeze(-1) * torch.exp(-self.re.exp().unsqueeze(-1) * dt * t) * torch.cos(self.im.unsqueeze(-1) * dt * t)).sum(1)
        y = F.conv1d(F.pad(x, (x.shape[-1] - 1, 0)), kernel.flip(-1).unsqueeze(1), groups=4)
        return self.head((y + self.d.unsqueeze(-1) * x).transpose(1, 2))

    inputs = staticmethod(lambda: {'x': torch.randn(2, 4, 6)})


@module('quantile', loss='output', dynamic={'x': {0: 'batch'}, 'y': {0: 'batch'}})
class Quantile(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 3)
        self.register_buffer('q', torch.tensor([0.1, 0.5, 0.9]))

    def forward(self, x, y):
        p = self.head(self.gru(x)[1][-1])
        e = y - p
        return torch.maximum(self.q * e, (self.q - 1) * e).mean(), p

    inputs = staticmethod(lambda: {'x': torch.randn(3, 5, 2), 'y': torch.randn(3, 1)})


@module('lstm-layernorm', dynamic={'x': {1: 'batch'}})
class LayerNormLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.i, self.h, self.n, self.head = nn.Linear(3, 16), nn.Linear(4, 16, bias=False), nn.LayerNorm(16), nn.Linear(4, 3)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[1], 4)
        for t in range(x.shape[0]):
            i, f, g, o = self.n(self.i(x[t]) + self.h(h)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)

    inputs = staticmethod(lambda: {'x': torch.randn(4, 2, 3)})


@module('ntm', dynamic={'x': {0: 'batch'}})
class Memory(nn.Module):
    """A memory that is addressed by content, written and read."""

    def __init__(self):
        super().__init__()
        self.control, self.key, self.erase, self.add, self.head = nn.GRUCell(3 + 4, 6), nn.Linear(6, 5), nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 3)
        self.start = nn.Parameter(torch.randn(5, 4))

    def forward(self, x):
        m = self.start.expand(x.shape[0], -1, -1)
        h, r = x.new_zeros(x.shape[0], 6), x.new_zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            h = self.control(torch.cat([x[:, t], r], 1), h)
            k, beta = self.key(h).split([4, 1], 1)
            w = (F.softplus(beta) * F.cosine_similarity(m, k.unsqueeze(1), dim=-1)).softmax(-1)
            m = m * (1 - w.unsqueeze(2) * self.erase(h).sigmoid().unsqueeze(1)) + w.unsqueeze(2) * self.add(h).unsqueeze(1)
            r = torch.bmm(w.unsqueeze(1), m).squeeze(1)
        return self.head(r)

    inputs = staticmethod(lambda: {'x': torch.randn(2, 3, 3)})
