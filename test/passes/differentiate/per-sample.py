"""Clipped sums of per-sample gradients by torch.func, in float64, for clip-samples.test.ts: python per-sample.py"""
import json
from pathlib import Path

import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

torch.set_default_dtype(torch.float64)


def spread(shape, low, high, seed):
    """test/ops/vjp.ts"""
    state = (seed * 2654435761) & 0xFFFFFFFF
    values = []
    for _ in range(torch.Size(shape).numel()):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append(low + (high - low) * state / 2**32)
    return torch.tensor(values).float().double().reshape(shape)


def clipped(loss, params, samples, clip):
    each = vmap(grad(loss), in_dims=(None, *[0 for _ in samples]))(params, *samples)
    flat = torch.cat([g.flatten(1) for g in each.values()], 1)
    factor = (clip / flat.norm(dim=1)).clamp(max=1)
    sums = {n: torch.einsum("n,n...->...", factor, g).flatten().tolist() for n, g in each.items()}
    return {"clip": clip, "clippedSamples": int((factor < 1).sum()), "sums": sums}


def text(params, ids):
    e = F.layer_norm(params["table"][ids], (6,), params["scale"], params["shift"])
    h = torch.tanh(e @ params["w1"] + params["b1"]) * params["gain"]
    return h @ params["w2"]


shapes = {"table": [11, 6], "scale": [6], "shift": [6], "w1": [6, 5], "b1": [5], "gain": [5], "w2": [5, 4]}
weights = {n: spread(s, -1.0, 1.0, 10 + i) for i, (n, s) in enumerate(shapes.items())}
ids = torch.tensor([[1, 3, 3], [4, 4, 4], [0, 10, 5], [7, 1, 2]])
labels = torch.tensor([[0, 3, 1], [2, 2, 0], [1, 0, 3], [3, 3, 3]])
mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]])


def tokens(params, ids, labels, mask):
    each = F.cross_entropy(text(params, ids), labels, reduction="none")
    return (each * mask).sum() / mask.sum().clamp(min=1)


def last(params, ids, labels):
    h = text(params, ids).mean(0) @ params["head"] + params["bias"]
    return F.cross_entropy(h, labels)


head = {**weights, "head": spread([4, 3], -1.0, 1.0, 20), "bias": spread([3], -1.0, 1.0, 21)}
targets = torch.tensor([0, 2, 1, 2])

conv = {
    "k": spread([2, 1, 3, 3], -1.0, 1.0, 30),
    "kb": spread([2], -1.0, 1.0, 31),
    "fc": spread([18, 2], -1.0, 1.0, 32),
}
images = spread([5, 1, 5, 5], -1.0, 1.0, 33)
values = spread([5, 2], -1.0, 1.0, 34)


def picture(params, x, y):
    h = F.relu(F.conv2d(x[None], params["k"], params["kb"])).flatten(1) @ params["fc"]
    return F.mse_loss(h[0], y)


result = {
    "tokens": clipped(tokens, weights, (ids, labels, mask), 0.3),
    "sequence": clipped(last, head, (ids, targets), 2.5),
    "image": clipped(picture, conv, (images, values), 6),
}
Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n")
print({n: r["clippedSamples"] for n, r in result.items()})
