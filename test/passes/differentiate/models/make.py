"""Small models of many families as PyTorch exports them, and their derivatives by PyTorch in double precision.

python make.py [NAME...] (torch, onnx, onnxscript, safetensors): writes NAME.onnx and NAME.safetensors beside this file.

Tensors of NAME.safetensors are named BATCH|KIND|NAME: for each batch size there are the inputs, the target of the loss, the
cotangent of the output, tangents, and the derivatives. The Jacobian and the Hessian are those by the first variable of `wrt`.
The loss is the cross-entropy of integer targets, otherwise the mean squared error.
"""

import os
import sys
import warnings

import numpy as np
import onnx
import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = (2, 3)
BATCH = torch.export.Dim('batch', min=1, max=64)


class MLP(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3))

    def forward(self, x):
        return super().forward(x)


class NormalizedMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.norm1 = nn.Linear(4, 6), nn.LayerNorm(6)
        self.fc2, self.norm2 = nn.Linear(6, 6), nn.RMSNorm(6)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        h = F.silu(self.norm1(self.fc1(x)))
        return self.out(h + F.mish(self.norm2(self.fc2(h))))


class ConvNet(nn.Module):
    """Batch normalization without running statistics uses those of the batch."""

    def __init__(self, running=True):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3, track_running_stats=running)
        self.conv2, self.bn2 = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4, track_running_stats=running)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(4, 3)

    def forward(self, x):
        # In this order the exporter cannot fold the normalization into the convolution.
        x = self.bn1(F.elu(self.conv1(x)))
        x = self.pool(self.bn2(torch.tanh(self.conv2(x))))
        return self.fc(x.flatten(1))


class ResidualBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.down = nn.Sequential(nn.Conv2d(2, 4, 1, 2, bias=False), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.relu(y + self.down(x)).mean((2, 3)))


# PyTorch has no second derivative of these two.
def hardsigmoid(x):
    return F.hardsigmoid(x) if torch.compiler.is_exporting() else ((x + 3) / 6).clamp(0, 1)


def hardswish(x):
    return F.hardswish(x) if torch.compiler.is_exporting() else x * hardsigmoid(x)


