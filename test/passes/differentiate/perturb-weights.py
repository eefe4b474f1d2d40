"""
Writes perturb-weights.json: 30 steps of sharpness-aware minimization of a small network in PyTorch, in float64. SAM and WSAM are
written down from their papers and their authors' code; the optimizers are PyTorch's.

    python perturb-weights.py && npx biome check --write perturb-weights.json
"""

import json
import math
from pathlib import Path

import torch

torch.set_default_dtype(torch.float64)

STEPS = 30
SHAPES = {"w1": [4, 5], "b1": [5], "w2": [5, 3], "b2": [3]}


def start(name):
    i = torch.arange(math.prod(SHAPES[name]))
    return (0.5 * torch.cos(2.3 * i + len(name) + ord(name[1]))).reshape(SHAPES[name])


def batch(t):
    i = torch.arange(24)
    return torch.sin(1.3 * t + 0.7 * i + 0.01 * i * i).reshape(6, 4), (torch.arange(6) * 2 + t) % 3


def gradients(params, data):
    x, y = data
    hidden = torch.tanh(x @ params["w1"] + params["b1"])
    loss = torch.nn.functional.cross_entropy(hidden @ params["w2"] + params["b2"], y)
    return torch.autograd.grad(loss, list(params.values()))


def perturbed(params, grads, rho, adaptive):
    weights = [w.detach() for w in params.values()]
    scaled = [w.abs() * g if adaptive else g for w, g in zip(weights, grads)]
    norm = torch.stack([s.norm() for s in scaled]).norm()
    moved = [w + (w**2 if adaptive else 1) * g * rho / (norm + 1e-12) for w, g in zip(weights, grads)]
    return {name: w.requires_grad_() for name, w in zip(params, moved)}


def clipped(grads, largest):
    if largest is None:
        return grads
    norm = torch.stack([g.norm() for g in grads]).norm()
    return [g * min(1.0, largest / (norm.item() + 1e-6)) for g in grads]


def run(make, lr, rho, gamma=None, adaptive=False, clip=None, accumulate=1):
    params = {name: start(name).requires_grad_() for name in SHAPES}
    optimizer = make(list(params.values()), lr)
    for t in range(STEPS):
        pairs = []
        for k in range(accumulate):
            data = batch(t * accumulate + k)
            first = gradients(params, data)
            pairs.append((first, gradients(perturbed(params, first, rho, adaptive), data)))
        mean = [clipped([sum(g) / accumulate for g in zip(*(p[i] for p in pairs))], clip) for i in (0, 1)]
        plain, sharp = mean
        for w, g in zip(params.values(), sharp if gamma is None else plain):
            w.grad = g
        optimizer.step()
        if gamma is not None:
            with torch.no_grad():
                for w, a, b in zip(params.values(), plain, sharp):
                    w -= lr * gamma / (1 - gamma) * (b - a)
    return {name: w.detach().flatten().tolist() for name, w in params.items()}


def sgd(params, lr):
    return torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=0.01)


def adamw(params, lr):
    return torch.optim.AdamW(params, lr=lr, weight_decay=0.1)


Path(__file__).with_suffix(".json").write_text(
    json.dumps(
        {
            "sam": run(sgd, 1 / 8, 0.05),
            "sam, adaptive": run(adamw, 1 / 128, 0.5, adaptive=True),
            "sam, clipped": run(sgd, 1 / 8, 0.2, clip=0.1),
            "sam, accumulated": run(adamw, 1 / 128, 0.1, accumulate=2),
            "wsam": run(sgd, 1 / 16, 0.05, gamma=0.9),
            "wsam, adaptive": run(adamw, 1 / 128, 0.5, gamma=0.6, adaptive=True),
            "wsam, clipped": run(adamw, 1 / 128, 0.1, gamma=0.9, clip=0.1),
            "wsam, accumulated": run(sgd, 1 / 16, 0.1, gamma=0.5, clip=0.1, accumulate=2),
        }
    )
)
