"""Exports PyTorch models with both exporters, and writes beside each what PyTorch's autograd finds.

export.py [--optimize basic|extended] [--seed N] OUT [GLOB ...] writes a folder OUT/<model>-<exporter>[-train] for each model whose name matches:
model.onnx, batch.safetensors (inputs and target), expected.safetensors (the loss, and float64 gradients by the
names of the file's initializers, `parameter:` before those that are only known by PyTorch's name) and case.json.
"""

import argparse
import copy
import fnmatch
import inspect
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from safetensors.numpy import save_file

from correspondence import find_gradients
from families import MODELS, Model

warnings.filterwarnings('ignore')
ort.set_default_logger_severity(4)
logging.disable(logging.WARNING)
torch.set_num_threads(1)

LOSSES = {
    'cross-entropy': lambda y, t, axis: torch.nn.functional.cross_entropy(y.movedim(axis, 1) if y.ndim > 2 else y, t),
    'mse': lambda y, t, _: torch.nn.functional.mse_loss(y, t),
    'bce-with-logits': lambda y, t, _: torch.nn.functional.binary_cross_entropy_with_logits(y, t),
    'output': lambda y, *_: y.reshape([]),
}


def class_axis(y):
    return 1 if y.ndim >= 4 else y.ndim - 1


def target_of(kind, y):
    if kind == 'cross-entropy':
        axis = class_axis(y)
        shape = [d for i, d in enumerate(y.shape) if i != axis]
        return torch.randint(0, y.shape[axis], shape)
    if kind == 'bce-with-logits':
        return torch.randint(0, 2, y.shape).float()
    return torch.randn(y.shape) if kind == 'mse' else None


def shake(module):
    """Fresh weights that are equal get values of their own: exporters merge them, and equal ones hide what is mixed up."""
    seen = []
    with torch.no_grad():
        for p in module.parameters():
            uniform = torch.all(p == p.flatten()[0])
            if p.numel() > 1 and (uniform or any(torch.equal(p, other) for other in seen)):
                p.add_(0.1 * torch.randn_like(p))
            seen.append(p)
        for m in module.modules():
            if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.running_mean is not None:
                m.running_mean.normal_(0, 0.1)
                m.running_var.uniform_(0.5, 1.5)


def outputs_of(module, inputs):
    y = module(*copy.deepcopy(inputs))
    return list(y) if isinstance(y, (tuple, list)) else [y]


def gradients(module, spec: Model, inputs, target):
    """Loss and the gradient of each parameter, in the module's own precision."""
    module.zero_grad(set_to_none=True)
    y = outputs_of(module, inputs)[spec.output]
    loss = LOSSES[spec.loss](y, target, class_axis(y))
    loss.backward()
    return loss.item(), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def optimize(path, level):
    """What ONNX Runtime's own optimizer makes of the file."""
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f'ORT_ENABLE_{level.upper()}')
    options.optimized_model_filepath = path
    ort.InferenceSession(path, options, providers=['CPUExecutionProvider'])


def is_faithful(path, named, found):
    """Whether the file computes what the module does: exporters have their mistakes."""
    runner = ort.InferenceSession(path, providers=['CPUExecutionProvider'])
    feeds = {i.name: named[i.name].numpy() for i in runner.get_inputs()}
    return all(np.allclose(y, want.numpy(), rtol=1e-3, atol=1e-4) for y, want in zip(runner.run(None, feeds), found))


def rounded(module):
    """Parameters a rounding error away: how far the gradient moves then is what float32 cannot know."""
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1 + 2**-24 * torch.randn_like(p))
    return module


def double(x):
    return x.double() if torch.is_tensor(x) and x.is_floating_point() else x


def export(module, inputs, names, outputs, path, spec: Model, exporter, training):
    options = dict(input_names=names, output_names=outputs, opset_version=spec.opset.get(exporter))
    axes = {k: v for k, v in spec.dynamic.items()}
    if exporter == 'legacy':
        mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
        torch.onnx.export(module, inputs, path, dynamo=False, training=mode, dynamic_axes=axes or None,
                          do_constant_folding=not training, **options)
    else:
        dim = torch.export.Dim.DYNAMIC
        shapes = tuple({a: dim for a in axes[n]} if n in axes else None for n in names)
        if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values()):
            shapes = (shapes,)
        options.update(dynamo=True, verbose=False, optimize=not training, external_data=False)
        try:
            torch.onnx.export(module, inputs, path, dynamic_shapes=shapes if axes else None, **options)
        except Exception:
            if not axes:
                raise
            # Not every module lets its axes be symbolic.
            torch.onnx.export(module, inputs, path, **options)


