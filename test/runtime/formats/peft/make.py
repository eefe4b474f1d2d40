"""Trains adapters of a small transformer with PEFT, for peft.test.ts: model, adapters before and after, losses.

python make.py    writes model.onnx, model.int4.onnx, start/, end/, and expected.json beside this file. Needs torch, peft,
                  onnx, onnxscript, onnxruntime.
python make.py --read FOLDER    reads a folder that agd-onnx wrote with PEFT and prints what the model gives.
"""
import json, os, sys
import numpy as np, onnx, torch, torch.nn as nn
from onnx import numpy_helper
from peft import LoraConfig, PeftModel, get_peft_model

HERE = os.path.dirname(os.path.abspath(__file__))
V, D, T = 12, 32, 5


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(D, D) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)
        self.norm = nn.LayerNorm(D)

    def forward(self, x):
        h = self.norm(x)
        scores = self.q_proj(h) @ self.k_proj(h).transpose(1, 2) / D**0.5
        x = x + self.o_proj(torch.softmax(scores, -1) @ self.v_proj(h))
        return x + self.down_proj(torch.tanh(self.up_proj(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, D)
        self.conv = nn.Conv1d(D, D, 3, padding=1)
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(D, V)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = torch.tanh(self.conv(x.transpose(1, 2)).transpose(1, 2))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def net():
    torch.manual_seed(0)
    return Net()


def adapted(model):
    config = LoraConfig(r=2, lora_alpha=6, target_modules=['q_proj', 'v_proj', 'up_proj', 'embed', 'conv'])
    torch.manual_seed(1)
    peft = get_peft_model(model, config)
    for name, p in peft.named_parameters():
        if 'lora_' in name:
            nn.init.normal_(p, std=0.2)
    return peft


def train(peft, batches):
    optimizer = torch.optim.SGD([p for p in peft.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for tokens, target in batches:
        loss = nn.functional.cross_entropy(peft(tokens).reshape(-1, V), target.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def values(peft):
    return {n: p.detach().flatten().tolist() for n, p in peft.named_parameters() if 'lora_' in n}


def quantize():
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(f'{HERE}/model.onnx')
    quantizer = MatMulNBitsQuantizer(model, block_size=16, is_symmetric=False)
    quantizer.process()
    model = quantizer.model.model
    onnx.save(model, f'{HERE}/model.int4.onnx')
    return model


def dequantized(model):
    """The numbers that the packed weights stand for, by the shape [out, in] and order of the layers."""
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type != 'MatMulNBits':
            continue
        at = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        n, k, size = at['N'], at['K'], at['block_size']
        unpack = lambda x: np.stack([x & 15, x >> 4], -1).reshape(*x.shape[:-1], -1)
        b, scale, zero = (tensors[name] for name in node.input[1:4])
        blocks = -(-k // size)
        levels = unpack(b).reshape(n, blocks, size).astype(np.float32)
        zeros = unpack(zero.reshape(n, -1))[:, :blocks, None].astype(np.float32)
        found.append((node.name, ((levels - zeros) * scale.reshape(n, blocks, 1)).reshape(n, -1)[:, :k]))
    return found


def strip(path):
    # Where the lines of code were, which no one needs.
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [p for p in node.metadata_props if not p.key.endswith('stack_trace')]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, path)


def main():
    generator = torch.Generator().manual_seed(2)
    draw = lambda: torch.randint(V, (3, T), generator=generator)
    batches = [(draw(), draw()) for _ in range(6)]
    batch = torch.export.Dim('batch', min=1, max=1024)
    torch.onnx.export(net(), (batches[0][0],), f'{HERE}/model.onnx', dynamo=True, external_data=False,
                      input_names=['tokens'], output_names=['logits'], dynamic_shapes=({0: batch},))
    strip(f'{HERE}/model.onnx')
    peft = adapted(net())
    peft.save_pretrained(f'{HERE}/start')
    losses = train(peft, batches)
    peft.save_pretrained(f'{HERE}/end')
    probe = batches[0][0]
    expected = {'batches': [[t.flatten().tolist() for t in b] for b in batches], 'losses': losses,
                'after': values(peft), 'logits': peft(probe).detach().flatten().tolist()}

    linears = lambda m: [x for x in m.modules() if isinstance(x, nn.Linear)]
    model = net()
    left = {id(x): x for x in linears(model)}
    float_weights = {name: w for name, w in dequantized(quantize())}
    with torch.no_grad():
        for name, w in float_weights.items():
            close = min(left.values(), key=lambda x: float((x.weight - torch.tensor(w)).abs().max())
                        if tuple(x.weight.shape) == w.shape else 1e9)
            close.weight.copy_(torch.tensor(w))
            del left[id(close)]
    peft = adapted(model)
    expected['int4'] = {'losses': train(peft, batches), 'after': values(peft), 'dequantized': len(float_weights)}
    with open(f'{HERE}/expected.json', 'w') as f:
        json.dump(expected, f)
    for folder in ('start', 'end'):
        os.remove(f'{HERE}/{folder}/README.md')
    print(losses, expected['int4']['losses'])


def read(folder):
    expected = json.load(open(f'{HERE}/expected.json'))
    peft = PeftModel.from_pretrained(net(), folder)
    print(np.abs(peft(torch.tensor(expected['batches'][0][0]).reshape(3, T)).detach().numpy().ravel()
                 - np.array(expected['logits'])).max())


if __name__ == "__main__":
    read(sys.argv[2]) if len(sys.argv) > 2 else main()
