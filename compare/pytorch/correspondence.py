"""Which of a file's constants hold which parameters of the module, by what they contain.

Exporters transpose weights, pack those of recurrent layers, fold batch normalization into the convolution before it,
and name the results themselves. All of these are linear in the parameters, so gradients follow."""

import numpy as np
import onnx
import torch
from onnx import numpy_helper


def constants(graph):
    """Floating-point initializers and Constant nodes, those in branches and loops included."""
    for t in graph.initializer:
        yield t.name, t
    for node in graph.node:
        for a in node.attribute:
            if node.op_type == 'Constant' and a.name == 'value':
                yield node.output[0], a.t
            elif a.type == onnx.AttributeProto.GRAPH:
                yield from constants(a.g)


def gates(x, order):
    """Rows of a recurrent weight in another order of gates."""
    parts = np.split(x, len(order))
    return np.concatenate([parts[i] for i in order])


def recurrent(prefix, m, values, grads):
    order = {'LSTM': [0, 3, 1, 2], 'GRU': [1, 0, 2], 'RNN': [0]}[m.mode if m.mode in ('LSTM', 'GRU') else 'RNN']
    directions = ['', '_reverse'] if m.bidirectional else ['']
    for layer in range(m.num_layers):
        for kinds in (['weight_ih'], ['weight_hh'], ['bias_ih', 'bias_hh']):
            rows = [[f'{prefix}{k}_l{layer}{d}' for k in kinds] for d in directions]
            if not all(n in grads for r in rows for n in r):
                continue
            packed = lambda of: np.stack([np.concatenate([gates(of[n], order) for n in r]) for r in rows])
            yield [n for r in rows for n in r], packed(values), packed(grads)


def folded(convolution, norm, name, norm_name, grads):
    """Weight and bias of a convolution, or a linear layer, that has taken in the batch normalization after it."""
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().double().numpy()
    weight = convolution.weight.detach().double().numpy()
    axis = 1 if getattr(convolution, 'transposed', False) else 0
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    by = scale.reshape(shape)
    own = convolution.bias.detach().double().numpy() if convolution.bias is not None else 0
    shift = (own - norm.running_mean.double().numpy()) * scale + norm.bias.detach().double().numpy()
    yield [f'{name}weight', f'{norm_name}weight'], weight * by, grads[f'{name}weight'] / by
    yield [f'{norm_name}bias', f'{name}bias'], shift, grads[f'{norm_name}bias']


def normed(module, values, grads):
    """Weights that are computed from parameters (weight norm): where the file holds them, their own gradient."""
    for name, m in module.named_modules():
        if not torch.nn.utils.parametrize.is_parametrized(m, 'weight'):
            continue
        prefix = f'{name}.parametrizations.weight.original'
        parameters = [n for n in grads if n.startswith(prefix)]
        if {n[len(prefix):] for n in parameters} != {'0', '1'}:
            continue
        g, v = (torch.tensor(values[f'{prefix}{i}']) for i in (0, 1))
        dg, dv = (torch.tensor(grads[f'{prefix}{i}']) for i in (0, 1))
        # w = g v / |v|: dw = the part across v, of dv, and the part along v, of dg.
        axes = [i for i in range(v.ndim) if g.ndim == 0 or g.shape[i] == 1]
        norm = v.square().sum(axes, keepdim=True).sqrt()
        yield parameters, (g * v / norm).numpy(), (dv * norm / g + dg * v / norm).numpy()


def candidates(module, grads):
    values = {n: p.detach().double().numpy() for n, p in module.named_parameters()}
    yield from normed(module, values, grads)
    for n, g in grads.items():
        yield [n], values[n], g
    named = [(f'{n}.' if n else '', m) for n, m in module.named_modules()]
    for name, m in named:
        if isinstance(m, torch.nn.RNNBase):
            yield from recurrent(name, m, values, grads)
    convolutions = [(n, m) for n, m in named if isinstance(m, (torch.nn.modules.conv._ConvNd, torch.nn.Linear))]
    norms = [(n, m) for n, m in named if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.affine]
    for name, m in convolutions:
        if f'{name}weight' not in grads:
            continue
        for norm_name, norm in norms:
            if norm.num_features == getattr(m, 'out_channels', getattr(m, 'out_features', 0)) and f'{norm_name}bias' in grads:
                yield from folded(m, norm, name, norm_name, grads)


def find_gradients(path, module, grads):
    """Gradients by the names in the file (`parameter:` and PyTorch's name for the rest), and who they stand for."""
    grads = {n: g.detach().double().numpy() for n, g in grads.items()}
    by_size = {}
    for names, value, grad in candidates(module, grads):
        by_size.setdefault(value.size, []).append((names, value, grad))
    found, covered = {}, {}
    for name, proto in constants(onnx.load(path).graph):
        if proto.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
            continue
        x = numpy_helper.to_array(proto).astype(np.float64)
        fitting = by_size.get(x.size, [])
        fitting = sorted(fitting, key=lambda c: c[0][0] != name)
        for names, value, grad in fitting:
            grad = aligned(x, value, grad)
            if grad is not None:
                found[name] = grad
                covered[name] = names
                break
    return {**found, **{f'parameter:{n}': g.copy() for n, g in grads.items()}}, covered


def aligned(x, value, grad):
    """The gradient laid out as `x`, where `x` holds `value`, maybe transposed or with axes of one element."""
    tolerance = dict(rtol=1e-5, atol=1e-7)
    core = [d for d in x.shape if d != 1]
    squeezed, dy = value.squeeze(), grad.squeeze()
    if list(squeezed.shape) == core and np.allclose(x.reshape(core), squeezed, **tolerance):
        return dy.reshape(x.shape).copy()
    if x.size == value.size and np.allclose(x.ravel(), value.ravel(), **tolerance):
        return grad.reshape(x.shape).copy()
    if squeezed.ndim >= 2 and list(squeezed.swapaxes(-1, -2).shape) == core:
        if np.allclose(x.reshape(core), squeezed.swapaxes(-1, -2), **tolerance):
            return np.ascontiguousarray(dy.swapaxes(-1, -2).reshape(x.shape))
    if squeezed.ndim >= 3 and list(squeezed.T.shape) == core and np.allclose(x.reshape(core), squeezed.T, **tolerance):
        return np.ascontiguousarray(dy.T.reshape(x.shape))
    return None
