"""Transformers: Hugging Face's, small, and blocks of their own."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from . import BOTH, model, module

TEXT = {'input_ids': {0: 'batch', 1: 'tokens'}}
MASKED = {**TEXT, 'attention_mask': {0: 'batch', 1: 'tokens'}}


class Wrapped(nn.Module):
    """Hugging Face models give objects; files hold tensors."""

    def __init__(self, inner, names, pick):
        super().__init__()
        self.inner, self.names, self.pick = inner, names, pick

    def forward(self, *inputs):
        out = self.inner(**dict(zip(self.names, inputs)))
        picked = tuple(getattr(out, p) for p in self.pick)
        return picked if len(picked) > 1 else picked[0]


def ids(batch=2, length=6, vocabulary=40):
    return torch.randint(3, vocabulary, (batch, length))


def masked(batch=2, length=6):
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - 2:] = 0
    return {'input_ids': ids(batch, length), 'attention_mask': mask}


SMALL = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
             max_position_embeddings=32)


def hugging(name, head, config, inputs=masked, pick=('logits',), loss='cross-entropy', dynamic=None, options=None,
            exporters=BOTH, **changes):
    def build():
        import transformers

        settings = {**SMALL, **changes, 'use_cache': False}
        c = getattr(transformers, config)(**settings)
        c._attn_implementation = (options or {}).get('attention', 'sdpa')
        given = inputs()
        return Wrapped(getattr(transformers, head)(c), list(given), pick), given

    model(name, loss=loss, dynamic=MASKED if dynamic is None else dynamic, exporters=exporters)(build)


hugging('bert', 'BertForSequenceClassification', 'BertConfig', num_labels=3)
hugging('bert-eager', 'BertForTokenClassification', 'BertConfig', num_labels=5, options={'attention': 'eager'})
hugging('distilbert', 'DistilBertForSequenceClassification', 'DistilBertConfig', dim=16, n_layers=2, n_heads=2, hidden_dim=32)
hugging('albert', 'AlbertForSequenceClassification', 'AlbertConfig', embedding_size=8, num_labels=3)
hugging('roberta', 'RobertaForTokenClassification', 'RobertaConfig', num_labels=4, pad_token_id=1)
hugging('electra', 'ElectraForPreTraining', 'ElectraConfig', loss='bce-with-logits', embedding_size=8)
hugging('deberta', 'DebertaV2ForSequenceClassification', 'DebertaV2Config', num_labels=3, relative_attention=True,
        pos_att_type=['p2c', 'c2p'], position_buckets=4, options={'attention': 'eager'})
hugging('gpt2', 'GPT2LMHeadModel', 'GPT2Config', n_embd=16, n_layer=2, n_head=2, n_positions=32)
hugging('gpt-neox', 'GPTNeoXForCausalLM', 'GPTNeoXConfig')
hugging('opt', 'OPTForCausalLM', 'OPTConfig', ffn_dim=32, word_embed_proj_dim=16)
hugging('llama', 'LlamaForCausalLM', 'LlamaConfig', num_key_value_heads=1)
hugging('mistral', 'MistralForCausalLM', 'MistralConfig', num_key_value_heads=1, sliding_window=3)
hugging('qwen2', 'Qwen2ForCausalLM', 'Qwen2Config', num_key_value_heads=1, tie_word_embeddings=True)
hugging('gemma', 'GemmaForCausalLM', 'GemmaConfig', num_key_value_heads=1, head_dim=8)
hugging('t5-encoder', 'T5EncoderModel', 'T5Config', pick=('last_hidden_state',), loss='mse', d_model=16, d_kv=8, d_ff=32,
        num_layers=2, num_heads=2)
hugging('mamba', 'MambaForCausalLM', 'MambaConfig', inputs=lambda: {'input_ids': ids()}, dynamic={}, state_size=4, options={'attention': 'eager'})
EAGER = {'attention': 'eager'}
hugging('modernbert', 'ModernBertForSequenceClassification', 'ModernBertConfig', num_labels=3, global_attn_every_n_layers=2,
        local_attention=4, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
hugging('mobilebert', 'MobileBertForSequenceClassification', 'MobileBertConfig', num_labels=3, embedding_size=16,
        intra_bottleneck_size=16, true_hidden_size=16)
hugging('mpnet', 'MPNetForSequenceClassification', 'MPNetConfig', num_labels=3, pad_token_id=1, options=EAGER)
hugging('esm', 'EsmForTokenClassification', 'EsmConfig', num_labels=3, position_embedding_type='rotary', pad_token_id=1,
        mask_token_id=2)
hugging('longformer', 'LongformerForSequenceClassification', 'LongformerConfig', num_labels=3, attention_window=4,
        pad_token_id=1, inputs=lambda: masked(2, 8), dynamic={'input_ids': {0: 'batch'}, 'attention_mask': {0: 'batch'}},
        options=EAGER, exporters=('legacy',))
hugging('fnet', 'FNetForSequenceClassification', 'FNetConfig', num_labels=3, inputs=lambda: {'input_ids': ids()}, dynamic=TEXT,
        options=EAGER, exporters=('dynamo',))
hugging('roformer', 'RoFormerForSequenceClassification', 'RoFormerConfig', num_labels=3, embedding_size=16, options=EAGER)
hugging('squeezebert', 'SqueezeBertForSequenceClassification', 'SqueezeBertConfig', num_labels=3, embedding_size=16, q_groups=2,
        k_groups=2, v_groups=2, post_attention_groups=1, intermediate_groups=2, output_groups=2, options=EAGER)
hugging('gpt-neo', 'GPTNeoForCausalLM', 'GPTNeoConfig', num_layers=2, num_heads=2, attention_types=[[['global', 'local'], 1]],
        window_size=3, options=EAGER)
hugging('gptj', 'GPTJForCausalLM', 'GPTJConfig', n_embd=16, n_layer=2, n_head=2, rotary_dim=4, options=EAGER)
hugging('falcon', 'FalconForCausalLM', 'FalconConfig', multi_query=True, parallel_attn=True)
hugging('phi', 'PhiForCausalLM', 'PhiConfig', num_key_value_heads=1)
hugging('gemma2', 'Gemma2ForCausalLM', 'Gemma2Config', num_key_value_heads=1, head_dim=8, sliding_window=3, options=EAGER)
hugging('gemma3', 'Gemma3ForCausalLM', 'Gemma3TextConfig', num_key_value_heads=1, head_dim=8, sliding_window=3)
hugging('olmo2', 'Olmo2ForCausalLM', 'Olmo2Config', num_key_value_heads=2)
hugging('granite', 'GraniteForCausalLM', 'GraniteConfig', num_key_value_heads=1)
hugging('cohere', 'CohereForCausalLM', 'CohereConfig', num_key_value_heads=1, exporters=('dynamo',))
hugging('mpt', 'MptForCausalLM', 'MptConfig', d_model=16, n_heads=2, n_layers=2, expansion_ratio=2, max_seq_len=32, options=EAGER)
hugging('mamba2', 'Mamba2ForCausalLM', 'Mamba2Config', inputs=lambda: {'input_ids': ids()}, dynamic={}, num_heads=4, head_dim=8,
        state_size=4, n_groups=1, expand=2, chunk_size=4, options=EAGER, exporters=('dynamo',))
hugging('bart', 'BartForSequenceClassification', 'BartConfig', d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_labels=3, init_std=0.2,
        inputs=lambda: {'input_ids': torch.tensor([[0, 5, 7, 9, 2], [0, 8, 4, 6, 2]])}, dynamic={})
hugging('bloom', 'BloomForCausalLM', 'BloomConfig', n_layer=2, n_head=2, options={'attention': 'eager'})


@model('gpt2-with-loss', loss='output', exporters=('dynamo',), dynamic={**TEXT, 'labels': {0: 'batch', 1: 'tokens'}})
def gpt2_loss():
    from transformers import GPT2Config, GPT2LMHeadModel
    c = GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32, use_cache=False)
    x = ids()
    labels = x.clone(); labels[:, :2] = -100
    return Wrapped(GPT2LMHeadModel(c), ['input_ids', 'labels'], ('loss', 'logits')), {'input_ids': x, 'labels': labels}


def whisper_inputs():
    return {'input_features': torch.randn(2, 8, 12)}


@model('whisper-encoder', loss='mse', dynamic={'input_features': {0: 'batch'}})
def whisper():
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    c = WhisperConfig(num_mel_bins=8, d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32,
                      max_source_positions=6)
    return Wrapped(WhisperEncoder(c), ['input_features'], ('last_hidden_state',)), whisper_inputs()


@model('wav2vec2', dynamic={'x': {0: 'batch'}})
def wav2vec():
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    c = Wav2Vec2Config(vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                       conv_dim=(8, 8), conv_kernel=(5, 3), conv_stride=(3, 2), num_feat_extract_layers=2,
                       num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    return Wrapped(Wav2Vec2ForCTC(c), ['input_values'], ('logits',)), {'x': torch.randn(2, 60)}


@model('clip', scalars=('*logit_scale*',))
def clip():
    from transformers import CLIPConfig, CLIPModel

    tower = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    c = CLIPConfig(text_config=dict(**tower, vocab_size=40, max_position_embeddings=16, eos_token_id=2),
                   vision_config=dict(**tower, image_size=16, patch_size=8), projection_dim=8)
    c._attn_implementation = 'eager'
    names = ['input_ids', 'pixel_values']
    return Wrapped(CLIPModel(c), names, ('logits_per_image', 'logits_per_text')), {
        'input_ids': ids(3, 5), 'pixel_values': torch.randn(3, 3, 16, 16)}


@model('bert-with-loss', loss='output', dynamic={**MASKED, 'labels': {0: 'batch'}})
def bert_loss():
    from transformers import BertConfig, BertForSequenceClassification

    c = BertConfig(**SMALL, num_labels=3)
    names = ['input_ids', 'attention_mask', 'labels']
    return Wrapped(BertForSequenceClassification(c), names, ('loss', 'logits')), {**masked(), 'labels': torch.tensor([0, 2])}


@model('t5', dynamic={**MASKED, 'decoder_input_ids': {0: 'batch', 1: 'targets'}})
def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    c = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, use_cache=False,
                 feed_forward_proj='gated-gelu')
    names = ['input_ids', 'attention_mask', 'decoder_input_ids']
    return Wrapped(T5ForConditionalGeneration(c), names, ('logits',)), {**masked(), 'decoder_input_ids': ids(2, 4)}


class PyTorchTransformer(nn.Module):
    def __init__(self, norm_first):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True, norm_first=norm_first, activation='gelu')
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        positions = torch.arange(16).unsqueeze(1) * torch.exp(torch.arange(0, 16, 2) * (-math.log(1e4) / 16))
        self.register_buffer('positions', torch.stack([positions.sin(), positions.cos()], -1).flatten(1))
        self.head = nn.Linear(16, 30)

    def forward(self, x):
        length = x.shape[1]
        mask = torch.triu(torch.full((length, length), float('-inf'), dtype=self.positions.dtype), 1)
        return self.head(self.encoder(self.embed(x) * 4 + self.positions[:length], mask=mask))


for norm_first in (False, True):
    model(f'torch-transformer-{"pre" if norm_first else "post"}', fresh=True)(
        lambda norm_first=norm_first: (PyTorchTransformer(norm_first), {'x': torch.randint(0, 30, (2, 5))}))


class EncoderDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.inner = nn.Transformer(8, 2, 1, 1, 16, dropout=0, batch_first=True)
        self.head = nn.Linear(8, 20)

    def forward(self, source, target_in):
        mask = nn.Transformer.generate_square_subsequent_mask(target_in.shape[1], dtype=self.head.weight.dtype)
        return self.head(self.inner(self.embed(source), self.embed(target_in), tgt_mask=mask))


@model('encoder-decoder')
def encoder_decoder():
    return EncoderDecoder(), {'source': ids(2, 5, 20), 'target_in': ids(2, 4, 20)}


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class LlamaBlock(nn.Module):
    """RMS norm, rotary positions, grouped queries, SwiGLU, as people write them by hand."""

    def __init__(self, width=16, heads=4, groups=2):
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.n1, self.n2 = RmsNorm(width), RmsNorm(width)
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.q, self.kv, self.o = linear(width, width), linear(width, 2 * groups * self.size), linear(width, width)
        self.gate, self.up, self.down = linear(width, 24), linear(width, 24), linear(24, width)

    def rotate(self, x):
        t, half = x.shape[-2], self.size // 2
        frequency = 1e4 ** (-torch.arange(half, dtype=x.dtype) / half)
        angle = torch.arange(t, dtype=x.dtype)[:, None] * frequency
        cos, sin = angle.cos(), angle.sin()
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

    def forward(self, x):
        b, t, w = x.shape
        h = self.n1(x)
        q = self.q(h).view(b, t, self.heads, self.size).transpose(1, 2)
        k, v = self.kv(h).view(b, t, 2, self.groups, self.size).permute(2, 0, 3, 1, 4)
        k, v = (z.repeat_interleave(self.heads // self.groups, 1) for z in (self.rotate(k), v))
        y = F.scaled_dot_product_attention(self.rotate(q), k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, w))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


@model('llama-block', dynamic=TEXT)
def llama_block():
    class Lm(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(30, 16)
            self.blocks = nn.Sequential(LlamaBlock(), LlamaBlock())
            self.norm = RmsNorm(16)

        def forward(self, input_ids):
            return self.norm(self.blocks(self.embed(input_ids))) @ self.embed.weight.T

    return Lm(), {'input_ids': ids(2, 5, 30)}


class LinearAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        kv = torch.cumsum(torch.einsum('btd,bte->btde', k, self.v(x)), 1)
        y = torch.einsum('btd,btde->bte', q, kv) / (q * torch.cumsum(k, 1)).sum(-1, keepdim=True)
        return self.head(y)


@model('linear-attention', dynamic={'x': {0: 'batch', 1: 'tokens'}})
def linear_attention():
    return LinearAttention(), {'x': torch.randn(2, 5, 8)}


class SelectiveScan(nn.Module):
    """A state-space layer: each step depends on the one before."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.log(torch.arange(1, 5).float()).repeat(6, 1))
        self.d = nn.Parameter(torch.ones(6))
        self.conv = nn.Conv1d(6, 6, 3, groups=6, padding=2)
        self.project, self.step, self.head = nn.Linear(6, 8), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        u = F.silu(self.conv(x.transpose(1, 2))[..., :x.shape[1]]).transpose(1, 2)
        b, c = self.project(u).chunk(2, -1)
        dt = F.softplus(self.step(u))
        h = torch.zeros(x.shape[0], 6, 4, dtype=x.dtype)
        ys = []
        for t in range(x.shape[1]):
            h = torch.exp(-dt[:, t, :, None] * self.a.exp()) * h + (dt * u)[:, t, :, None] * b[:, t, None]
            ys.append((h * c[:, t, None]).sum(-1) + self.d * u[:, t])
        return self.head(torch.stack(ys, 1))


