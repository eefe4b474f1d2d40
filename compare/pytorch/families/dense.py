"""Images and signals in, images and signals out."""

import torch
from torch import nn
from torch.nn import functional as F

from . import model, module

BATCH = {'x': {0: 'batch'}}


def block(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(),
                         nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU())


class UNet(nn.Module):
    def __init__(self, transposed):
        super().__init__()
        self.down1, self.down2, self.mid = block(3, 8), block(8, 16), block(16, 32)
        up = (lambda i, o: nn.ConvTranspose2d(i, o, 2, stride=2)) if transposed else (
            lambda i, o: nn.Sequential(nn.Upsample(scale_factor=2, mode='bilinear', align_corners=False),
                                       nn.Conv2d(i, o, 1)))
        self.up2, self.up1 = up(32, 16), up(16, 8)
        self.out2, self.out1 = block(32, 16), block(16, 8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        m = self.mid(F.max_pool2d(b, 2))
        y = self.out2(torch.cat([self.up2(m), b], 1))
        return self.head(self.out1(torch.cat([self.up1(y), a], 1)))


@model('unet-transposed', dynamic=BATCH, batch_norm=True)
def unet_transposed():
    return UNet(True), {'x': torch.randn(2, 3, 16, 16)}


@model('unet-bilinear', dynamic={'x': {0: 'batch', 2: 'height', 3: 'width'}}, batch_norm=True)
def unet_bilinear():
    return UNet(False), {'x': torch.randn(2, 3, 16, 24)}


class SizedUp(nn.Module):
    """Upsampling to the size of another feature map, as FPNs and segmentation heads do."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode
        self.a, self.b = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, stride=2, padding=1)
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(a))
        align = {} if self.mode == 'nearest' else {'align_corners': self.mode == 'bilinear'}
        y = a + F.interpolate(b, size=a.shape[2:], mode=self.mode, **align)
        return F.interpolate(self.head(y), size=x.shape[2:], mode='nearest')


for mode in ('nearest', 'bilinear', 'bicubic'):
    model(f'fpn-{mode}', dynamic={'x': {0: 'batch', 2: 'height', 3: 'width'}})(
        lambda mode=mode: (SizedUp(mode), {'x': torch.randn(2, 3, 18, 22)}))


@model('autoencoder', loss='mse', dynamic=BATCH)
def autoencoder():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(6, 12, 3, stride=2, padding=1), nn.ELU(),
        nn.ConvTranspose2d(12, 6, 3, stride=2, padding=1, output_padding=1), nn.PReLU(6),
        nn.ConvTranspose2d(6, 1, 4, stride=2, padding=1), nn.Tanh(),
    ), {'x': torch.randn(2, 1, 12, 12)}


class Vae(nn.Module):
    """Gives the loss itself: reconstruction and divergence, the noise an input."""

    def __init__(self):
        super().__init__()
        self.encode, self.mean, self.logvar = nn.Linear(20, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.decode = nn.Sequential(nn.Linear(4, 16), nn.Softplus(), nn.Linear(16, 20))

    def forward(self, x, noise):
        h = F.silu(self.encode(x))
        mean, logvar = self.mean(h), self.logvar(h)
        y = self.decode(mean + noise * torch.exp(0.5 * logvar))
        divergence = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1).mean()
        return F.binary_cross_entropy_with_logits(y, torch.sigmoid(x)) + 0.1 * divergence, y


@model('vae', loss='output', dynamic={'x': {0: 'batch'}, 'noise': {0: 'batch'}})
def vae():
    return Vae(), {'x': torch.randn(3, 20), 'noise': torch.randn(3, 4)}


class SpatialTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.where = nn.Linear(3 * 8 * 8, 6)
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)
        with torch.no_grad():
            self.where.weight.mul_(0.1)
            self.where.bias.copy_(torch.tensor([0.9, 0.1, 0.05, -0.1, 0.8, 0.02]))

    def forward(self, x):
        theta = self.where(x.flatten(1)).view(-1, 2, 3)
        grid = F.affine_grid(theta, x.size(), align_corners=False)
        y = F.grid_sample(x, grid, align_corners=False, padding_mode='border')
        return self.head(F.gelu(self.conv(y)).mean((2, 3)))


@model('spatial-transformer')
def spatial_transformer():
    return SpatialTransformer(), {'x': torch.randn(2, 3, 8, 8)}


class PixelShuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode='reflect'), nn.GroupNorm(2, 8), nn.Mish(),
                                  nn.Conv2d(8, 12, 3, padding=1, padding_mode='replicate'), nn.PixelShuffle(2))
        self.last = nn.Conv2d(3, 3, 3, padding=1, padding_mode='circular')

    def forward(self, x):
        return self.last(self.body(x)) + F.interpolate(x, scale_factor=2, mode='bicubic', align_corners=False)


@model('super-resolution', loss='mse', dynamic=BATCH)
def super_resolution():
    return PixelShuffle(), {'x': torch.randn(2, 3, 8, 8)}


class InstanceStyle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.ReflectionPad2d(2), nn.Conv2d(3, 6, 5), nn.InstanceNorm2d(6, affine=True), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.InstanceNorm2d(6, affine=False), nn.Hardswish())
        self.c = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x):
        h = self.a(x)
        return torch.sigmoid(self.c(h + self.b(h)))


@model('style-transfer', loss='mse')
def style_transfer():
    return InstanceStyle(), {'x': torch.randn(2, 3, 10, 10)}


class Detector(nn.Module):
    """A grid of boxes, scores and classes, as detectors of one stage give."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.SiLU(),
                                  nn.MaxPool2d(5, stride=1, padding=2), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.SiLU())
        self.head = nn.Conv2d(16, 2 * 9, 1)

    def forward(self, x):
        y = self.head(self.body(x))
        b, _, h, w = y.shape
        y = y.view(b, 2, 9, h, w).permute(0, 1, 3, 4, 2)
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
        grid = torch.stack([columns, rows], -1).to(y.dtype)
        xy, wh, rest = y.split([2, 2, 5], -1)
        boxes = torch.cat([(xy.sigmoid() * 2 - 0.5 + grid) * 4, (wh.sigmoid() * 2) ** 2 * 4, rest.sigmoid()], -1)
        return boxes.reshape(b, -1, 9)


