"""
PyTorch beside agd-onnx. `export DIR [NAME ...]` writes models, first parameters and a batch for all peers to read;
`run DIR NAME THREADS OPTIMIZER` takes part in a race, see race.mjs: OPTIMIZER is agd (eager), or compiled-adamw.
"""
import argparse
import json
import math
import sys
import time

import torch

from workloads import MODELS, REAL, UPDATES, loss


# After the steps whose losses are compared: a batch that is learnt by heart has gradients too small for fast arithmetic.
SLOW = 1e-7


class AGD(torch.optim.Optimizer):
    """The paper's update, a tensor at a time, as its authors' implementation does it."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), delta=1e-5):
        super().__init__(params, dict(lr=lr, betas=betas, delta=delta))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group['betas']
            for p in group['params']:
                state = self.state[p]
                if not state:
                    state.update(step=0, m=torch.zeros_like(p), b=torch.zeros_like(p))
                m, b = state['m'], state['b']
                state['step'] += 1
                t = state['step']
                before = m.clone()
                m.mul_(beta1).add_(p.grad, alpha=1 - beta1)
                s = m / (1 - beta1**t)
                if t > 1:
                    s -= before / (1 - beta1 ** (t - 1))
                b.mul_(beta2).addcmul_(s, s, value=1 - beta2)
                root = (1 - beta2**t) ** 0.5
                p.addcdiv_(m, b.sqrt().clamp_(min=group['delta'] * root), value=-group['lr'] * root / (1 - beta1**t))


def export(folder, names):
    for name in names or [*MODELS, *UPDATES]:
        export = export_update if name in UPDATES else export_real if name in REAL else export_model
        spec = export(folder, name)
        with open(f'{folder}/{name}.json', 'w') as f:
            json.dump(spec, f)


def export_update(_, name):
    return {'parameters': {f'p{i}': {'dims': shape} for i, shape in enumerate(UPDATES[name])}}


def export_model(folder, name):
    make, inputs, target, kind = MODELS[name]
    torch.manual_seed(0)
    model, x, y = make().eval(), inputs(), target()
    names = ['x', 'x1'][: len(x)]
    torch.onnx.export(model, tuple(x), f'{folder}/{name}.onnx', dynamo=False, opset_version=17, input_names=names,
                      output_names=['output'], do_constant_folding=False,
                      training=torch.onnx.TrainingMode.PRESERVE,
                      dynamic_axes={n: {0: 'batch'} for n in [*names, 'output']})
    return description(folder, name, dict(zip(names, x)), y, kind, dict(model.named_parameters()))


def export_real(folder, name):
    """By PyTorch's default exporter, weights beside the model; without its optimizer, which folds batch normalization."""
    make, inputs, target, kind = MODELS[name]
    torch.manual_seed(0)
    model, x, y = make().eval(), inputs(), target()
    has_batch_norm = any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    torch.onnx.export(model, tuple(x), f'{folder}/{name}.onnx', optimize=not has_batch_norm, verbose=False)
    spec = description(folder, name, {'x': x[0]}, y, kind, {})
    return {**spec, 'parameters': {n: {'dims': list(p.shape)} for n, p in model.named_parameters()}}


def description(folder, name, inputs, target, kind, parameters):
    with open(f'{folder}/{name}.bin', 'wb') as data:
        def place(tensor):
            offset = data.tell()
            tensor.detach().numpy().tofile(data)
            return {'dims': list(tensor.shape), 'dtype': str(tensor.dtype)[6:], 'offset': offset}
        # The eight-byte integers first: they stay aligned.
        feeds = dict(sorted({**inputs, 'target': target}.items(), key=lambda item: item[1].is_floating_point()))
        return {
            'loss': kind,
            'inputs': {n: place(v) for n, v in feeds.items()},
            'parameters': {n: place(v) for n, v in parameters.items()},
        }


def model_step(name, make_optimizer, compiled):
    make, inputs, target, kind = MODELS[name]
    torch.manual_seed(0)
    model, x, y = make().train(), inputs(), target()
    optimizer = make_optimizer(list(model.parameters()))

    def forward():
        return loss(kind, model(*x), y)

    forward = torch.compile(forward) if compiled else forward

    def step():
        optimizer.zero_grad()
        value = forward()
        value.backward()
        optimizer.step()
        return value.item()

    return step, optimizer


def update_step(name, make_optimizer):
    params = []
    for shape in UPDATES[name]:
        p = torch.zeros(shape, requires_grad=True)
        p.grad = torch.cos(torch.arange(p.numel(), dtype=torch.float64)).float().reshape(shape)
        params.append(p)
    optimizer = make_optimizer(params)

    def step():
        optimizer.step()
        return params[0].flatten()[0].item()

    return step, optimizer


def peak_megabytes():
    with open('/proc/self/status') as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith('VmHWM'))


def run(folder, name, threads, kind):
    torch.set_num_threads(threads)
    compiled = kind == 'compiled-adamw'
    make_optimizer = (lambda ps: torch.optim.AdamW(ps, lr=1e-3, fused=True)) if compiled else AGD
    step, optimizer = update_step(name, make_optimizer) if name in UPDATES else model_step(name, make_optimizer, compiled)
    begin = time.perf_counter()
    losses = []
    while len(losses) < 5 and time.perf_counter() - begin < 10:
        losses.append(step())
    print(json.dumps({'losses': losses}), flush=True)
    for group in optimizer.param_groups:
        group['lr'] = SLOW
    for line in sys.stdin:
        end = time.perf_counter() + float(line)
        times = []
        while not times or time.perf_counter() < end:
            begin = time.perf_counter()
            value = step()
            times.append(1000 * (time.perf_counter() - begin))
            assert math.isfinite(value), f'the loss is {value}'
        print(json.dumps({'times': times, 'megabytes': peak_megabytes()}), flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest='command', required=True)
    e = commands.add_parser('export')
    e.add_argument('folder')
    e.add_argument('names', nargs='*')
    r = commands.add_parser('run')
    r.add_argument('folder')
    r.add_argument('name')
    r.add_argument('threads', type=int)
    r.add_argument('optimizer', choices=['agd', 'compiled-adamw'])
    args = parser.parse_args()
    if args.command == 'export':
        export(args.folder, args.names)
    else:
        run(args.folder, args.name, args.threads, args.optimizer)
