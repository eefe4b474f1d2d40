"""Trains prompts and prefixes of a tiny GPT-2 and a tiny BERT classifier with PEFT, for prompts.test.ts: models, adapters
before and after, losses, and the gradients of the first batch.

python prompts.py    writes prompts/ beside this file. Needs torch, transformers, peft, onnx, onnxscript.
python prompts.py --read NAME FOLDER    reads a folder that agd-onnx wrote with PEFT and prints the largest error.
"""
import json, os, sys
import numpy as np, onnx, torch, torch.nn as nn
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel
from transformers.cache_utils import DynamicCache
from make import strip

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = f'{HERE}/prompts'
V, D, L, H, N, T = 20, 16, 2, 2, 3, 6
LR = 0.5


def gpt2():
    torch.manual_seed(0)
    sizes = dict(vocab_size=V, n_positions=24, n_embd=D, n_layer=L, n_head=H, bos_token_id=1, eos_token_id=2)
    drops = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation='eager', initializer_range=0.3)
    return GPT2LMHeadModel(GPT2Config(**sizes, **drops)).eval()


def bert():
    torch.manual_seed(0)
    sizes = dict(vocab_size=V, max_position_embeddings=24, hidden_size=D, num_hidden_layers=L, num_attention_heads=H,
                 intermediate_size=2 * D, num_labels=3)
    drops = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation='eager', initializer_range=0.3)
    return BertForSequenceClassification(BertConfig(**sizes, **drops)).eval()


class Plain(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


class Classifier(Plain):
    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits


class Cached(Plain):
    def forward(self, input_ids, attention_mask, position_ids, k0, v0, k1, v1):
        cache = DynamicCache([(k0, v0), (k1, v1)])
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                         past_key_values=cache, use_cache=True)
        layers = out.past_key_values.layers
        return out.logits, layers[0].keys, layers[0].values, layers[1].keys, layers[1].values


def export(module, args, names, outputs, shapes, name):
    torch.onnx.export(module, args, f'{OUT}/{name}.onnx', dynamo=True, external_data=False, input_names=names,
                      output_names=outputs, dynamic_shapes=shapes, optimize=True)
    strip(f'{OUT}/{name}.onnx')


def main():
    os.makedirs(OUT, exist_ok=True)
    ids, ones = torch.ones(2, T, dtype=torch.long), torch.ones(2, T, dtype=torch.long)
    batch, seq, past, total = (torch.export.Dim(n, min=1, max=64) for n in ('batch', 'sequence', 'past', 'total'))
    text = {0: batch, 1: seq}
    export(Plain(gpt2()), (ids, ones), ['input_ids', 'attention_mask'], ['logits'], (text, text), 'gpt2')
    export(Classifier(bert()), (ids, ones, 0 * ids), ['input_ids', 'attention_mask', 'token_type_ids'], ['logits'],
           (text, text, text), 'bert')
    kv = [torch.zeros(2, H, 2, D // H) for _ in range(2 * L)]
    cached = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    pasts = [f'past_key_values.{i}.{x}' for i in range(L) for x in ('key', 'value')]
    export(Cached(gpt2()), (ids, torch.ones(2, T + 2, dtype=torch.long), torch.arange(2, T + 2).expand(2, T), *kv),
           ['input_ids', 'attention_mask', 'position_ids', *pasts],
           ['logits', *(p.replace('past_key_values', 'present') for p in pasts)],
           (free, free, free, *[cached] * 4), 'gpt2-cached')

    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape, high=V: torch.randint(high, shape, generator=generator)
    mask = torch.ones(3, T, dtype=torch.long)
    mask[1, 4:] = 0
    expected = {'lr': LR, 'mask': mask.flatten().tolist()}
    runs = {
        'prompt-gpt2': (gpt2, PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=N), True),
        'prompt-bert': (bert, PromptTuningConfig(task_type='SEQ_CLS', num_virtual_tokens=N), False),
        'prefix-gpt2': (gpt2, PrefixTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=N), True),
    }
    for name, (make, config, per_token) in runs.items():
        torch.manual_seed(1)
        peft = get_peft_model(make(), config)
        for p_name, p in peft.named_parameters():
            p.requires_grad_('prompt_encoder' in p_name)
        [(_, prompt)] = [(n, p) for n, p in peft.named_parameters() if p.requires_grad]
        nn.init.normal_(prompt, std=0.3)
        peft.eval()
        peft.save_pretrained(f'{OUT}/{name}')
        os.remove(f'{OUT}/{name}/README.md')
        batches = [(draw(3, T), draw(3, T) if per_token else draw(3, high=3)) for _ in range(20)]
        optimizer = torch.optim.SGD([prompt], lr=LR)
        losses, gradient = [], None

        def logits(x):
            out = peft(input_ids=x, attention_mask=mask).logits
            return out[:, -T:] if per_token else out

        for x, target in batches:
            out = logits(x)
            loss = nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), target.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            gradient = gradient or prompt.grad.flatten().tolist()
            optimizer.step()
            losses.append(loss.item())
        expected[name] = {'batches': [[t.flatten().tolist() for t in b] for b in batches], 'losses': losses,
                          'gradient': gradient, 'after': prompt.detach().flatten().tolist(),
                          'shape': list(prompt.shape), 'logits': logits(batches[0][0]).detach().flatten().tolist()}
        print(name, losses[0], losses[-1])
    with open(f'{OUT}/expected.json', 'w') as f:
        json.dump(expected, f)


def read(name, folder):
    expected = json.load(open(f'{OUT}/expected.json'))
    mask = torch.tensor(expected['mask']).reshape(3, T)
    peft = PeftModel.from_pretrained(bert() if 'bert' in name else gpt2(), folder).eval()
    x = torch.tensor(expected[name]['batches'][0][0]).reshape(3, T)
    out = peft(input_ids=x, attention_mask=mask).logits
    out = out[:, -T:] if 'gpt2' in name else out
    print(np.abs(out.detach().numpy().ravel() - np.array(expected[name]['logits'])).max())


if __name__ == '__main__':
    read(*sys.argv[2:]) if len(sys.argv) > 2 else main()
