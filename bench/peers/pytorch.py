"""PyTorch beside agd-onnx: `export DIR` writes the models, `run NAME` times a training step and prints JSON."""
import argparse
import json
import resource
import statistics
import time

import torch

from workloads import WORKLOADS, loss


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


def export(folder):
    for name, (make, inputs, target, kind) in WORKLOADS.items():
        torch.manual_seed(0)
        model, x = make().eval(), inputs()
        names = ['x', 'x1'][: len(x)]
        path = f'{folder}/{name}.onnx'
        torch.onnx.export(model, tuple(x), path, dynamo=False, opset_version=17, input_names=names,
                          output_names=['output'], do_constant_folding=False,
                          training=torch.onnx.TrainingMode.PRESERVE,
                          dynamic_axes={n: {0: 'batch'} for n in [*names, 'output']})
        shapes = {n: [list(v.shape), str(v.dtype)[6:], 1 if v.is_floating_point() else int(v.max()) + 1] for n, v in zip(names, x)}
        y = target()
        shapes['target'] = [list(y.shape), str(y.dtype)[6:], 2 if y.is_floating_point() else int(y.max()) + 1]
        with open(f'{folder}/{name}.json', 'w') as f:
            json.dump({'loss': kind, 'inputs': shapes}, f)


def run(name, optimizer, compiled, threads, seconds):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    make, inputs, target, kind = WORKLOADS[name]
    model = make().train()
    params = list(model.parameters())
    opt = AGD(params) if optimizer == 'agd' else torch.optim.AdamW(params, lr=1e-3, fused=True)
    x, y = inputs(), target()

    def forward():
        return loss(kind, model(*x), y)

    forward = torch.compile(forward) if compiled else forward

    def step():
        opt.zero_grad()
        forward().backward()
        opt.step()

    for _ in range(5):
        step()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({'ms': 1000 * statistics.median(times), 'steps': len(times), 'megabytes': peak}))


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('export').add_argument('folder')
    r = commands.add_parser('run')
    r.add_argument('name', choices=WORKLOADS)
    r.add_argument('--optimizer', choices=['agd', 'adamw'], default='agd')
    r.add_argument('--compile', action='store_true')
    r.add_argument('--threads', type=int, default=2)
    r.add_argument('--seconds', type=float, default=3)
    args = parser.parse_args()
    if args.command == 'export':
        export(args.folder)
    else:
        run(args.name, args.optimizer, args.compile, args.threads, args.seconds)
