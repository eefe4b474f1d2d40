"""Tunes a small decoder of 4-bit weights with PEFT, for decoders.test.ts: the file as ONNX Runtime's model builder writes
such models, the adapter before and after, and the losses of PyTorch on the dequantized weights.

python make.py    writes model.onnx, start/ and expected.json beside this file. Needs torch, transformers, peft, onnx.
"""
import json, os
import numpy as np, torch
from onnx import TensorProto as T, checker, helper as h, numpy_helper, save
from peft import LoraConfig, get_peft_model
from transformers import Phi3Config, Phi3ForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
BLOCK, LENGTH, BATCH, STEPS = 16, 24, 4, 12
TEXT = open(f'{HERE}/text.txt').read()
TABLE = sorted(set(TEXT))

config = Phi3Config(vocab_size=len(TABLE), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                    num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True, pad_token_id=0,
                    bos_token_id=0, eos_token_id=0, attention_dropout=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
config._attn_implementation = 'eager'
SIZE = config.hidden_size // config.num_attention_heads

ids = torch.tensor([TABLE.index(c) for c in TEXT])


def batches(count, generator):
    for _ in range(count):
        starts = torch.randint(len(ids) - LENGTH - 1, (BATCH,), generator=generator)
        yield (torch.stack([ids[s:s + LENGTH] for s in starts]), torch.stack([ids[s + 1:s + LENGTH + 1] for s in starts]))


def loss_of(model, x, target):
    return torch.nn.functional.cross_entropy(model(input_ids=x).logits.reshape(-1, len(TABLE)), target.reshape(-1))


def quantize(w):
    """Symmetric levels in blocks: packed bytes, scales, and the numbers that they stand for."""
    n, k = w.shape
    blocks = w.reshape(n, k // BLOCK, BLOCK)
    most = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    scale = np.where(most == 0, 1, most / -8).astype(np.float32)
    levels = np.clip(np.round(blocks / scale) + 8, 0, 15).astype(np.uint8)
    packed = levels[..., ::2] | levels[..., 1::2] << 4
    return packed, scale[..., 0], ((levels.astype(np.float32) - 8) * scale).reshape(n, k)


class Builder:
    def __init__(self):
        self.nodes, self.initializers = [], []

    def tensor(self, name, array):
        if name not in [i.name for i in self.initializers]:
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op, inputs, output, domain='', more=(), **attrs):
        name = output.removesuffix('/output_0') if '/' in output else f'/{output}/{op}'
        self.nodes.append(h.make_node(op, list(inputs), [output, *more], name, domain=domain, **attrs))
        return output

    def product(self, x, base, linear, output=None):
        packed, scale, _ = quantize(linear.weight.detach().numpy())
        n, k = linear.weight.shape
        root = base.strip('/').replace('/', '.')
        inputs = [x, self.tensor(f'{root}.MatMul.weight_Q4', packed), self.tensor(f'{root}.MatMul.weight_scales', scale)]
        attrs = dict(K=k, N=n, bits=4, block_size=BLOCK, accuracy_level=4)
        return self.node('MatMulNBits', inputs, output or f'{base}/MatMul_Q4/output_0', 'com.microsoft', **attrs)


def onnx_model(model):
    g, eps = Builder(), config.rms_norm_eps
    one = g.tensor('/model/constants/INT64/[1]', np.array([1]))
    sums = g.node('ReduceSum', ['attention_mask', one], '/model/attn_mask_reformat/ReduceSum/output_0', keepdims=0)
    less = g.node('Sub', [sums, one], '/model/attn_mask_reformat/Sub/output_0')
    lengths = g.node('Cast', [less], '/model/attn_mask_reformat/Sub/Cast/output_0', to=T.INT32)
    shape = g.node('Shape', ['attention_mask'], '/model/attn_mask_reformat/Shape/output_0')
    size = g.node('Gather', [shape, g.tensor('/model/constants/INT64/1', np.array(1))],
                  '/model/attn_mask_reformat/Gather/output_0', axis=0)
    total = g.node('Cast', [size], '/model/attn_mask_reformat/Gather/Cast/output_0', to=T.INT32)

    head = model.lm_head
    packed, scale, _ = quantize(head.weight.detach().numpy())
    flat = g.node('Reshape', [g.tensor('lm_head.MatMul.weight_Q4', packed),
                              g.tensor('/model/constants/INT64/table', np.array([len(TABLE), config.hidden_size // 2]))],
                  '/model/embed_tokens/Reshape/output_0')
    x = g.node('GatherBlockQuantized', [flat, 'input_ids', g.tensor('lm_head.MatMul.weight_scales', scale)],
               '/model/embed_tokens/GatherBlockQuantized/output_0', 'com.microsoft', bits=4, block_size=BLOCK, gather_axis=0,
               quantize_axis=1)
    position = np.arange(config.max_position_embeddings)[:, None]
    angle = position / 10000 ** (np.arange(0, SIZE, 2) / SIZE)
    cos, sin = g.tensor('cos_cache', np.cos(angle).astype(np.float32)), g.tensor('sin_cache', np.sin(angle).astype(np.float32))
    scaled = lambda name, norm: g.tensor(name, norm.weight.detach().numpy())
    y = g.node('SimplifiedLayerNormalization', [x, scaled('model.layers.0.input_layernorm.weight',
                                                          model.model.layers[0].input_layernorm)],
               '/model/layers.0/input_layernorm/output_0', axis=-1, epsilon=eps, stash_type=1)
    for i, layer in enumerate(model.model.layers):
        at = f'/model/layers.{i}'
        qkv = g.product(y, f'{at}/attn/qkv_proj', layer.self_attn.qkv_proj)
        a = g.node('GroupQueryAttention',
                   [qkv, '', '', f'past_key_values.{i}.key', f'past_key_values.{i}.value', lengths, total, cos, sin, '', ''],
                   f'{at}/attn/GroupQueryAttention/output_0', 'com.microsoft', [f'present.{i}.key', f'present.{i}.value'],
                   num_heads=config.num_attention_heads, kv_num_heads=config.num_key_value_heads, scale=SIZE**-0.5,
                   do_rotary=1, rotary_interleaved=0, softcap=0.0, local_window_size=-1)
        o = g.product(a, f'{at}/attn/o_proj', layer.self_attn.o_proj)
        skip = lambda x, o, name, norm: g.node(
            'SkipSimplifiedLayerNormalization', [x, o, scaled(f'{name.strip("/").replace("/", ".")}.weight', norm)],
            f'{name}/output_0', 'com.microsoft', ['', '', f'{name}/output_3'], epsilon=eps)
        y = skip(x, o, f'{at}/post_attention_layernorm', layer.post_attention_layernorm)
        x = f'{at}/post_attention_layernorm/output_3'
        both = layer.mlp.gate_up_proj.weight
        linear = lambda w: type('Linear', (), {'weight': w})
        gate = g.product(y, f'{at}/mlp/gate_proj', linear(both[:config.intermediate_size]))
        up = g.product(y, f'{at}/mlp/up_proj', linear(both[config.intermediate_size:]))
        open_ = g.node('Sigmoid', [gate], f'{at}/mlp/act_fn/Sigmoid/output_0')
        act = g.node('Mul', [gate, open_], f'{at}/mlp/act_fn/Mul/output_0')
        down = g.product(g.node('Mul', [act, up], f'{at}/mlp/Mul/output_0'), f'{at}/mlp/down_proj', layer.mlp.down_proj)
        last = i == config.num_hidden_layers - 1
        name = f'/model/layers.{i + 1}/{"final_norm" if last else "input"}_layernorm'
        y = skip(x, down, name, model.model.norm if last else model.model.layers[i + 1].input_layernorm)
        x = f'{name}/output_3'
    g.product(y, '/lm_head', head, 'logits')

    cache = lambda prefix, length: [
        h.make_tensor_value_info(f'{prefix}.{i}.{part}', T.FLOAT, ['batch_size', config.num_key_value_heads, length, SIZE])
        for i in range(config.num_hidden_layers) for part in ('key', 'value')]
    inputs = [h.make_tensor_value_info('input_ids', T.INT64, ['batch_size', 'sequence_length']),
              h.make_tensor_value_info('attention_mask', T.INT64, ['batch_size', 'total_sequence_length'])]
    outputs = [h.make_tensor_value_info('logits', T.FLOAT, ['batch_size', 'sequence_length', len(TABLE)])]
    graph = h.make_graph(g.nodes, 'main_graph', inputs + cache('past_key_values', 'past_sequence_length'),
                         outputs + cache('present', 'total_sequence_length'), g.initializers)
    made = h.make_model(graph, opset_imports=[h.make_opsetid('', 21), h.make_opsetid('com.microsoft', 1)], ir_version=10,
                        producer_name='onnxruntime-genai')
    save(made, f'{HERE}/model.onnx')


def main():
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for x, target in batches(40, torch.Generator().manual_seed(1)):
        optimizer.zero_grad()
        loss_of(model, x, target).backward()
        optimizer.step()
    onnx_model(model)
    with torch.no_grad():
        for module in [*model.modules()]:
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(torch.tensor(quantize(module.weight.numpy())[2]))
    torch.manual_seed(2)
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=['qkv_proj', 'o_proj', 'down_proj']))
    peft.save_pretrained(f'{HERE}/start')
    os.remove(f'{HERE}/start/README.md')
    optimizer = torch.optim.Adam([p for p in peft.parameters() if p.requires_grad], lr=0.02)
    fed, losses = [], []
    for x, target in batches(STEPS, torch.Generator().manual_seed(3)):
        loss = loss_of(peft, x, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        fed.append([x.flatten().tolist(), target.flatten().tolist()])
    norms = {n: p.detach().norm().item() for n, p in peft.named_parameters() if 'lora_' in n}
    json.dump({'length': LENGTH, 'batch': BATCH, 'batches': fed, 'losses': losses, 'norms': norms},
              open(f'{HERE}/expected.json', 'w'))
    print(losses)


if __name__ == '__main__':
    main()
