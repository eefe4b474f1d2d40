"""
Writes recorded.json: what 100 steps of other implementations make, in float64, of a matrix, a vector and a kernel of a
convolution. PyTorch's optimizers are run as they are; the others are transcribed here, in NumPy, from their papers and
their authors' code, one update a function.

    python recorded.py && npx biome check --write recorded.json
"""

import json
import math
from pathlib import Path

import numpy as np
import torch

# NAdam keeps its product of momenta in the default type.
torch.set_default_dtype(torch.float64)

STEPS = 100
SHAPES = {"matrix": [3, 2], "vector": [3], "kernel": [2, 2, 1, 2]}


def start(name):
    shape = SHAPES[name]
    i = np.arange(math.prod(shape))
    return (0.5 + np.cos(2.3 * i)).reshape(shape)


def gradient(name, t):
    """Coordinates of very different scales, smooth but uneven over the steps."""
    shape = SHAPES[name]
    i = np.arange(math.prod(shape))
    return (10.0 ** (1 - i % 4) * (0.3 + np.sin(1.7 * t * (i + 1) + i))).reshape(shape)


def run_torch(make):
    """What an optimizer of PyTorch makes of them; `make` gets the parameters by name."""
    params = {name: torch.tensor(start(name), requires_grad=True) for name in SHAPES}
    optimizers = make(params)
    for t in range(1, STEPS + 1):
        for name, w in params.items():
            w.grad = torch.tensor(gradient(name, t))
        for optimizer in optimizers:
            optimizer.step()
    state = {}
    for optimizer in optimizers:
        for name, w in params.items():
            for key, value in optimizer.state.get(w, {}).items():
                if key != "step":
                    state[f"{name}_{key}"] = value.flatten().tolist()
    return {name: w.detach().flatten().tolist() for name, w in params.items()}, state


def run_numpy(update, options):
    params = {name: start(name) for name in SHAPES}
    kept = {name: {} for name in SHAPES}
    for t in range(1, STEPS + 1):
        for name in SHAPES:
            params[name] = update(params[name], gradient(name, t), kept[name], t, **options)
    return {name: w.flatten().tolist() for name, w in params.items()}, {}


def average(kept, key, beta, x):
    kept[key] = beta * kept.get(key, 0) + (1 - beta) * x
    return kept[key]


def lion(w, g, kept, t, lr, betas=(0.9, 0.99), weight_decay=0):
    """github.com/google/automl/tree/master/lion, lion_pytorch.py"""
    w = w * (1 - lr * weight_decay)
    m = kept.get("m", np.zeros_like(w))
    w = w - lr * np.sign(betas[0] * m + (1 - betas[0]) * g)
    kept["m"] = betas[1] * m + (1 - betas[1]) * g
    return w


def adan(w, g, kept, t, lr, betas=(0.98, 0.92), beta3=0.99, eps=1e-8, weight_decay=0, no_prox=False):
    """github.com/sail-sg/Adan, adan.py, whose betas are three"""
    beta1, beta2 = betas
    difference = g - kept.get("before", g)
    kept["before"] = g
    m = average(kept, "m", beta1, g) / (1 - beta1**t)
    v = average(kept, "v", beta2, difference) / (1 - beta2**t)
    n = average(kept, "n", beta3, (g + beta2 * difference) ** 2) / (1 - beta3**t)
    step = lr * (m + beta2 * v) / (np.sqrt(n) + eps)
    return w * (1 - lr * weight_decay) - step if no_prox else (w - step) / (1 + lr * weight_decay)


def ademamix(
    w, g, kept, t, lr,
    betas=(0.9, 0.999), beta3=0.9999, alpha=2, beta3_warmup=None, alpha_warmup=None, eps=1e-8, weight_decay=0,
):  # fmt: skip
    """github.com/apple/ml-ademamix, pytorch/ademamix.py, whose betas are three"""
    beta1, beta2 = betas

    def life(beta):
        return math.log(0.5) / math.log(beta + 1e-8) - 1

    if alpha_warmup is not None and t < alpha_warmup:
        alpha = alpha * t / alpha_warmup
    if beta3_warmup is not None and t < beta3_warmup:
        a = t / beta3_warmup
        beta3 = 0.5 ** (1 / ((1 - a) * life(beta1) + a * life(beta3) + 1))
    fast = average(kept, "fast", beta1, g) / (1 - beta1**t)
    slow = average(kept, "slow", beta3, g)
    v = average(kept, "v", beta2, g * g) / (1 - beta2**t)
    return w - lr * ((fast + alpha * slow) / (np.sqrt(v) + eps) + weight_decay * w)


LR = 1 / 128
CASES = []


def snake(options):
    def name(key):
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in key)

    return {name(key): value for key, value in options.items()}


def add(name, options, result):
    param, state = result
    CASES.append({"name": name, "options": options, "param": param, "state": state})


def of_torch(name, kind, *all_options):
    for options in all_options:
        own = snake({"lr": LR, **options})
        add(name, options, run_torch(lambda params, own=own: [kind(list(params.values()), **own)]))


def of_numpy(update, *all_options):
    for options in all_options:
        add(update.__name__, options, run_numpy(update, snake({"lr": LR, **options})))


BETAS = {"betas": [0.5, 0.9]}
DECAY = {"weightDecay": 0.1}

of_torch(
    "nadam", torch.optim.NAdam, {}, BETAS, DECAY, {**DECAY, "decoupledWeightDecay": True}, {"momentumDecay": 0.1, "eps": 1e-3}
)  # fmt: skip
of_torch("adagrad", torch.optim.Adagrad, {}, {"lrDecay": 0.01, **DECAY}, {"initialAccumulatorValue": 0.5, "eps": 1e-3})
of_torch(
    "rmsprop", torch.optim.RMSprop, {}, {"alpha": 0.9, "eps": 1e-3}, {"momentum": 0.9, **DECAY}, {"centered": True},
    {"centered": True, "momentum": 0.5},
)  # fmt: skip
of_numpy(lion, {}, {**BETAS, **DECAY})
of_numpy(adan, {}, {**BETAS, "beta3": 0.7, "eps": 1e-3}, DECAY, {**DECAY, "noProx": True})
of_numpy(
    ademamix, {}, {**BETAS, "beta3": 0.99, "alpha": 5, **DECAY}, {"beta3Warmup": 60, "alphaWarmup": 150},
    {"betas": [0, 0.9], "beta3": 0.95, "beta3Warmup": 150, "alphaWarmup": 60, "eps": 1e-3},
)  # fmt: skip

Path(__file__).with_name("recorded.json").write_text(json.dumps(CASES))
