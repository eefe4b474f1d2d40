"""Trains several methods of PEFT in one model, for peft-combined.test.ts: adapters before and after, losses, and the gradients
of the first batch.

python combined.py    writes combined/ beside this file, for the models of make.py and prompts.py.
python combined.py --read NAME FOLDER    loads the folders that agd-onnx wrote with PEFT, each merged before the next, and
                                         prints the largest error.
"""
import json, os, re, sys
import numpy as np, torch, torch.nn as nn
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
import make, prompts

OUT = f'{make.HERE}/combined'
LR = 0.2
VIRTUAL = dict(num_virtual_tokens=3)
CASES = {
    'lora-ia3': (make.net, [
        ('lora', LoraConfig(r=2, lora_alpha=6, target_modules=['q_proj', 'up_proj', 'embed'])),
        ('ia3', IA3Config(target_modules=['k_proj', 'v_proj', 'down_proj'], feedforward_modules=['down_proj']))]),
    'lora-prompt': (prompts.bert, [
        ('lora', LoraConfig(r=2, lora_alpha=6, target_modules=['query', 'value'])),
        ('prompt', PromptTuningConfig(task_type='SEQ_CLS', **VIRTUAL))]),
    'lora-prefix': (prompts.gpt2, [
        ('lora', LoraConfig(r=2, lora_alpha=6, target_modules=['c_attn'], fan_in_fan_out=True)),
        ('prefix', PrefixTuningConfig(task_type='CAUSAL_LM', **VIRTUAL))]),
}


def key(name):
    """A parameter in training or in a file, without what wraps it."""
    if 'prompt_e' in name:
        return 'prompt_embeddings'
    return re.sub(r'^(base_model\.)?(model\.)?|\.default|\.weight$', '', re.sub(r'^base_model\.model\.', '', name))


def start(name, make_model, methods):
    """The folders that training starts from."""
    values = {}
    for i, (part, config) in enumerate(methods):
        torch.manual_seed(i + 1)
        peft = get_peft_model(make_model(), config)
        for p_name, p in peft.named_parameters():
            if 'lora_' in p_name or 'prompt_encoder' in p_name:
                nn.init.normal_(p, std=0.2)
            elif 'ia3' in p_name:
                p.data.mul_(1 + 0.1 * torch.randn(p.shape))
        folder = f'{OUT}/{name}/{part}'
        peft.save_pretrained(folder)
        os.remove(f'{folder}/README.md')
        # The weights of GPT-2 are transposed in the base model, which is no matter of the adapter.
        config = json.load(open(f'{folder}/adapter_config.json'))
        config.update({'fan_in_fan_out': False} if part == 'lora' else {})
        json.dump(config, open(f'{folder}/adapter_config.json', 'w'), indent=1)
        own = load_file(f'{folder}/adapter_model.safetensors')
        values |= {key(k): v for k, v in own.items() if re.search('lora|ia3|prompt_e', k)}
    return values


def joint(make_model, methods, values):
    """One model with all methods."""
    model = make_model()
    for part, config in methods:
        if part in ('lora', 'ia3'):
            model = inject_adapter_in_model(config, model)
        else:
            model = get_peft_model(model, config)
    trained = {}
    for name, p in model.named_parameters():
        is_own = bool(re.search('lora_|ia3_l|prompt_encoder', name))
        p.requires_grad_(is_own)
        if is_own:
            k = 'prompt_embeddings' if 'prompt_encoder' in name else key(name)
            trained[k] = p
    assert trained.keys() == values.keys(), trained.keys() ^ values.keys()
    with torch.no_grad():
        for k, p in trained.items():
            p.copy_(values[k].reshape(p.shape))
    return model.eval(), trained


def main():
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape, high: torch.randint(high, shape, generator=generator)
    mask = torch.ones(3, prompts.T, dtype=torch.long)
    mask[1, 4:] = 0
    expected = {'lr': LR, 'mask': mask.flatten().tolist()}
    for name, (make_model, methods) in CASES.items():
        values = start(name, make_model, methods)
        model, trained = joint(make_model, methods, values)
        length, words = (make.T, make.V) if make_model is make.net else (prompts.T, prompts.V)
        is_class = make_model is prompts.bert
        batches = [(draw(3, length, high=words), draw(3, high=3) if is_class else draw(3, length, high=words)) for _ in range(10)]

        def logits(x, model=model):
            if make_model is make.net:
                return model(x)
            out = model(input_ids=x, attention_mask=mask).logits
            return out if is_class else out[:, -length:]

        optimizer = torch.optim.SGD(trained.values(), lr=LR)
        losses, gradients = [], None
        for x, target in batches:
            out = logits(x)
            loss = nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), target.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            gradients = gradients or {k: p.grad.flatten().tolist() for k, p in trained.items()}
            optimizer.step()
            losses.append(loss.item())
        expected[name] = {'batches': [[t.flatten().tolist() for t in b] for b in batches], 'losses': losses,
                          'gradients': gradients, 'after': {k: p.detach().flatten().tolist() for k, p in trained.items()},
                          'logits': logits(batches[0][0]).detach().flatten().tolist()}
        print(name, losses[0], losses[-1], list(trained)[:3])
    with open(f'{OUT}/expected.json', 'w') as f:
        json.dump(expected, f)


def read(name, folder):
    expected = json.load(open(f'{OUT}/expected.json'))
    make_model, methods = CASES[name]
    model = make_model()
    for part, _ in methods:
        if part == 'lora' and make_model is not make.net:
            # The exported module has the model as `model`, which its names begin with.
            model = PeftModel.from_pretrained(prompts.Plain(model), f'{folder}/{part}').merge_and_unload().model
            continue
        if hasattr(model, 'merge_and_unload'):
            model = model.merge_and_unload()
        model = PeftModel.from_pretrained(model, f'{folder}/{part}').eval()
    x = torch.tensor(expected[name]['batches'][0][0]).reshape(3, -1)
    if make_model is make.net:
        out = model(x)
    else:
        out = model(input_ids=x, attention_mask=torch.tensor(expected['mask']).reshape(3, -1)).logits
        out = out if make_model is prompts.bert else out[:, -x.shape[1]:]
    print(np.abs(out.detach().numpy().ravel() - np.array(expected[name]['logits'])).max())


read(*sys.argv[2:]) if len(sys.argv) > 2 else main()