class Depthwise(nn.Module):
    """An inverted residual with squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.expand, self.depth = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.squeeze, self.excite = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.project, self.fc = nn.Conv2d(6, 2, 1), nn.Linear(2, 3)

    def forward(self, x):
        h = hardswish(self.depth(hardswish(self.expand(x))))
        s = F.adaptive_avg_pool2d(h, 1)
        h = h * hardsigmoid(self.excite(torch.relu(self.squeeze(s))))
        return self.fc((x + self.project(h)).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.fc = kind(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.rnn(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, activation='gelu')
        self.layers, self.fc = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.layers(x).mean(1))


class RotaryBlock(nn.Module):
    """A decoder layer with grouped queries, rotary positions and a gated MLP."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(8), nn.RMSNorm(8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, n, bias=False) for n in (8, 4, 4, 8))
        self.gate, self.up, self.down = nn.Linear(8, 10, bias=False), nn.Linear(8, 10, bias=False), nn.Linear(10, 8, bias=False)

    def rotate(self, x):
        angles = torch.arange(x.shape[2]).to(x.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
        a, b = x.chunk(2, -1)
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    def forward(self, x):
        h = self.norm1(x)
        q, k, v = (layer(h).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        h = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        x = x + self.o(h.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.norm = nn.Embedding(7, 8), RotaryBlock(), nn.RMSNorm(8)

    def forward(self, ids):
        return self.norm(self.block(self.embed(ids))) @ self.embed.weight.T


class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.token = nn.Conv2d(1, 8, 3, 3), nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.mlp, self.head = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return self.head((x + self.mlp(self.norm2(x)))[:, 0])


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.norm, self.down2 = nn.Conv2d(1, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.Conv2d(3, 4, 3, padding=1)
        self.up, self.join, self.out = nn.ConvTranspose2d(4, 3, 2, 2), nn.Conv2d(6, 3, 3, padding=1), nn.Conv2d(3, 1, 1)

    def forward(self, x):
        a = torch.tanh(self.norm(self.down1(x)))
        b = torch.tanh(self.down2(F.avg_pool2d(a, 2)))
        c = torch.cat([a, self.up(b)], 1)
        wide = F.interpolate(F.softplus(self.join(c)), scale_factor=2, mode='bilinear', align_corners=False)
        return self.out(F.avg_pool2d(wide, 2))


class Autoencoder(nn.Module):
    """Variational, with a fixed sample: the reconstruction, and the divergence of its code as another channel."""

    def __init__(self):
        super().__init__()
        self.encode, self.mean, self.spread = nn.Linear(6, 5), nn.Linear(5, 2), nn.Linear(5, 2)
        self.decode, self.out = nn.Linear(2, 5), nn.Linear(5, 6)

    def forward(self, x, noise):
        h = F.selu(self.encode(x))
        mean, spread = self.mean(h), self.spread(h)
        y = torch.sigmoid(self.out(torch.relu(self.decode(mean + noise * torch.exp(spread / 2)))))
        divergence = -0.5 * (1 + spread - mean**2 - spread.exp()).sum(-1, keepdim=True)
        return torch.cat([y, divergence], -1)


class GraphNet(nn.Module):
    """Sums messages along edges, then normalizes attention over the edges of each node."""

    def __init__(self):
        super().__init__()
        self.message, self.update, self.score, self.out = nn.Linear(6, 4), nn.Linear(7, 4), nn.Linear(8, 1), nn.Linear(4, 2)

    def forward(self, nodes, edges):
        source, target = edges[0], edges[1]
        m = torch.tanh(self.message(torch.cat([nodes[source], nodes[target]], -1)))
        total = torch.zeros(nodes.shape[0], 4, dtype=m.dtype).index_add(0, target, m)
        h = torch.tanh(self.update(torch.cat([nodes, total], -1)))
        score = self.score(torch.cat([h[source], h[target]], -1)).exp()
        index = target[:, None]
        weight = score / torch.zeros(nodes.shape[0], 1, dtype=m.dtype).scatter_add(0, index, score).gather(0, index)
        return self.out(torch.zeros_like(h).scatter_add(0, index.expand(-1, 4), weight * h[source]))


class CrossNetwork(nn.Module):
    """Deep and cross network over embedded categories."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(5, 2), nn.Embedding(4, 2)])
        self.cross = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.deep, self.out = nn.Linear(6, 5), nn.Linear(11, 1)

    def forward(self, categories, numbers):
        x0 = torch.cat([t(categories[:, i]) for i, t in enumerate(self.tables)] + [numbers], -1)
        x = x0
        for layer in self.cross:
            x = x0 * layer(x) + x
        return self.out(torch.cat([x, torch.relu(self.deep(x0))], -1))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.fc = nn.EmbeddingBag(6, 4, mode='mean'), nn.Linear(4, 3)

    def forward(self, ids):
        # PyTorch has no second derivative of the bag.
        h = self.bag(ids) if torch.compiler.is_exporting() else F.embedding(ids, self.bag.weight).mean(1)
        return self.fc(torch.tanh(h))


class MaskedAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, mask):
        scores = self.q(x) @ self.k(x).mT / 2
        place = torch.arange(x.shape[1]).to(x.dtype)
        scores = scores - 0.3 * (place[:, None] - place).abs()
        scores = scores.masked_fill(mask[:, None] == 0, float('-inf'))
        h = torch.softmax(scores, -1) @ self.v(x)
        m = mask[..., None].to(x.dtype)
        return (h * m).sum(1) / m.sum(1)


class Einsum(nn.Module):
    """Bilinear forms and a low-rank product of three."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Parameter(torch.randn(3, 4, 2)), nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(4, 2))

    def forward(self, x, v):
        z = torch.einsum('bi,ijk,bj->bk', x, self.a, v)
        w = torch.einsum('bi,ri,jr,bj->b', x, self.b, self.c, v)
        return torch.einsum('bk,b->bk', torch.tanh(z), torch.cos(w)) + torch.einsum('bi,bi->b', x, x)[:, None]


class Indexing(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.scale = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x, index):
        rows = self.table[index]
        y = x.gather(1, index[:, :, None].expand(-1, -1, 4) % 3) * rows
        y = torch.cat([y[:, ::2], y.flip(1)[:, :1].roll(1, -1)], 1)
        y = torch.where(y > 0, y * self.scale, y.sin())
        y = y.index_copy(2, torch.tensor([1, 3]), y[:, :, [0, 2]] * y[:, :, [3, 1]])
        y = F.pad(y, (1, 1), mode='reflect')
        y = y[:, :, [0, 2, 5, 2]].masked_fill(torch.tensor([False, True, False, False]), 0.5)
        return torch.cat([y.tril()[:, 2], y.unfold(2, 2, 2).prod(-1).flatten(1)], 1)


class Sorting(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(5, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        h = x @ self.w + self.b
        ordered, _ = h.sort(-1, descending=True)
        best, place = h.topk(3, -1)
        sums = torch.cumsum(ordered, -1)
        return torch.cat([best * x.gather(-1, place), sums.sin().cumsum(-1), h.amax(-1, keepdim=True)], -1)


class Volume(nn.Module):
    """A flow's log-determinant, and a Gaussian's density by the inverse that Newton's iteration finds."""

    def __init__(self):
        super().__init__()
        self.w, self.shift = nn.Parameter(torch.eye(3) + 0.2 * torch.randn(3, 3)), nn.Parameter(0.1 * torch.randn(3))

    def forward(self, x):
        jacobian = torch.eye(3).to(x.dtype) + 0.3 * torch.tanh(x @ self.w + self.shift)[:, :, None] * self.w
        covariance = jacobian @ jacobian.mT
        inverse = covariance.mT / covariance.abs().sum(1).amax(-1)[:, None, None] ** 2
        for _ in range(9):
            inverse = 2 * inverse - inverse @ covariance @ inverse
        form = (x[:, None] @ inverse @ x[:, :, None]).squeeze(-1)
        return torch.cat([torch.linalg.det(jacobian).abs().log()[:, None], form, x.norm(dim=-1, keepdim=True)], -1)


class Spline(nn.Module):
    """Cubic B-splines by the recursion of Cox and de Boor, on each edge."""

    def __init__(self):
        super().__init__()
        self.coefficients, self.base = nn.Parameter(torch.randn(2, 3, 5)), nn.Parameter(torch.randn(2, 3))
        self.register_buffer('knots', torch.linspace(-4, 4, 9))

    def forward(self, x):
        k, x1 = self.knots, x[..., None]
        basis = ((x1 >= k[:-1]) & (x1 < k[1:])).to(x.dtype)
        for p in range(1, 4):
            left = (x1 - k[: -p - 1]) / (k[p:-1] - k[: -p - 1]) * basis[..., :-1]
            basis = left + (k[p + 1 :] - x1) / (k[p + 1 :] - k[1:-p]) * basis[..., 1:]
        return torch.einsum('bip,iop->bo', basis, self.coefficients) + F.silu(x) @ self.base


def floats(*shape):
    return lambda size: torch.randn(size, *shape)


def integers(high, *shape):
    return lambda size: torch.randint(0, high, (size, *shape))


def mask(size):
    return (torch.arange(5) < torch.tensor([5, 3, 4])[:size, None]).to(torch.int64)


def edges(size):
    return torch.randint(0, 3 * size, (2, 5 * size))


BY_BATCH = {0: BATCH}
# Of each model: how it is made, its inputs by batch size, the variables, and the axes that are free.
CASES = {
    'mlp': (MLP, {'x': floats(4)}, ['2.bias', '0.weight', 'x']),
    'normalized-mlp': (NormalizedMLP, {'x': floats(4)}, ['norm1.weight', 'norm2.weight', 'fc2.weight', 'x']),
    'convnet': (ConvNet, {'x': floats(1, 6, 6)}, ['fc.bias', 'conv2.weight', 'x']),
    'convnet-batch': (lambda: ConvNet(False), {'x': floats(1, 6, 6)}, ['bn1.weight', 'conv2.weight', 'conv1.bias', 'x']),
    'residual-block': (ResidualBlock, {'x': floats(2, 6, 6)}, ['fc.bias', 'fc.weight', 'x']),
    'depthwise': (Depthwise, {'x': floats(2, 5, 5)}, ['squeeze.bias', 'depth.weight', 'expand.weight', 'x']),
    'lstm': (lambda: Recurrent(nn.LSTM), {'x': floats(4, 3)}, ['fc.bias', 'x']),
    'gru': (lambda: Recurrent(nn.GRU), {'x': floats(4, 3)}, ['fc.bias', 'x']),
    'encoder': (Encoder, {'x': floats(5, 8)}, ['layers.layers.0.norm1.weight', 'layers.layers.1.linear1.bias', 'x']),
    'decoder': (Decoder, {'ids': integers(7, 4)}, ['block.norm1.weight', 'norm.weight', 'embed.weight']),
    'vision-transformer': (VisionTransformer, {'x': floats(1, 6, 6)}, ['patch.bias', 'token', 'position', 'x']),
    'unet': (UNet, {'x': floats(1, 8, 8)}, ['down2.bias', 'up.weight', 'x']),
    'autoencoder': (Autoencoder, {'x': floats(6), 'noise': floats(2)}, ['mean.bias', 'encode.weight', 'x']),
    'graph-network': (GraphNet, {'nodes': lambda size: torch.randn(3 * size, 3), 'edges': edges}, ['message.bias', 'score.weight', 'nodes']),
    'cross-network': (CrossNetwork, {'categories': integers(4, 2), 'numbers': floats(2)}, ['cross.0.bias', 'tables.0.weight', 'numbers']),
    'embedding-bag': (Bag, {'ids': integers(6, 3)}, ['fc.bias', 'bag.weight']),
    'masked-attention': (MaskedAttention, {'x': floats(5, 4), 'mask': mask}, ['q.bias', 'k.bias', 'v.bias', 'x']),
    'einsum': (Einsum, {'x': floats(3), 'v': floats(4)}, ['b', 'a', 'c', 'x']),
    'indexing': (Indexing, {'x': floats(3, 4), 'index': integers(5, 5)}, ['scale', 'x']),
    'sorting': (Sorting, {'x': floats(5)}, ['b', 'w', 'x']),
    'volume': (Volume, {'x': floats(3)}, ['shift', 'w', 'x']),
    'spline': (Spline, {'x': floats(2)}, ['base', 'coefficients', 'x']),
}
AXES = {
    'graph-network': {'nodes': {0: torch.export.Dim('nodes', max=99)}, 'edges': {1: torch.export.Dim('edges', max=99)}},
    **{name: {'x': {0: BATCH, 1: torch.export.Dim('length', min=2, max=32)}} for name in ('encoder', 'lstm', 'gru')},
    'decoder': {'ids': {0: BATCH, 1: torch.export.Dim('length', min=2, max=32)}},
}
LABELLED = {'mlp', 'convnet', 'convnet-batch', 'decoder', 'embedding-bag', 'encoder', 'vision-transformer'}


def settle(model, inputs):
    """Running statistics, and weights that are not those of a fresh model."""
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(**{key: make(3) for key, make in inputs.items()})
    model.eval()


def export(name, model, feed):
    path = f'{HERE}/{name}.onnx'
    axes = {key: AXES.get(name, {}).get(key, {} if name in AXES else BY_BATCH) for key in feed}
    torch.onnx.export(
        model, (), path, kwargs=feed, input_names=list(feed), output_names=['y'], dynamic_shapes=axes, dynamo=True,
        opset_version=20, external_data=False, verbose=False,
    )
    proto = onnx.load(path)
    for node in [*proto.graph.node, *(n for f in proto.functions for n in f.node)]:
        del node.metadata_props[:]
        node.doc_string = ''
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer]:
        del value.metadata_props[:]
    del proto.graph.metadata_props[:], proto.metadata_props[:], proto.graph.value_info[:]
    onnx.save(proto, path)
    return proto


def derivatives(model, feed, wrt, labelled):
    start = tuple(feed[key] if key in feed else model.get_parameter(key).detach() for key in wrt)

    def y(*values):
        changed = dict(zip(wrt, values))
        parameters = {key: value for key, value in changed.items() if key not in feed}
        return torch.func.functional_call(model, parameters, (), {key: changed.get(key, x) for key, x in feed.items()})

    out = y(*start)
    target = torch.randint(0, out.shape[-1], out.shape[:-1]) if labelled else torch.randn_like(out)

    def loss(*values):
        found = y(*values)
        return F.cross_entropy(found.flatten(0, -2), target.flatten()) if labelled else F.mse_loss(found, target)

    every = tuple(range(len(wrt)))
    tangents = tuple(torch.randn_like(x) for x in start)
    cotangent = torch.randn_like(out)
    vjp = torch.func.vjp(y, *start)[1](cotangent)
    # Twice in reverse: not every operator of PyTorch has a derivative forward.
    u = torch.zeros_like(out, requires_grad=True)
    jvp = torch.func.grad(lambda u: sum((a * b).sum() for a, b in zip(torch.func.vjp(y, *start)[1](u), tangents)))(u)
    gradient = torch.func.grad(loss, every)(*start)
    hvp = torch.func.grad(lambda *v: sum((a * b).sum() for a, b in zip(torch.func.grad(loss, every)(*v), tangents)), every)(*start)
    found = {f'input|{key}': x for key, x in feed.items()}
    found |= {'target': target, 'cotangent': cotangent, 'y': out, 'loss': loss(*start), 'jvp': jvp}
    # Row by row: PyTorch's vmap does not take every operator.
    found[f'jacobian|{wrt[0]}'] = torch.autograd.functional.jacobian(lambda v: y(v, *start[1:]), start[0])
    found[f'hessian|{wrt[0]}'] = torch.autograd.functional.hessian(lambda v: loss(v, *start[1:]), start[0])
    for i, key in enumerate(wrt):
        found |= {f'tangent|{key}': tangents[i], f'vjp|{key}': vjp[i], f'gradient|{key}': gradient[i], f'hvp|{key}': hvp[i]}
    return found


def main(names):
    warnings.simplefilter('ignore')
    torch.backends.mha.set_fastpath_enabled(False)
    for name in names:
        make, inputs, wrt = CASES[name]
        torch.manual_seed(0)
        model = make()
        settle(model, inputs)
        # Three samples, as the exporter takes an extent of one for a constant.
        proto = export(name, model, {key: draw(3) for key, draw in inputs.items()})
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
        for key in wrt:
            if key in inputs:
                continue
            value = model.get_parameter(key).detach().numpy()
            assert key in stored and np.array_equal(stored[key], value), f'{name}: the file has not {key}, but {list(stored)}'
        model.double()
        found = {}
        for size in SIZES:
            feed = {key: draw(size) for key, draw in inputs.items()}
            exact = {key: x.double() if x.is_floating_point() else x for key, x in feed.items()}
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                made = derivatives(model, exact, wrt, name in LABELLED)
            for key, x in made.items():
                x = x.detach().float() if x.is_floating_point() else x
                found[f'{size}|{key}'] = x.contiguous().clone()
        with open(f'{HERE}/{name}.safetensors', 'wb') as file:
            file.write(save(found))
        print(name, sorted({n.op_type for n in proto.graph.node}))


if __name__ == '__main__':
    main(sys.argv[1:] or CASES)
