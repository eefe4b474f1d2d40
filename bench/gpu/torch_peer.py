"""
PyTorch beside agd-onnx on the same device: `torch_peer.py '{OPTIONS}'` trains the model of a workload of models.mjs with each
peer and prints a line of JSON for each, so that those before a time limit count.
"""
import json
import math
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'peers'))

import torch
from torch import nn
import torch.nn.functional as F

from pytorch import AGD
from workloads import Block, DeepCross

# Steps between two readings of the clock, before which the device is waited for.
WINDOW = 10


def mlp(widths):
    layers = [part for a, b in zip(widths, widths[1:]) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    def __init__(self, c, width, stride):
        super().__init__()
        to = 4 * width
        def conv(a, b, kernel, stride=1):
            return nn.Sequential(nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(b))
        self.path = nn.Sequential(conv(c, width, 1), nn.ReLU(), conv(width, width, 3, stride), nn.ReLU(), conv(width, to, 1))
        self.short = nn.Identity() if c == to and stride == 1 else conv(c, to, 1, stride)

    def forward(self, x):
        return F.relu(self.path(x) + self.short(x))


def resnet(stages, stem, bottleneck, classes, size):
    assert bottleneck
    layers = [nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    c = stem
    for stage, (width, blocks) in enumerate(stages):
        for i in range(blocks):
            layers.append(Residual(c, width, 2 if stage > 0 and i == 0 else 1))
            c = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes))


class Gpt(nn.Module):
    def __init__(self, words, width, layers, heads, length):
        super().__init__()
        self.w, self.p = nn.Embedding(words, width), nn.Parameter(torch.randn(length, width) * 0.02)
        self.b = nn.Sequential(*(Block(width, heads, True) for _ in range(layers)))
        self.n = nn.LayerNorm(width)
        nn.init.normal_(self.w.weight, std=0.02)

    def forward(self, x):
        return F.linear(self.n(self.b(self.w(x) + self.p)), self.w.weight)


def dcn(tables, rows, width, dense, hidden):
    model = DeepCross(tables, rows, width, dense)
    d, (a, b) = tables * width + dense, hidden
    model.m, model.o = nn.Sequential(nn.Linear(d, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU()), nn.Linear(d + b, 1)
    return model


def build(kind, sizes, batch, device):
    if kind == 'mlp':
        model, x, classes = mlp(**sizes), [torch.randn(batch, sizes['widths'][0])], sizes['widths'][-1]
    elif kind == 'resnet':
        model, x, classes = resnet(**sizes), [torch.randn(batch, 3, sizes['size'], sizes['size'])], sizes['classes']
    elif kind == 'gpt':
        model, x, classes = Gpt(**sizes), [torch.randint(0, sizes['words'], (batch, sizes['length']))], sizes['words']
    else:
        ids = torch.randint(0, sizes['rows'], (batch, sizes['tables']))
        model, x, classes = dcn(**sizes), [ids, torch.randn(batch, sizes['dense'])], None
    shape = (batch, sizes['length']) if kind == 'gpt' else (batch,)
    y = torch.randint(0, classes or 2, shape)
    return model.to(device).train(), [part.to(device) for part in x], (y if classes else y.float()).to(device)


def loss(output, target):
    if target.is_floating_point():
        return F.binary_cross_entropy_with_logits(output, target)
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1))


def measure(spec, make_optimizer, compiled):
    device = torch.device(spec['device'])
    is_cuda = device.type == 'cuda'
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model, x, y = build(spec['kind'], spec['sizes'], spec['batch'], device)
    optimizer = make_optimizer(model.parameters())
    forward = torch.compile(model) if compiled else model

    def steps(count):
        begin = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad()
            value = loss(forward(*x), y)
            value.backward()
            optimizer.step()
        if is_cuda:
            torch.cuda.synchronize()
        elapsed = 1000 * (time.perf_counter() - begin) / count
        assert math.isfinite(value.item()), f'the loss is {value.item()}'
        return elapsed

    steps(3)
    end = time.perf_counter() + spec['seconds']
    times = []
    while not times or time.perf_counter() < end:
        times.append(steps(WINDOW))
    megabytes = torch.cuda.max_memory_allocated() / 2**20 if is_cuda else None
    return {'ms': sorted(times)[len(times) // 2], 'deviceMegabytes': megabytes}


def main():
    spec = json.loads(sys.argv[1])
    # ONNX Runtime's CUDA provider multiplies in TF32 by default, and so do all peers here.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    name = torch.cuda.get_device_name() if spec['device'].startswith('cuda') and torch.cuda.is_available() else 'cpu'
    print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda, 'deviceName': name}), flush=True)
    fused = lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    agd = lambda parameters: AGD(parameters, lr=1e-4)
    peers = {'eager-agd': (agd, False), 'fused-adamw': (fused, False), 'compiled-adamw': (fused, True)}
    for peer in spec['peers']:
        try:
            result = measure(spec, *peers[peer])
        except Exception as error:
            result = {'error': f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'}
        print(json.dumps({'peer': peer, **result}), flush=True)


main()
