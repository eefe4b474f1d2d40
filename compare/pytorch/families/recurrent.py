"""Sequences, step by step and by convolution."""

import torch
from torch import nn
from torch.nn import functional as F

from . import model

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
