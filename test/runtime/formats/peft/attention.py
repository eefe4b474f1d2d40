"""Trains adapters of the queries and values of an attention layer, and of all three together, with PEFT, for
peft-attention.test.ts: the adapters before and after, losses, and the merged weight. The ONNX file has the layer as ONNX
Runtime's Attention, with one weight.

python attention.py    writes attention/NAME/, attention/model.onnx and attention/expected.json beside this file.
python attention.py --read NAME FOLDER    reads a folder that agd-onnx wrote with PEFT and prints the largest error.
"""
import json, os, sys
import numpy as np, onnx, torch, torch.nn as nn
from onnx import TensorProto, helper, numpy_helper
from peft import LoraConfig, PeftModel, get_peft_model

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = f'{HERE}/attention'
B, T, H, HEADS, SIZES, C = 3, 5, 8, 2, (8, 8, 4), 6
CONFIGS = {
    'parts': LoraConfig(r=2, lora_alpha=6, target_modules=['q_proj', 'v_proj']),
    'packed': LoraConfig(r=3, lora_alpha=4, target_modules=['qkv_proj']),
}
LR = 0.3


class Attention(nn.Module):
    def __init__(self, weight, bias, packed):
        super().__init__()
        self.packed = packed
        for name, w, b in zip(('q_proj', 'k_proj', 'v_proj'), weight.split(SIZES), bias.split(SIZES)):
            if not packed:
                setattr(self, name, linear(w, b))
        if packed:
            self.qkv_proj = linear(weight, bias)

    def forward(self, x):
        parts = self.qkv_proj(x).split(SIZES, -1) if self.packed else (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).flatten(2)


def linear(weight, bias):
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.load_state_dict({'weight': weight.clone(), 'bias': bias.clone()})
    return made


class Net(nn.Module):
    def __init__(self, packed):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        draw = lambda *dims: 0.5 * torch.randn(*dims, generator=generator)
        self.self_attn = Attention(draw(sum(SIZES), H), draw(sum(SIZES)), packed)
        self.head = linear(draw(C, SIZES[2]), draw(C))

    def forward(self, x):
        return self.head(self.self_attn(x))


def save():
    net = Net(packed=True)
    attention = net.self_attn.qkv_proj
    of = lambda name, t: numpy_helper.from_array(np.ascontiguousarray(t.detach().numpy()), name)
    stored = [of('self_attn.qkv_proj.weight', attention.weight.T), of('self_attn.qkv_proj.bias', attention.bias),
              of('head.weight', net.head.weight.T), of('head.bias', net.head.bias)]
    nodes = [
        helper.make_node('Attention', ['x', stored[0].name, stored[1].name], ['y'], 'attention', domain='com.microsoft',
                         num_heads=HEADS, unidirectional=1, qkv_hidden_sizes=SIZES),
        helper.make_node('MatMul', ['y', 'head.weight'], ['h'], 'head'),
        helper.make_node('Add', ['h', 'head.bias'], ['logits'], 'add'),
    ]
    info = lambda name, n: helper.make_tensor_value_info(name, TensorProto.FLOAT, ['batch', 'sequence', n])
    graph = helper.make_graph(nodes, 'attention', [info('x', H)], [info('logits', C)], stored)
    opsets = [helper.make_opsetid('', 18), helper.make_opsetid('com.microsoft', 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), f'{OUT}/model.onnx')


def own(peft):
    return {n: p for n, p in peft.named_parameters() if p.requires_grad}


def train(peft, batches):
    optimizer = torch.optim.SGD(own(peft).values(), lr=LR)
    losses = []
    for x, target in batches:
        loss = nn.functional.cross_entropy(peft(x).reshape(-1, C), target.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main():
    save()
    generator = torch.Generator().manual_seed(3)
    batches = [(torch.randn(B, T, H, generator=generator), torch.randint(C, (B, T), generator=generator))
               for _ in range(20)]
    expected = {'lr': LR, 'batches': [[t.flatten().tolist() for t in b] for b in batches]}
    for name, config in CONFIGS.items():
        torch.manual_seed(1)
        peft = get_peft_model(Net(name == 'packed'), config)
        for p in own(peft).values():
            nn.init.normal_(p, std=0.3)
        peft.save_pretrained(f'{OUT}/{name}')
        os.remove(f'{OUT}/{name}/README.md')
        losses = train(peft, batches)
        after = {n: p.detach().flatten().tolist() for n, p in own(peft).items()}
        logits = peft(batches[0][0]).detach().flatten().tolist()
        merged = peft.merge_and_unload().self_attn
        parts = [merged.qkv_proj] if name == 'packed' else [merged.q_proj, merged.k_proj, merged.v_proj]
        weight = torch.cat([p.weight for p in parts]).T.detach().flatten().tolist()
        expected[name] = {'losses': losses, 'after': after, 'logits': logits, 'weight': weight}
        print(name, losses[0], losses[-1])
    with open(f'{OUT}/expected.json', 'w') as f:
        json.dump(expected, f)


def read(name, folder):
    expected = json.load(open(f'{OUT}/expected.json'))
    peft = PeftModel.from_pretrained(Net(name == 'packed'), folder)
    probe = torch.tensor(expected['batches'][0][0]).reshape(B, T, H)
    print(np.abs(peft(probe).detach().numpy().ravel() - np.array(expected[name]['logits'])).max())


read(*sys.argv[2:]) if len(sys.argv) > 2 else main()
