"""Operators and shapes that the families above do not bring: scripted control flow, transforms, norms of weights."""

import torch
from torch import nn
from torch.nn import functional as F

from . import model, module

BATCH = {'x': {0: 'batch'}}


class Repeat(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x, n):
        for i in range(int(n)):
            x = torch.tanh(self.layer(x)) + x
        return self.head(x)


@model('scripted-loop', exporters=('legacy',), script=True)
def scripted_loop():
    return Repeat(), {'x': torch.randn(2, 6), 'n': torch.tensor(3)}


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        if bool(x.sum() > 0):
            y = torch.relu(self.a(x))
        else:
            y = torch.sigmoid(self.b(x))
        return y


@model('scripted-branch', exporters=('legacy',), script=True)
def scripted_branch():
    return Branch(), {'x': torch.randn(2, 6)}


class WhileLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        i = 0
        while bool(x.abs().max() < 5) and i < 6:
            x = 1.5 * x + torch.tanh(self.layer(x))
            i += 1
        return x


@model('scripted-while', exporters=('legacy',), loss='mse', script=True)
def scripted_while():
    return WhileLoop(), {'x': torch.randn(2, 4)}


class ScriptedList(nn.Module):
    def __init__(self):
        super().__init__()
        self.input, self.state, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.zeros_like(x[0])
        out = []
        for t in range(x.shape[0]):
            h = torch.tanh(self.input(x[t]) + self.state(h))
            out.append(h)
        return self.head(torch.stack(out))


@model('scripted-list', exporters=('legacy',), dynamic={'x': {0: 'time'}}, script=True)
def scripted_list():
    return ScriptedList(), {'x': torch.randn(4, 2, 4)}


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.a(x).sin(), lambda x: self.b(x).cos(), (x,))


@model('torch-cond', exporters=('dynamo',))
def torch_cond():
    return Conditional(), {'x': torch.randn(2, 6)}


class Fourier(nn.Module):
    """Mixing in frequency space, real transform and back."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)
        self.filter = nn.Parameter(torch.randn(5, 8))

    def forward(self, x):
        x = self.a(x)
        f = torch.fft.rfft(x, dim=1)
        y = torch.fft.irfft(f * self.filter, n=x.shape[1], dim=1)
        return self.b(y + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real)


@model('fourier-mixing', exporters=('dynamo',))
def fourier():
    return Fourier(), {'x': torch.randn(2, 8, 8)}


class Spectrogram(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16))
        self.register_buffer('window', torch.hann_window(8))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        s = torch.stft(x * self.scale, 8, 4, window=self.window, center=False, return_complex=True)
        return self.head(torch.view_as_real(s).square().sum(-1).transpose(1, 2))


@model('spectrogram')
def spectrogram():
    return Spectrogram(), {'x': torch.randn(2, 16)}


@model('spectral-norm', dynamic=BATCH)
def spectral():
    norm = torch.nn.utils.parametrizations.spectral_norm
    return nn.Sequential(norm(nn.Linear(6, 8)), nn.LeakyReLU(), norm(nn.Linear(8, 3))), {'x': torch.randn(3, 6)}


@model('weight-norm', dynamic=BATCH)
def weight_norm():
    norm = torch.nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(6, 8)), nn.CELU(), norm(nn.Linear(8, 3), dim=1)), {'x': torch.randn(3, 6)}


class Mixture(nn.Module):
    """Densities: log-sum-exp, softplus, clamps, maxima, norms."""

    def __init__(self):
        super().__init__()
        self.mean, self.scale, self.weight = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 3)

    def forward(self, x, y):
        mean, scale = self.mean(x).view(-1, 3, 2), F.softplus(self.scale(x)).clamp(min=1e-3).view(-1, 3, 2)
        logp = -0.5 * ((y[:, None] - mean) / scale).square() - scale.log() - 0.919
        return -torch.logsumexp(F.log_softmax(self.weight(x), -1) + logp.sum(-1), -1).mean(), mean


@model('mixture-density', loss='output', dynamic={'x': {0: 'batch'}, 'y': {0: 'batch'}})
def mixture():
    return Mixture(), {'x': torch.randn(4, 4), 'y': torch.randn(4, 2)}


class Activations(nn.Module):
    def __init__(self):
        super().__init__()
        self.all = [F.relu, F.relu6, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid,
                    F.hardtanh, F.softplus, F.softsign, F.tanhshrink, F.softshrink, F.hardshrink, F.logsigmoid,
                    torch.tanh, torch.sigmoid, torch.erf, torch.atan, torch.sin, torch.exp, F.glu]
        self.layers = nn.ModuleList(nn.Linear(4, 8) for _ in self.all)

    def forward(self, x):
        y = 0
        for f, layer in zip(self.all, self.layers):
            h = layer(x)
            h = f(h)
            y = y + (h if h.shape[-1] == 4 else h[..., :4] - h[..., 4:])
        return y


@model('activations', loss='mse', dynamic=BATCH)
def activations():
    return Activations(), {'x': torch.randn(3, 4)}


class Shapes(nn.Module):
    """Movement and selection: rolls, flips, sorts, gathers, masks, norms, windows."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.table = nn.Parameter(torch.randn(4, 6))

    def forward(self, x, mask):
        x = self.a(x)
        y = torch.roll(x, 1, 1) + x.flip(1)
        y = y.masked_fill(mask.unsqueeze(-1), 0.5)
        y = y + x.sort(1).values
        y = y + F.normalize(x, dim=-1) + x.norm(dim=1, keepdim=True) + x.std(1, keepdim=True) + x.var(-1, keepdim=True)
        y = y + torch.where(x > 0, x, x.mean(1, keepdim=True)) + x.amax(1, keepdim=True) + x.max(-1, keepdim=True).values
        y = y + self.table[mask.long()] + torch.tril(x @ x.transpose(1, 2)) @ x / 10
        windows = x.unfold(1, 2, 1).mean(-1)
        y = y + F.pad(windows, (0, 0, 0, 1)) + x.tile(1, 1, 2)[..., 3:9]
        return torch.cat([y, x.clamp(-0.5, 0.5), x.minimum(y), (x * y).prod(1, keepdim=True).expand_as(x) * 1e-3], -1)


