"""Trains DoRA, rsLoRA and IA3 of the small transformer of make.py with PEFT, for peft-methods.test.ts: the adapters before
and after, losses, and the gradients of the first batch.

python methods.py    writes methods/NAME/ and methods/expected.json beside this file, from model.onnx and model.int4.onnx.
python methods.py --read NAME FOLDER    reads a folder that agd-onnx wrote with PEFT and prints the largest error.
"""
import json, os, sys
import numpy as np, onnx, torch, torch.nn as nn
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from make import HERE, T, V, dequantized, net

OUT = f'{HERE}/methods'
LORA = dict(r=2, lora_alpha=6, target_modules=['q_proj', 'up_proj', 'conv'])
CONFIGS = {
    'dora': LoraConfig(**LORA, use_dora=True),
    'dora-int4': LoraConfig(r=2, lora_alpha=6, target_modules=['q_proj', 'up_proj'], use_dora=True),
    'dora-embedding': LoraConfig(r=2, lora_alpha=6, target_modules=['embed', 'up_proj'], use_dora=True),
    'rslora': LoraConfig(**LORA, use_rslora=True),
    'ia3': IA3Config(target_modules=['k_proj', 'v_proj', 'down_proj'], feedforward_modules=['down_proj']),
}
LR = 0.2


def own(peft):
    return {n: p for n, p in peft.named_parameters() if p.requires_grad}


def adapted(model, config):
    torch.manual_seed(1)
    peft = get_peft_model(model, config)
    for name, p in own(peft).items():
        if 'magnitude' in name or 'ia3' in name:
            p.data.mul_(1 + 0.1 * torch.randn(p.shape))
        else:
            nn.init.normal_(p, std=0.2)
    return peft


def train(peft, batches):
    optimizer = torch.optim.SGD(own(peft).values(), lr=LR)
    losses, gradients = [], None
    for tokens, target in batches:
        loss = nn.functional.cross_entropy(peft(tokens).reshape(-1, V), target.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        gradients = gradients or {n: p.grad.flatten().tolist() for n, p in own(peft).items()}
        optimizer.step()
        losses.append(loss.item())
    return losses, gradients


def dequantize(model):
    left = [x for x in model.modules() if isinstance(x, nn.Linear)]
    with torch.no_grad():
        for _, w in dequantized(onnx.load(f'{HERE}/model.int4.onnx')):
            close = min((x for x in left if tuple(x.weight.shape) == w.shape),
                        key=lambda x: float((x.weight - torch.tensor(w)).abs().max()))
            close.weight.copy_(torch.tensor(w))
            left = [x for x in left if x is not close]
    return model


def base(name):
    return dequantize(net()) if name.endswith('int4') else net()


def main():
    generator = torch.Generator().manual_seed(3)
    draw = lambda: torch.randint(V, (3, T), generator=generator)
    batches = [(draw(), draw()) for _ in range(20)]
    expected = {'lr': LR, 'batches': [[t.flatten().tolist() for t in b] for b in batches]}
    for name, config in CONFIGS.items():
        peft = adapted(base(name), config)
        peft.save_pretrained(f'{OUT}/{name}')
        os.remove(f'{OUT}/{name}/README.md')
        losses, gradients = train(peft, batches)
        after = {n: p.detach().flatten().tolist() for n, p in own(peft).items()}
        expected[name] = {'losses': losses, 'gradients': gradients, 'after': after,
                          'logits': peft(batches[0][0]).detach().flatten().tolist()}
        print(name, losses[0], losses[-1])
    with open(f'{OUT}/expected.json', 'w') as f:
        json.dump(expected, f)


def read(name, folder):
    expected = json.load(open(f'{OUT}/expected.json'))
    peft = PeftModel.from_pretrained(base(name), folder)
    probe = torch.tensor(expected['batches'][0][0]).reshape(3, T)
    print(np.abs(peft(probe).detach().numpy().ravel() - np.array(expected[name]['logits'])).max())


read(*sys.argv[2:]) if len(sys.argv) > 2 else main()