def write(spec: Model, exporter, training, folder: Path, level=None, seed=0):
    torch.manual_seed(seed)
    module, named = spec.build()
    module.train(training)
    if not spec.fresh:
        shake(module)
    names, inputs = list(named), tuple(named.values())
    with torch.no_grad():
        found = outputs_of(copy.deepcopy(module), inputs)
    outputs = [f'y{i}' for i in range(len(found))] if len(found) > 1 else ['y']
    target = target_of(spec.loss, found[spec.output])
    folder.mkdir(parents=True, exist_ok=True)
    exported = copy.deepcopy(module)
    # The new exporter leaves out a module that it thinks is trained: it knows inference only.
    exported.train(training and exporter == 'legacy')
    if spec.script:
        exported = torch.jit.script(exported)
    export(exported, inputs, names, outputs, str(folder / 'model.onnx'), spec, exporter, training)
    if level:
        optimize(str(folder / 'model.onnx'), level)
    single = gradients(copy.deepcopy(module), spec, inputs, target)
    exact = tuple(map(double, inputs)), double(target)
    loss, grads = gradients(copy.deepcopy(module).double(), spec, *exact)
    moved = gradients(rounded(copy.deepcopy(module).double()), spec, *exact)
    own = {n: max(float((other[1][n].double() - g).abs().max()) for other in (single, moved)) for n, g in grads.items()}
    expected, covered = find_gradients(str(folder / 'model.onnx'), module, grads)
    save_file({'loss': np.array(loss), **expected}, folder / 'expected.safetensors')
    batch = {n: t.contiguous().numpy() for n, t in zip(names, inputs)}
    if target is not None:
        batch['target'] = target.numpy()
    save_file(batch, folder / 'batch.safetensors')
    scalars = [n for n, ps in covered.items() if any(fnmatch.fnmatch(p, g) for p in ps for g in spec.scalars)]
    file = onnx.load(folder / 'model.onnx')
    info = dict(
        model=spec.name, exporter=f'{exporter}, {level}' if level else exporter, training=training, scalars=scalars,
        opset=next(o.version for o in file.opset_import if o.domain == ''),
        loss={'kind': spec.loss, 'output': outputs[spec.output]}, 
        lossError=max(abs(other[0] - loss) for other in (single, moved)) / max(1e-3, abs(loss)),
        # In training mode the file and the module draw on the statistics of the batch, which inference does not.
        faithful=training or is_faithful(str(folder / 'model.onnx'), named, found),
        parameters={n: {'largest': float(g.abs().max()), 'error': own[n]} for n, g in grads.items()},
        covered=covered,
    )
    (folder / 'case.json').write_text(json.dumps(info, indent=1))


def main(out, globs, level, seed):
    failed = []
    for spec in MODELS:
        if globs and not any(fnmatch.fnmatch(spec.name, g) for g in globs):
            continue
        for exporter in spec.exporters:
            for training in ([False, True] if spec.batch_norm and not level else [False]):
                name = f'{spec.name}-{exporter}{"-train" if training else ""}'
                try:
                    write(spec, exporter, training, Path(out) / name, level, seed)
                    print('exported', name, flush=True)
                except Exception as error:
                    failed.append(name)
                    (Path(out) / name).mkdir(parents=True, exist_ok=True)
                    lines = str(error).strip().splitlines() or ['']
                    (Path(out) / name / 'failed.txt').write_text(f'{type(error).__name__}: {lines[0]}')
                    print('not exported', name, type(error).__name__, lines[0][:200], flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--optimize', choices=['basic', 'extended'])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('out')
    parser.add_argument('globs', nargs='*')
    args = parser.parse_args()
    main(args.out, args.globs, args.optimize, args.seed)
