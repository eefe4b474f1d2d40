"""The models that are compared, by family. A model's builder gives a module and its inputs by name."""

import importlib
from dataclasses import dataclass, field
from typing import Callable

BOTH = ('legacy', 'dynamo')


@dataclass
class Model:
    name: str
    build: Callable
    loss: str = 'cross-entropy'
    output: int = 0
    """Which output the loss reads."""
    dynamic: dict = field(default_factory=dict)
    """Symbolic axes by input: {'x': {0: 'batch'}}."""
    batch_norm: bool = False
    """Also compared in training mode, on the statistics of the batch."""
    exporters: tuple = BOTH
    opset: dict = field(default_factory=dict)
    """By exporter; its own default where not given."""
    fresh: bool = False
    """Keeps weights that are all ones or zeros as they are."""
    script: bool = False
    """Compiled with torch.jit.script, so that loops and branches stay in the file."""
    scalars: tuple = ()
    """Globs of parameters that are single numbers, which train only where --train says so."""


MODELS: list[Model] = []


def model(name, **options):
    """Registers a builder."""
    def register(build):
        MODELS.append(Model(name, build, **options))
        return build
    return register


def module(name, **options):
    """Registers a class of modules, whose static method `inputs` gives what one is fed."""
    def register(cls):
        model(name, **options)(lambda: (cls(), cls.inputs()))
        return cls
    return register


for family in ('recurrent', 'tabular', 'graph', 'sets', 'similarity', 'generative', 'other', 'dense', 'text', 'vision'):
    importlib.import_module(f'families.{family}')
