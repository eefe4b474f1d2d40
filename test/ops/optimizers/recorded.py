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
            w.grad = torch.tensor(gradient(name, t)).reshape(w.shape)
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


def run_averaged(make, momentum=0.9, weight_decay_at_y=0, r=0, weight_lr_power=2):
    """github.com/facebookresearch/schedule_free, schedulefree/wrap_schedulefree_reference.py, around an optimizer of PyTorch"""
    params = {name: torch.tensor(start(name), requires_grad=True) for name in SHAPES}
    optimizer = make(list(params.values()))
    lr = optimizer.param_groups[0]["lr"]
    x, z, y = ({name: w.detach().clone() for name, w in params.items()} for _ in range(3))
    total = largest = 0
    for t in range(1, STEPS + 1):
        for name, w in params.items():
            w.grad = torch.tensor(gradient(name, t))
            w.data = z[name] - lr * weight_decay_at_y * y[name]
        optimizer.step()
        largest = max(largest, lr)
        weight = t**r * largest**weight_lr_power
        total += weight
        for name, w in params.items():
            z[name] = w.detach().clone()
            x[name] = x[name] + weight / total * (z[name] - x[name])
            y[name] = momentum * x[name] + (1 - momentum) * z[name]
    state = {f"{name}_z": value.flatten().tolist() for name, value in z.items()}
    return {name: value.flatten().tolist() for name, value in x.items()}, state


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


def trust_ratio(w, u):
    weight, step = np.linalg.norm(w), np.linalg.norm(u)
    return weight / step if weight > 0 and step > 0 else 1


def lamb(
    w, g, kept, t, lr,
    betas=(0.9, 0.999), eps=1e-6, weight_decay=0, bias_correction=True, exclude_vectors=True,
):  # fmt: skip
    """The paper's algorithm 2; without bias correction, and with exclusions, as in google-research/albert."""
    m = average(kept, "m", betas[0], g) / (1 - betas[0] ** t if bias_correction else 1)
    v = average(kept, "v", betas[1], g * g) / (1 - betas[1] ** t if bias_correction else 1)
    u = m / (np.sqrt(v) + eps)
    if w.ndim < 2 and exclude_vectors:
        return w - lr * u
    u = u + weight_decay * w
    return w - lr * trust_ratio(w, u) * u


def lars(w, g, kept, t, lr, momentum=0.9, nesterov=False, eta=1e-3, weight_decay=0, exclude_vectors=True):
    """LARSOptimizer of google-research/supcon, with classic momentum."""
    rate = lr
    if w.ndim > 1 or not exclude_vectors:
        g = g + weight_decay * w
        ratio = trust_ratio(w, g)
        rate = lr * eta * ratio
    kept["u"] = momentum * kept.get("u", 0) + rate * g
    return w - (momentum * kept["u"] + rate * g if nesterov else kept["u"])


def shampoo(w, g, kept, t, lr, momentum=0, weight_decay=0, eps=1e-4, ridge=1e-6, max_size=1024, update_freq=10):
    """The paper's algorithm 1, of a kernel as a matrix; inverse roots by eigenvalues."""
    g = (g + weight_decay * w).reshape(len(w), -1)
    axes = [axis for axis, size in enumerate(g.shape) if size <= max_size and (w.ndim > 1 or axis == 0)]
    step = g
    for axis in axes:
        gram = g.T @ g if axis else g @ g.T
        kept[axis] = kept.get(axis, 0) + gram
        if (t - 1) % update_freq == 0 or t <= update_freq:
            added = max(eps, ridge * np.linalg.norm(kept[axis]))
            values, vectors = np.linalg.eigh(kept[axis] + added * np.eye(len(gram)))
            kept["root", axis] = vectors * values ** (-1 / (2 * len(axes))) @ vectors.T
        step = step @ kept["root", axis] if axis else kept["root", axis] @ step
    kept["u"] = momentum * kept.get("u", 0) + (1 - momentum) * step
    return w - lr * kept["u"].reshape(w.shape)


def schedule_free(w, y, direction, kept, t, lr, momentum, weight_decay, warmup_steps, r, weight_lr_power, factor=1):
    """What adamw_schedulefree.py and sgd_schedulefree.py share: they keep y, and x is what their eval() makes of it."""
    z = kept.get("z", w)
    rate = lr * (min(t / warmup_steps, 1) if warmup_steps else 1) * factor
    kept["largest"] = max(kept.get("largest", -1), rate)
    weight = t**r * kept["largest"] ** weight_lr_power
    kept["sum"] = kept.get("sum", 0) + weight
    c = weight / kept["sum"]
    d = direction + weight_decay * y
    y = y + c * (z - y) + rate * (momentum * (1 - c) - 1) * d
    kept["z"], kept["y"] = z - rate * d, y
    return y + (1 - 1 / momentum) * (kept["z"] - y)