@model('detector', loss='mse', dynamic=BATCH)
def detector():
    return Detector(), {'x': torch.randn(2, 3, 16, 16)}


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2),
                                  nn.Conv3d(4, 6, 3, padding=1), nn.GELU('tanh'), nn.AdaptiveAvgPool3d(1))
        self.up = nn.ConvTranspose3d(6, 3, 2)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.up(self.body(x)).flatten(1))


@model('volumes-3d', dynamic=BATCH, batch_norm=True)
def volumes():
    return Volume(), {'x': torch.randn(2, 1, 6, 6, 6)}


@module('deeplab', dynamic={'x': {0: 'batch', 2: 'height', 3: 'width'}}, batch_norm=True)
class DeepLab(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.rates = nn.ModuleList(nn.Conv2d(8, 4, 1 if d == 1 else 3, padding=0 if d == 1 else d, dilation=d) for d in (1, 2, 4))
        self.pool, self.merge, self.low, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(12, 5, 3, padding=1)

    def forward(self, x):
        low = self.body[:3](x)
        h = self.body[3:](low)
        pooled = F.interpolate(self.pool(h.mean((2, 3), keepdim=True)), size=h.shape[2:], mode='bilinear', align_corners=False)
        h = F.relu(self.merge(torch.cat([F.relu(r(h)) for r in self.rates] + [pooled], 1)))
        h = F.interpolate(h, size=low.shape[2:], mode='bilinear', align_corners=False)
        return F.interpolate(self.head(torch.cat([h, self.low(low)], 1)), size=x.shape[2:], mode='bilinear', align_corners=False)

    inputs = staticmethod(lambda: {'x': torch.randn(2, 3, 20, 24)})


@module('retina', dynamic={'x': {0: 'batch'}})
class Retina(nn.Module):
    """A pyramid, one head for every level, all anchors in one list."""

    def __init__(self):
        super().__init__()
        self.c = nn.ModuleList([nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)])
        self.side = nn.ModuleList(nn.Conv2d(8, 6, 1) for _ in range(3))
        self.head = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 2 * 4, 3, padding=1))

    def forward(self, x):
        levels, up = [], None
        for c in self.c:
            x = F.relu(c(x))
            levels.append(x)
        out = []
        for side, level in zip(self.side, reversed(levels)):
            y = side(level)
            up = y if up is None else y + F.interpolate(up, scale_factor=2.0, mode='nearest')
            h = self.head(up)
            n, _, a, b = h.shape
            out.append(h.view(n, 2, 4, a, b).permute(0, 3, 4, 1, 2).reshape(n, -1, 4))
        return torch.cat(out, 1)

    inputs = staticmethod(lambda: {'x': torch.randn(2, 3, 16, 16)})