@model('movement', loss='mse', dynamic={'x': {0: 'batch'}, 'mask': {0: 'batch'}})
def shapes():
    return Shapes(), {'x': torch.randn(2, 4, 6), 'mask': torch.tensor([[True, False, False, True], [False, True, False, False]])}


class Pools(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding='same', groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        y = self.conv(x)
        y = F.max_pool2d(y, 3, 2, ceil_mode=True) + F.avg_pool2d(y, 3, 2, ceil_mode=True, count_include_pad=False)
        y = y + F.lp_pool2d(y.abs() + 0.1, 2, 1)
        y = F.adaptive_avg_pool2d(y, (2, 2)) + F.adaptive_max_pool2d(y, (2, 2))
        return self.head(y.amax((2, 3)))


@model('pools')
def pools():
    return Pools(), {'x': torch.randn(2, 2, 9, 9)}


class Bare(nn.Module):
    """Parameters of one element beside a matrix: a temperature and an offset."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.temperature = nn.Parameter(torch.tensor(1.3))
        self.offset = nn.Parameter(torch.tensor([0.2]))

    def forward(self, x):
        return self.layer(x) * self.temperature + self.offset


@model('scalars', dynamic=BATCH, scalars=('temperature', 'offset'))
def scalars():
    return Bare(), {'x': torch.randn(3, 5)}


for version in (9, 11, 13, 15, 17):
    @model(f'opset-{version}', exporters=('legacy',), opset={'legacy': version}, dynamic=BATCH, batch_norm=True)
    def older():
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.bn = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
                self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 5)
                self.drop = nn.Dropout(0.0)
                self.embed = nn.Parameter(torch.randn(1, 4, 16))

            def forward(self, x):
                y = F.max_pool2d(torch.relu(self.bn(self.conv(x))), 2)
                y = F.interpolate(y, scale_factor=2, mode='nearest') + x.mean(1, keepdim=True)
                y = F.pad(F.avg_pool2d(y, 2), (0, 0, 1, 1)).flatten(2)[..., 4:20]
                y = self.norm(y + self.embed)
                a = torch.softmax(y @ y.transpose(1, 2), -1) @ y
                return self.fc(self.drop(F.hardswish(a).sum(1)).clamp(-3, 3))

        return Net(), {'x': torch.randn(2, 2, 8, 8)}


for version in (19, 21, 22, 23):
    @model(f'dynamo-opset-{version}', exporters=('dynamo',), opset={'dynamo': version}, dynamic=BATCH)
    def newer():
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(),
                             nn.RMSNorm(36), nn.Linear(36, 5)), {'x': torch.randn(2, 2, 8, 8)}


@module('einsums', dynamic={'x': {0: 'batch', 1: 'time'}})
class Einsums(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.core, self.u = nn.Parameter(torch.randn(4, 2, 3)), nn.Parameter(torch.randn(3, 3, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        q = torch.einsum('btd,dhk->bhtk', x, self.w)
        a = torch.einsum('bhik,bhjk->bhij', q, q).softmax(-1)
        y = torch.einsum('bhij,bhjk->bihk', a, q)
        z = torch.einsum('bihk,bihl,klm->bim', y, y, self.core)
        return torch.einsum('...m,m->...m', z, self.u) + torch.einsum('bii->bi', torch.einsum('bim,bjm->bij', z, z)).unsqueeze(-1)

    inputs = staticmethod(lambda: {'x': torch.randn(2, 3, 4)})


@module('fnet-real', dynamic={'x': {0: 'batch'}}, exporters=('dynamo',))
class FftBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = torch.fft.fft2(self.a(x), dim=(-2, -1)).real
        f = torch.view_as_real(torch.fft.rfft(y, dim=1, norm='ortho'))
        return self.b(f.square().sum(-1).add(1e-3).sqrt())

    inputs = staticmethod(lambda: {'x': torch.randn(2, 8, 8)})


@module('masks', dynamic={'x': {0: 'batch', 1: 'time'}, 'mask': {0: 'batch', 1: 'time'}, 'kind': {0: 'batch'}})
class Masks(nn.Module):
    """Boolean masks and integers among the inputs."""

    def __init__(self):
        super().__init__()
        self.kind, self.a, self.b = nn.Embedding(3, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x, mask, kind):
        x = x + self.kind(kind).unsqueeze(1)
        s = (self.a(x) @ x.transpose(1, 2)).masked_fill(~mask.unsqueeze(1), -1e9)
        y = torch.softmax(s, -1) @ x
        y = y * mask.unsqueeze(-1)
        pooled = y.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        best = torch.where(mask.unsqueeze(-1), y, torch.finfo(torch.float32).min).max(1).values
        return self.b(pooled + best)

    inputs = staticmethod(lambda: {'x': torch.randn(2, 5, 6), 'mask': torch.tensor([[True] * 5, [True, True, False, True, False]]), 'kind': torch.tensor([0, 2], dtype=torch.int32)})


@module('bool-index')
class BoolIndex(nn.Module):
    """Only the marked positions go through the head."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, 4)

    def forward(self, x, mask):
        h = self.embed(x)
        return self.head(h[mask]).sum(0, keepdim=True)

    inputs = staticmethod(lambda: {'x': torch.randint(0, 9, (2, 4)), 'mask': torch.tensor([[True, False, True, True], [False, True, False, True]])})


@module('hypernetwork', dynamic={'x': {0: 'batch'}})
class Hyper(nn.Module):
    """The weights of a convolution are computed from the input."""

    def __init__(self):
        super().__init__()
        self.make, self.head = nn.Linear(3, 2 * 3 * 9), nn.Linear(2, 4)

    def forward(self, x):
        w = self.make(x.mean((0, 2, 3))).view(2, 3, 3, 3)
        return self.head(F.conv2d(x, w, padding=1).mean((2, 3)))

    inputs = staticmethod(lambda: {'x': torch.randn(2, 3, 6, 6)})


@module('kan', loss='mse', dynamic={'x': {0: 'batch'}})
class Kan(nn.Module):
    """Splines of first degree by bucketing, and radial functions."""

    def __init__(self):
        super().__init__()
        self.register_buffer('grid', torch.linspace(-2, 2, 7))
        self.c, self.base = nn.Parameter(torch.randn(4, 7, 3)), nn.Linear(4, 3)

    def forward(self, x):
        basis = torch.exp(-((x.unsqueeze(-1) - self.grid) / 0.7) ** 2)
        hat = F.relu(1 - (x.unsqueeze(-1) - self.grid).abs() / 0.7)
        return torch.einsum('big,igo->bo', basis + hat, self.c) + self.base(F.silu(x))

    inputs = staticmethod(lambda: {'x': torch.randn(3, 4)})


@module('involution', dynamic={'x': {0: 'batch'}}, exporters=('dynamo',))
class Involution(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel, self.head = nn.Conv2d(4, 2 * 9, 1), nn.Linear(4, 3)

    def forward(self, x):
        b, c, h, w = x.shape
        k = self.kernel(x).view(b, 2, 1, 9, h, w)
        p = F.unfold(x, 3, padding=1).view(b, 2, 2, 9, h, w)
        y = (k * p).sum(3).view(b, c, h, w)
        z = F.fold(F.unfold(y, 2, stride=2), (h, w), 2, stride=2)
        return self.head((y + z).mean((2, 3)))

    inputs = staticmethod(lambda: {'x': torch.randn(2, 4, 6, 6)})


for version in (9, 10, 12, 14, 16, 18, 20):
    @model(f'recurrent-opset-{version}', exporters=('legacy',), opset={'legacy': version}, dynamic={'x': {0: 'batch', 1: 'time'}})
    def older():
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed, self.lstm, self.gru = nn.Embedding(12, 6), nn.LSTM(6, 5, batch_first=True, bidirectional=True), nn.GRU(10, 6, batch_first=True)
                self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 4)

            def forward(self, x):
                y, _ = self.lstm(self.embed(x))
                y, h = self.gru(y)
                y = self.norm(y)
                a = torch.softmax((y @ y.transpose(1, 2)).masked_fill((x == 0).unsqueeze(1), -1e4), -1) @ y
                a = a + F.pad(y[:, 1:], (0, 0, 0, 1))
                top = y.topk(2, -1).values.mean(-1, keepdim=True)
                return self.head(a * F.elu(top) + h[-1].unsqueeze(1)) + (x > 3).unsqueeze(-1).to(y.dtype)

        return Net(), {'x': torch.randint(1, 12, (2, 5))}

for version in (18, 20, 24):
    @model(f'dynamo-attention-opset-{version}', exporters=('dynamo',), opset={'dynamo': version}, dynamic={'x': {0: 'batch', 1: 'time'}})
    def newer_attention():
        from .text import LlamaBlock

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed, self.block, self.norm, self.head = nn.Embedding(12, 16), LlamaBlock(), nn.RMSNorm(16), nn.Linear(16, 12)

            def forward(self, x):
                return self.head(self.norm(self.block(self.embed(x))))

        return Net(), {'x': torch.randint(0, 12, (2, 5))}