def schedule_free_adamw(
    w, g, kept, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, warmup_steps=0, r=0, weight_lr_power=2
):  # fmt: skip
    """github.com/facebookresearch/schedule_free, schedulefree/adamw_schedulefree.py"""
    kept["v"] = betas[1] * kept.get("v", 0) + (1 - betas[1]) * g * g
    factor = math.sqrt(1 - betas[1] ** t)
    more = (weight_decay, warmup_steps, r, weight_lr_power, factor)
    direction = g / (np.sqrt(kept["v"]) + eps)
    return schedule_free(w, kept.get("y", w), direction, kept, t, lr, betas[0], *more)


def schedule_free_sgd(
    w, g, kept, t, lr, momentum=0.9, weight_decay=0, warmup_steps=0, r=0, weight_lr_power=2
):  # fmt: skip
    """github.com/facebookresearch/schedule_free, schedulefree/sgd_schedulefree.py"""
    more = (weight_decay, warmup_steps, r, weight_lr_power)
    return schedule_free(w, kept.get("y", w), g, kept, t, lr, momentum, *more)


def adaml(w, g, kept, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, l1=0, l21=0, adjust_l1=True):
    """github.com/intelligent-machine-learning/dlrover, atorch/atorch/optimizers/adaml.py"""
    m = average(kept, "m", betas[0], g) / (1 - betas[0] ** t)
    d = np.sqrt(average(kept, "v", betas[1], g * g)) / math.sqrt(1 - betas[1] ** t) + eps
    linear = m - d * w / lr
    bound = l1 * np.sqrt(d) if adjust_l1 else l1
    linear = np.clip(linear, -bound, bound) - linear
    w = lr * linear / (d * (1 + lr * weight_decay))
    if w.ndim < 2 or not l21:
        return w
    norm = np.linalg.norm(linear / np.sqrt(d), axis=1, keepdims=True) / math.sqrt(w.shape[1])
    return np.where(norm <= l21, 0, w * (1 - l21 / np.maximum(norm, l21)))


def prodigy(
    lr, betas=(0.9, 0.999), beta3=None, eps=1e-8, weight_decay=0, decouple=True, use_bias_correction=False,
    safeguard_warmup=False, d0=1e-6, d_coef=1, growth_rate=math.inf,
):  # fmt: skip
    """github.com/konstmish/prodigy, prodigyopt/prodigy.py: d is one of all parameters."""
    beta1, beta2 = betas
    beta3 = math.sqrt(beta2) if beta3 is None else beta3
    first = {name: start(name) for name in SHAPES}
    params = dict(first)
    kept = {name: {"s": 0, "m": 0, "v": 0} for name in SHAPES}
    d = d_max = d0
    numerator = 0
    for t in range(1, STEPS + 1):
        dlr = d * lr * (math.sqrt(1 - beta2**t) / (1 - beta1**t) if use_bias_correction else 1)
        numerator *= beta3
        denominator = 0
        for name, w in params.items():
            g = gradient(name, t) + (0 if decouple else weight_decay * w)
            own = kept[name]
            numerator += d / d0 * dlr * np.sum(g * (first[name] - w))
            own["m"] = beta1 * own["m"] + d * (1 - beta1) * g
            own["v"] = beta2 * own["v"] + d * d * (1 - beta2) * g * g
            own["s"] = beta3 * own["s"] + d / d0 * (d if safeguard_warmup else dlr) * g
            denominator += np.abs(own["s"]).sum()
        estimate = d_coef * numerator / denominator
        if d == d0:
            d = max(d, estimate)
        d_max = max(d_max, estimate)
        d = min(d_max, d * growth_rate)
        for name, own in kept.items():
            w = params[name] * (1 - (dlr * weight_decay if decouple else 0))
            params[name] = w - dlr * own["m"] / (np.sqrt(own["v"]) + d * eps)
    state = {f"{name}_d": [d] for name in SHAPES}
    return {name: w.flatten().tolist() for name, w in params.items()}, state


LR = 1 / 128
CASES = []