@module('focal-loss', loss='output', dynamic={'x': {0: 'batch'}, 'labels': {0: 'batch'}})
class Focal(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 4)

    def forward(self, x, labels):
        y = self.a(x)
        t = F.one_hot(labels, 4).to(y.dtype)
        p = torch.sigmoid(y)
        ce = F.binary_cross_entropy_with_logits(y, t, reduction='none')
        pt = p * t + (1 - p) * (1 - t)
        return ((0.25 * t + 0.75 * (1 - t)) * ce * (1 - pt) ** 2).sum() / 3, y

    inputs = staticmethod(lambda: {'x': torch.randn(3, 6), 'labels': torch.tensor([0, 3, 1])})


@module('deform', dynamic={'x': {0: 'batch'}})
class Deform(nn.Module):
    """Deformable sampling by grid_sample."""

    def __init__(self):
        super().__init__()
        self.offset, self.conv = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 3)

    def forward(self, x):
        b, _, h, w = x.shape
        ys, xs = torch.meshgrid(torch.linspace(-1, 1, 6, dtype=x.dtype), torch.linspace(-1, 1, 6, dtype=x.dtype), indexing='ij')
        grid = torch.stack([xs, ys], -1) + 0.2 * torch.tanh(self.offset(x)).permute(0, 2, 3, 1)
        return self.conv(F.grid_sample(x, grid, mode='bilinear', padding_mode='zeros', align_corners=True)).mean((2, 3))

    inputs = staticmethod(lambda: {'x': torch.randn(2, 2, 6, 6)})


@module('optical-flow', loss='mse', dynamic={'a': {0: 'batch'}, 'b': {0: 'batch'}})
class Flow(nn.Module):
    """A correlation volume, and one image warped onto the other."""

    def __init__(self):
        super().__init__()
        self.f, self.g = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(9, 2, 3, padding=1)

    def forward(self, a, b):
        fa, fb = self.f(a), self.f(b)
        n, c, h, w = fa.shape
        near = F.unfold(fb, 3, padding=1).view(n, c, 9, h, w)
        cost = (fa.unsqueeze(2) * near).mean(1)
        flow = self.g(F.leaky_relu(cost, 0.1))
        ys, xs = torch.meshgrid(torch.arange(h, dtype=a.dtype), torch.arange(w, dtype=a.dtype), indexing='ij')
        x = 2 * (xs + flow[:, 0]) / (w - 1) - 1
        y = 2 * (ys + flow[:, 1]) / (h - 1) - 1
        return F.grid_sample(b, torch.stack([x, y], -1), align_corners=True) + 0.1 * flow

    inputs = staticmethod(lambda: {'a': torch.randn(2, 2, 6, 6), 'b': torch.randn(2, 2, 6, 6)})


@module('unpooling', loss='mse', exporters=('dynamo',))
class SegNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        y, i = F.max_pool2d(self.a(x), 2, return_indices=True)
        return self.b(F.max_unpool2d(y, i, 2))

    inputs = staticmethod(lambda: {'x': torch.randn(2, 1, 6, 6)})
