"""Networks that generate, and what they are trained against: images, densities, fields, dynamics."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from . import model, module


@model('dcgan-generator', loss='mse', dynamic={'z': {0: 'batch'}}, batch_norm=True)
def generator():
    g = nn.Sequential(nn.ConvTranspose2d(6, 8, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
                      nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True),
                      nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), nn.Tanh())
    return g, {'input': torch.randn(4, 6, 1, 1)}


@model('dcgan-discriminator', loss='bce-with-logits', dynamic={'x': {0: 'batch'}}, batch_norm=True)
def discriminator():
    return nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True), nn.Conv2d(4, 8, 4, 2, 1, bias=False),
                         nn.BatchNorm2d(8), nn.LeakyReLU(0.2, True), nn.Conv2d(8, 1, 4, bias=False), nn.Flatten(0)), {'x': torch.randn(4, 3, 16, 16)}


@module('wgan-critic', loss='output', dynamic={'real': {0: 'batch'}, 'fake': {0: 'batch'}})
class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.LayerNorm(8), nn.Linear(8, 1))

    def forward(self, real, fake):
        a, b = self.body(real), self.body(fake)
        return b.mean() - a.mean() + 0.1 * (a.square().mean() + b.square().mean())

    inputs = staticmethod(lambda: {'real': torch.randn(4, 6), 'fake': torch.randn(4, 6)})


@module('nerf', loss='mse', dynamic={'x': {0: 'rays', 1: 'samples'}, 'deltas': {0: 'rays', 1: 'samples'}})
class Nerf(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3 + 3 * 2 * 3, 16), nn.Linear(16 + 21, 16), nn.Linear(16, 4)

    def encode(self, x):
        f = 2.0 ** torch.arange(3, dtype=x.dtype)
        a = (x.unsqueeze(-1) * f).flatten(-2)
        return torch.cat([x, a.sin(), a.cos()], -1)

    def forward(self, x, deltas):
        e = self.encode(x)
        y = self.c(F.relu(self.b(torch.cat([F.relu(self.a(e)), e], -1))))
        s = F.softplus(y[..., 3]) * deltas
        through = torch.exp(-(torch.cumsum(s, 1) - s))
        return (((1 - torch.exp(-s)) * through).unsqueeze(-1) * torch.sigmoid(y[..., :3])).sum(1)

    inputs = staticmethod(lambda: {'x': torch.randn(3, 5, 3), 'deltas': torch.rand(3, 5)})


@module('neural-ode', dynamic={'x': {0: 'batch'}})
class Ode(nn.Module):
    def __init__(self):
        super().__init__()
        self.f, self.head = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)), nn.Linear(4, 3)

    def rate(self, t, x):
        return self.f(torch.cat([x, torch.full_like(x[:, :1], t)], 1))

    def forward(self, x):
        h = 0.25
        for i in range(4):
            t = i * h
            k1 = self.rate(t, x)
            k2 = self.rate(t + h / 2, x + h / 2 * k1)
            k3 = self.rate(t + h / 2, x + h / 2 * k2)
            k4 = self.rate(t + h, x + h * k3)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return self.head(x)

    inputs = staticmethod(lambda: {'x': torch.randn(3, 4)})


@module('realnvp', loss='output', dynamic={'x': {0: 'batch'}})
class RealNvp(nn.Module):
    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(3))
        self.register_buffer('mask', torch.tensor([1., 0, 1, 0]))

    def forward(self, x):
        total = x.new_zeros(x.shape[0])
        for i, net in enumerate(self.nets):
            m = self.mask if i % 2 == 0 else 1 - self.mask
            s, t = net(x * m).chunk(2, 1)
            s = torch.tanh(s) * (1 - m)
            x = x * m + (1 - m) * (x * s.exp() + t)
            total = total + s.sum(1)
        return (0.5 * x.square().sum(1) + 2 * math.log(2 * math.pi) - total).mean(), x

    inputs = staticmethod(lambda: {'x': torch.randn(3, 4)})


@module('glow', loss='output', dynamic={'x': {0: 'batch'}}, exporters=('dynamo',))
class Glow(nn.Module):
    """Actnorm and an invertible convolution, whose determinant is in the loss."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(1, 4, 1, 1) * 0.1), nn.Parameter(torch.randn(1, 4, 1, 1))
        self.mix = nn.Parameter(torch.linalg.qr(torch.randn(4, 4))[0])
        self.net = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x):
        x = (x + self.shift) * self.scale.exp()
        x = F.conv2d(x, self.mix[:, :, None, None])
        a, b = x.chunk(2, 1)
        s, t = self.net(a).chunk(2, 1)
        s = torch.sigmoid(s + 2)
        y = torch.cat([a, (b + t) * s], 1)
        pixels = x.shape[2] * x.shape[3]
        logdet = self.scale.sum() * pixels + torch.det(self.mix).abs().log() * pixels + s.log().sum((1, 2, 3))
        return (0.5 * y.square().sum((1, 2, 3)) - logdet).mean(), y

    inputs = staticmethod(lambda: {'x': torch.randn(2, 4, 4, 4)})


@module('siren', loss='mse', dynamic={'x': {0: 'batch'}})
class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.c(torch.sin(3 * self.b(torch.sin(3 * self.a(x)))))

    inputs = staticmethod(lambda: {'x': torch.randn(5, 2)})


@module('diffusion-unet', loss='mse', dynamic={'x': {0: 'batch'}, 't': {0: 'batch'}})
class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.down, self.n1, self.mid = nn.Conv2d(1, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, padding=1)
        self.qkv, self.up, self.out = nn.Conv2d(8, 24, 1), nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.Conv2d(5, 1, 3, padding=1)

    def forward(self, x, t):
        f = torch.exp(-math.log(1e4) * torch.arange(4, dtype=x.dtype) / 4)
        a = t.to(x.dtype)[:, None] * f
        scale, shift = self.time(torch.cat([a.sin(), a.cos()], 1))[:, :, None, None].chunk(2, 1)
        h = self.down(x)
        h = h + self.mid(F.silu(self.n1(h) * (1 + scale) + shift))
        b, c, hh, w = h.shape
        q, k, v = self.qkv(h).view(b, 3, 2, c // 2, hh * w).unbind(1)
        s = torch.einsum('bhci,bhcj->bhij', q, k) / 2
        h = h + torch.einsum('bhij,bhcj->bhci', s.softmax(-1), v).reshape(b, c, hh, w)
        return self.out(torch.cat([self.up(h), x], 1))

    inputs = staticmethod(lambda: {'x': torch.randn(2, 1, 8, 8), 't': torch.tensor([3, 77])})