def muon(options):
    """
    torch.optim.Muon with its iteration in float64 in place of bfloat16, of a kernel as the matrix that it is for it; and
    torch.optim.AdamW for the vector.
    """
    torch.Tensor.bfloat16 = torch.Tensor.clone

    def make(params):
        own = {name: value for name, value in options.items() if not name.startswith("adam")}
        params["kernel"].data = params["kernel"].data.flatten(1)
        adam = {name[5:]: value for name, value in options.items() if name.startswith("adam_")}
        decay = options.get("weight_decay", 0.1)
        adam = {"lr": 3e-4, "betas": (0.9, 0.95), "weight_decay": decay, **adam}
        matrices = torch.optim.Muon([params["matrix"], params["kernel"]], **own)
        return [matrices, torch.optim.AdamW([params["vector"]], **adam)]

    return run_torch(make)


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
        add(update.__name__.replace("_", "-"), options, run_numpy(update, snake({"lr": LR, **options})))


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
of_numpy(lamb, {}, {**BETAS, "eps": 1e-3, **DECAY}, {"biasCorrection": False}, {**DECAY, "excludeVectors": False})
of_numpy(
    lars, {}, {"eta": 0.1, "momentum": 0}, {"eta": 0.1, **DECAY}, {"eta": 0.1, **DECAY, "nesterov": True},
    {"eta": 0.1, "excludeVectors": False},
)  # fmt: skip
for options in [{}, DECAY, {"beta2Decay": -0.5, "eps1": 1e-3}, {"eps2": 0.1, "clipThreshold": 2}]:
    own = {"lr": LR, **options}
    names = {"lr": "lr", "weightDecay": "weight_decay", "beta2Decay": "beta2_decay", "clipThreshold": "d"}
    given = {names[name]: value for name, value in own.items() if name in names}
    eps = (own.get("eps1"), own.get("eps2", 1e-3))
    add("adafactor", options, run_torch(lambda params: [torch.optim.Adafactor(params.values(), eps=eps, **given)]))
for options in [
    {}, {"weightDecay": 0, "nesterov": False}, {"momentum": 0.5, "nsSteps": 3, "eps": 1e-3},
    {"nsCoefficients": [2, -1.5, 0.5], "nsSteps": 10}, {"adjustLrFn": "match_rms_adamw"},
    {"adamLr": 1e-3, "adamBetas": [0.8, 0.99], "adamEps": 1e-3},
]:  # fmt: skip
    add("muon", options, muon(snake({"lr": LR, **options})))
of_numpy(shampoo, {}, {"updateFreq": 1}, {"updateFreq": 1, "ridge": 0}, {"momentum": 0.9, **DECAY, "eps": 0.1}, {"maxSize": 2})
of_numpy(
    schedule_free_adamw, {}, {**BETAS, "eps": 1e-3, **DECAY}, {"warmupSteps": 30, "r": 0.5}, {"weightLrPower": 0, **DECAY},
)  # fmt: skip
of_numpy(
    schedule_free_sgd, {}, {"momentum": 0.5, **DECAY}, {"warmupSteps": 30, "r": 1}, {"weightLrPower": 1, "warmupSteps": 70},
)  # fmt: skip
of_numpy(
    adaml, {}, {**BETAS, "eps": 1e-3, "weightDecay": 0}, {"l1": 0.5}, {"l1": 0.5, "adjustL1": False}, {"l21": 0.5, "l1": 0.1},
    {"l21": 5},
)  # fmt: skip
for options in [
    {}, {"lr": 0.5, **BETAS, "beta3": 0.9, "eps": 1e-3}, DECAY, {**DECAY, "decouple": False}, {"useBiasCorrection": True},
    {"safeguardWarmup": True, "lr": 0.5}, {"d0": 1e-3, "dCoef": 0.5}, {"growthRate": 1.1},
]:  # fmt: skip
    own = {"lr": 1, **options}
    add("prodigy", own, prodigy(**snake(own)))

for name, kind, options, averaging in [
    ("rmsprop", torch.optim.RMSprop, {}, {"momentum": 0.9}),
    ("adamw", torch.optim.AdamW, {"betas": [0.0, 0.9], "weightDecay": 0}, {"momentum": 0.5, "weightDecayAtY": 0.1}),
    ("adamw", torch.optim.AdamW, {"weightDecay": 0.1}, {"r": 1, "weightLrPower": 0}),
    ("nadam", torch.optim.NAdam, DECAY, {"momentum": 0.95, "weightDecayAtY": 0.2, "r": 0.5}),
    ("sgd", torch.optim.SGD, {"momentum": 0.5, "nesterov": True, **DECAY}, {"momentum": 0.8}),
]:  # fmt: skip
    own = snake({"lr": LR, **options})
    add(name, options, run_averaged(lambda params: kind(params, **own), **snake(averaging)))
    CASES[-1]["scheduleFree"] = averaging

Path(__file__).with_name("recorded.json").write_text(json.dumps(CASES))
