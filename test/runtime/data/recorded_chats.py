"""Writes recorded-chats.json: conversations as transformers renders and tokenizes them, by templates written here.
The assistant's tokens are those between {% generation %} and {% endgeneration %}, which the recorded templates lack."""
import json
import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|h|>", "<|/h|>", "<|eot|>", "<turn>", "</turn>", "<|end|>", "[INST]", "[/INST]"]
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
vocab = {c: i for i, c in enumerate(alphabet)}
merges = [("e", "s"), ("Ġ", "a"), ("Ċ", "Ċ"), ("a", "s"), ("h", "i"), ("Ċ", "y")]
for a, b in merges:
    vocab[a + b] = len(vocab)
t = Tokenizer(models.BPE(vocab, merges))
t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
t.decoder = decoders.ByteLevel()
t.add_special_tokens([AddedToken(s, special=True) for s in SPECIAL])
t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", t.token_to_id("<s>"))])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>")

G, E = "{% generation %}", "{% endgeneration %}"
TEMPLATES = {
    "ChatML": """{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}G{{ message['content'] + '<|im_end|>' }}E{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' -}}
{% endif %}""",
    "Llama 3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now('%Y') | length %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|h|>system<|/h|>\\n\\n' ~ date_string ~ '\\n' ~ system ~ '<|eot|>' }}
{%- if tools is not none %}{{- 'tools' }}{%- endif %}
{%- for message in messages %}
    {{- '<|h|>' + message['role'] + '<|/h|>\\n\\n' }}
    {%- if message['role'] == 'assistant' %}G{{- message['content'] | trim + '<|eot|>' }}E{%- else %}{{- message['content'] | trim + '<|eot|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|h|>assistant<|/h|>\\n\\n' }}{%- endif %}""",
    "Gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set prefix = messages[0]['content'] + '\\n\\n' %}{% set rest = messages[1:] %}{% else %}{% set prefix = '' %}{% set rest = messages %}{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate.') }}{% endif %}
    {% if message['role'] == 'assistant' %}
{{ '<turn>model\\n' }}G{{ message['content'] | trim + '</turn>' }}E{{ '\\n' }}
    {% else %}
{{ '<turn>user\\n' + (prefix if loop.first else '') + message['content'] | trim + '</turn>\\n' }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}""",
    "Mistral": """{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}G{{- ' ' + message['content'] + eos_token }}E
    {%- else %}{{- '[INST] ' + message['content'] + ' [/INST]' }}{%- endif %}
{%- endfor %}""",
    "Phi": """{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' }}{% if message['role'] == 'assistant' %}G{{ message['content'] + '<|end|>' }}E{{ '\\n' }}{% else %}{{ message['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}""",
    "Zephyr": """{% for message in messages %}
{% if message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' }}G{{ message['content'] + eos_token }}E{{ '\\n\\n' }}{% else %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}

{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
}
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": "hi,  what's a yes?"},
    {"role": "assistant", "content": "a yes  é\n\nas"},
    {"role": "user", "content": "hi again 😀"},
    {"role": "assistant", "content": "yes"},
]

cases = []
for name, template in TEMPLATES.items():
    marked = re.sub(r"G(?=\{\{)", G, template).replace("}}E", "}}" + E)
    plain = re.sub(r"G(?=\{\{)", "", template).replace("}}E", "}}")
    for kind, messages in [("", TALK), (" with a system prompt", [SYSTEM, *TALK])]:
        text = tokenizer.apply_chat_template(messages, chat_template=plain, tokenize=False)
        got = tokenizer.apply_chat_template(
            messages, chat_template=marked, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids = got["input_ids"]
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"], (name, text)
        labels = [i if m else -100 for i, m in zip(ids, got["assistant_masks"])]
        assert any(label >= 0 for label in labels)
        cases.append({"name": name + kind, "template": plain, "messages": messages, "ids": ids, "labels": labels})

out = {"tokenizer": json.loads(t.to_str()), "special": {"bos_token": "<s>", "eos_token": {"content": "</s>"}}, "cases": cases}
Path(__file__).with_name("recorded-chats.json").write_text(json.dumps(out, ensure_ascii=False) + "\n")