@model('selective-scan', dynamic={'x': {0: 'batch'}})
def selective_scan():
    return SelectiveScan(), {'x': torch.randn(2, 5, 6)}


@module('transformer-xl', dynamic={'x': {0: 'batch', 1: 'time'}, 'memory': {0: 'batch', 1: 'past'}})
class TransformerXl(nn.Module):
    """Relative positions, the shift done by padding and a view."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.embed = nn.Embedding(20, width)
        self.q, self.kv, self.r = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width), nn.Linear(width, width, bias=False)
        self.u, self.v = nn.Parameter(torch.randn(heads, self.size)), nn.Parameter(torch.randn(heads, self.size))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 20)
        self.register_buffer('inv', 1 / (100 ** (torch.arange(0, width, 2) / width)))

    def forward(self, x, memory):
        h = self.embed(x)
        context = torch.cat([memory, h], 1)
        b, t, w = h.shape
        s = context.shape[1]
        q = self.q(h).view(b, t, self.heads, self.size)
        k, v = self.kv(context).view(b, s, 2, self.heads, self.size).unbind(2)
        positions = torch.arange(s - 1, -1, -1, dtype=h.dtype)[:, None] * self.inv
        r = self.r(torch.cat([positions.sin(), positions.cos()], -1)).view(s, self.heads, self.size)
        ac = torch.einsum('bihd,bjhd->bhij', q + self.u, k)
        bd = torch.einsum('bihd,jhd->bhij', q + self.v, r)
        bd = F.pad(bd, (1, 0)).view(b, self.heads, s + 1, t)[:, :, 1:].reshape(b, self.heads, t, s)
        mask = torch.ones(t, s, dtype=torch.bool).tril(s - t)
        a = ((ac + bd) / self.size ** 0.5).masked_fill(~mask, float('-inf')).softmax(-1)
        y = torch.einsum('bhij,bjhd->bihd', a, v).reshape(b, t, w)
        return self.head(self.norm(h + y)), context

    inputs = staticmethod(lambda: {'x': torch.randint(0, 20, (2, 4)), 'memory': torch.randn(2, 3, 8)})


@model('llama-fresh', fresh=True, dynamic={'input_ids': {0: 'batch', 1: 'tokens'}})
def llama_fresh():
    return llama_block()


@model('bert-fresh', fresh=True, dynamic={'input_ids': {0: 'batch', 1: 'tokens'}, 'attention_mask': {0: 'batch', 1: 'tokens'}})
def bert_fresh():
    from transformers import BertConfig, BertForSequenceClassification
    return Wrapped(BertForSequenceClassification(BertConfig(**SMALL, num_labels=3, use_cache=False)), ['input_ids', 'attention_mask'], ('logits',)), masked()
