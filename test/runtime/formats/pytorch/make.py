"""Writes the checkpoints beside it: PyTorch's state after 10 and 20 steps of each optimizer of pytorch-state.test.ts.

    python make.py AGD_PY [FOLDER]

AGD_PY is the optimizer of AGD's authors, atorch/atorch/optimizers/agd.py of their repository
github.com/intelligent-machine-learning/dlrover at b5406a7. The model is `mlp()`, the batch `mlpData(16)` of
test/sample.ts, whose numbers are drawn here again. Made with PyTorch 2.13; other processors round the last bit of
tanh and exp otherwise. Says how far a file is from the one that it takes the place of.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

STEPS = (10, 20)


def spread(shape: list[int], low: float, high: float, seed: int) -> torch.Tensor:
    """Numbers in [low, high) from the generator of test/ops/vjp.ts."""
    state = seed * 2654435761
    numbers = []
    for _ in range(torch.Size(shape).numel()):
        state = (state * 1664525 + 1013904223) % 2**32
        numbers.append(low + (high - low) * state / 2**32)
    return torch.tensor(numbers, dtype=torch.float32).reshape(shape)


def parameters() -> dict[str, torch.Tensor]:
    shapes = {"fc1.weight": [4, 8], "fc1.bias": [8], "fc2.weight": [8, 3], "fc2.bias": [3]}
    drawn = {name: spread(shape, -0.5, 0.5, len(name) + i) for i, (name, shape) in enumerate(shapes.items())}
    return {name: value.requires_grad_() for name, value in drawn.items()}


def optimizers(agd: type) -> dict:
    """How to make each optimizer of the parameters by name."""
    optim = torch.optim
    return {
        "agd": lambda p: agd(
            [
                {"params": [p["fc1.weight"], p["fc1.bias"]], "amsgrad": True, "weight_decay": 0.1},
                {"params": [p["fc2.weight"], p["fc2.bias"]], "win": True, "weight_decay": 0.05, "lr": 3e-3},
            ],
            lr=1e-2,
        ),
        "sgd": lambda p: optim.SGD(p.values(), lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
        "adam": lambda p: optim.Adam(p.values(), lr=1e-2, weight_decay=0.1),
        "adamw": lambda p: optim.AdamW(p.values(), lr=1e-2, betas=(0.5, 0.9)),
        "amsgrad": lambda p: optim.Adam(p.values(), lr=1e-2, amsgrad=True),
        "radam": lambda p: optim.RAdam(p.values(), lr=1e-2, weight_decay=0.1, decoupled_weight_decay=True),
    }


def main(agd_file: str, folder: str = str(Path(__file__).parent)) -> None:
    spec = importlib.util.spec_from_file_location("agd", agd_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = spread([16, 4], -1, 1, 1)
    target = x[:, :3].argmax(1)
    for name, make in optimizers(module.AGD).items():
        p = parameters()
        optimizer = make(p)
        for step in range(1, max(STEPS) + 1):
            optimizer.zero_grad()
            hidden = torch.tanh(x @ p["fc1.weight"] + p["fc1.bias"])
            cross_entropy(hidden @ p["fc2.weight"] + p["fc2.bias"], target).backward()
            optimizer.step()
            if step not in STEPS:
                continue
            tensors = {}
            for key, value in p.items():
                state = optimizer.state[value]
                tensors |= {key: value.detach()} | {f"{key}.{k}": v for k, v in state.items() if v is not None}
            file = Path(folder) / f"{name}-{step}.safetensors"
            before = load_file(file) if file.exists() else tensors
            assert before.keys() == tensors.keys(), file
            distance = max((before[key] - tensors[key]).abs().max().item() for key in tensors)
            print(f"{file.name}: {distance:.1e} from the one before")
            save_file(tensors, file)


main(*sys.argv[1:])
