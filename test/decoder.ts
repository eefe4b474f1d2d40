/** Small decoders with weights of 4 bits in the forms that are shipped: by their operators, inputs and caches. */
import { type Model, Value } from '../src/graph/ir.js';
import { Tensor } from '../src/graph/tensor.js';
import { type AttrInit, float } from '../src/ops/core/builder.js';
import { Body } from './ops/body.js';
import { ints, spread } from './ops/vjp.js';
import { Sketch } from './sample.js';

const [HEADS, KEYS, SIZE, HIDDEN, INNER, WORDS, BLOCK] = [2, 1, 16, 32, 48, 16, 16];

export type DecoderForm = {
  /** Whether the table of embeddings is the weight of the head. */
  tied?: boolean;
  /** The last extent of caches: a number, or a name as the model builder writes it. */
  size?: number | string;
  /** Attributes and further inputs of attention. */
  attention?: AttrInit;
  sink?: boolean;
  /** Whether a mixture of experts stands in place of the two layers after attention. */
  experts?: boolean;
  positions?: boolean;
  /** The angles of rotary positions, or the most tokens with the short ones where an If chooses them by the length. */
  rotary?: 'short' | 'long' | number;
  /** Whether the head reads the last token only. */
  pruned?: boolean;
};

class Decoder extends Sketch {
  microsoft(opType: string, inputs: readonly (Value | null)[], output: string, attrs: AttrInit): Value {
    const value = this.add(opType, inputs, output, attrs);
    value.producer!.domain = 'com.microsoft';
    return value;
  }

  packed(name: string, dims: readonly number[]): Value {
    const count = dims.reduce((n, d) => n * d, 1);
    const bytes = Uint8Array.from({ length: count }, (_, i) => (53 * i + 7 * name.length) % 256);
    return this.weight(name, new Tensor('uint8', dims, bytes));
  }

  scales(name: string, dims: readonly number[]): Value {
    return this.weight(name, spread(dims, [0.02, 0.06], name.length));
  }

  /** x @ W^T by a weight of 4 bits. */
  product(x: Value, name: string, [K, N]: readonly [number, number], output = `${name}.out`): Value {
    const blocks = K / BLOCK;
    const known = (n: string) => [...this.graph.initializers.keys()].find(v => v.name === n);
    const weight =
      known(`${name}.MatMul.weight_Q4`) ?? this.packed(`${name}.MatMul.weight_Q4`, [N, blocks, BLOCK / 2]);
    const scales =
      known(`${name}.MatMul.weight_scales`) ?? this.scales(`${name}.MatMul.weight_scales`, [N, blocks]);
    const attrs = { K, N, bits: 4, block_size: BLOCK, accuracy_level: 4 };
    return this.microsoft('MatMulNBits', [x, weight, scales], output, attrs);
  }

  ints(name: string, values: readonly number[], dims = [values.length]): Value {
    return this.weight(name, ints(values, dims));
  }
}

/** One layer as the model builder of ONNX Runtime's generation API writes it. Logits are [batch, length, 16]. */
export function decoder(form: DecoderForm = {}): Model {
  const s = new Decoder();
  const ids = s.input('input_ids', ['batch_size', 'sequence_length'], 'int64');
  const mask = s.input('attention_mask', ['batch_size', 'total_sequence_length'], 'int64');
  const positions = form.positions
    ? s.input('position_ids', ['batch_size', 'sequence_length'], 'int64')
    : null;
  const cache = ['batch_size', KEYS, 'past_sequence_length', form.size ?? SIZE];
  const past = ['key', 'value'].map(part => s.input(`past_key_values.0.${part}`, cache));

  const one = s.ints('one', [1]);
  const counts = s.add(
    'Cast',
    [s.add('Sub', [s.add('ReduceSum', [mask, one], 'sum', { keepdims: 0 }), one], 'less')],
    'seqlens_k',
    { to: 6 },
  );
  const total = s.add(
    'Cast',
    [s.add('Gather', [s.add('Shape', [mask], 'extents'), s.ints('axis', [1], [])], 'length')],
    'total',
    { to: 6 },
  );

  let x: Value;
  if (form.tied) {
    const table = s.packed('lm_head.MatMul.weight_Q4', [WORDS, HIDDEN / BLOCK, BLOCK / 2]);
    const scales = s.scales('lm_head.MatMul.weight_scales', [WORDS, HIDDEN / BLOCK]);
    const flat = s.add('Reshape', [table, s.ints('extent', [WORDS, HIDDEN / 2])], 'flat');
    x = s.microsoft('GatherBlockQuantized', [flat, ids, scales], 'embedded', {
      ...{ bits: 4, block_size: BLOCK, gather_axis: 0, quantize_axis: 1 },
    });
    x.producer!.name = '/model/embed_tokens/GatherBlockQuantized';
  } else x = s.add('Gather', [s.weight('model.embed_tokens.weight', [WORDS, HIDDEN]), ids], 'embedded');

  const norm = (name: string) => s.weight(`${name}.weight`, spread([HIDDEN], [0.8, 1.2], name.length));
  const normed = s.add('SimplifiedLayerNormalization', [x, norm('input_layernorm')], 'normed', {
    ...{ axis: -1, epsilon: float(1e-6), stash_type: 1 },
  });
  const qkv = s.product(normed, 'layers.0.attn.qkv_proj', [HIDDEN, (HEADS + 2 * KEYS) * SIZE]);
  const [cos, sin] = rotaryCaches(s, form.rotary, total.producer!.inputs[0]!);
  const sink = form.sink ? s.weight('layers.0.attn.sinks', [HEADS]) : null;
  const attended = s.microsoft(
    'GroupQueryAttention',
    [qkv, null, null, ...past, counts, total, cos, sin, positions, null, sink],
    'attended',
    { num_heads: HEADS, kv_num_heads: KEYS, do_rotary: 1, ...form.attention },
  );
  const presents = ['key', 'value'].map((part, i) => {
    const value = new Value(`present.0.${part}`);
    attended.producer!.setOutput(i + 1, value);
    return value;
  });
  const projected = s.product(attended, 'layers.0.attn.o_proj', [HEADS * SIZE, HIDDEN]);
  const skip = (a: Value, b: Value, name: string) => {
    const y = s.microsoft('SkipSimplifiedLayerNormalization', [a, b, norm(name)], name, {
      epsilon: float(1e-6),
    });
    const sum = new Value(`${name}.sum`);
    y.producer!.setOutput(3, sum);
    return [y, sum] as const;
  };
  const [h, sum] = skip(x, projected, 'post_attention_layernorm');
  const last = form.experts ? mixture(s, h) : gated(s, h);
  const [final] = skip(sum, last, 'final_norm');
  const pruned = form.pruned
    ? s.add(
        'Unsqueeze',
        [s.add('Gather', [final, s.ints('last', [-1], [])], 'last_hidden', { axis: 1 }), one],
        'kept',
      )
    : final;
  const logits = s.product(pruned, 'lm_head', [HIDDEN, WORDS], 'logits');
  const model = s.model([logits, ...presents], 21);
  model.opsetImports.set('com.microsoft', 1);
  return model;
}

function rotaryCaches(s: Decoder, rotary: DecoderForm['rotary'], length: Value): [Value, Value] {
  const angles = (f: (x: number) => number, isLong: boolean, most: number) =>
    Tensor.ofNumbers(
      'float32',
      [most, SIZE / 2],
      Array.from(
        { length: 8 * most },
        (_, i) =>
          f(Math.floor(i / 8) / 10000 ** ((i % 8) / 8) / (isLong ? 1 + (i % 8) : 1)) * (isLong ? 1.2 : 1),
      ),
    );
  const both = (isLong: boolean, most: number) =>
    [Math.cos, Math.sin].map(f => angles(f, isLong, most)) as [Tensor, Tensor];
  if (typeof rotary !== 'number') {
    const [cos, sin] = both(rotary === 'long', 32);
    return [s.weight('cos_cache', cos), s.weight('sin_cache', sin)];
  }
  const branch = (name: string, isLong: boolean) => {
    const body = new Body(`${name}_rotemb_caches_graph`);
    const [cos, sin] = both(isLong, isLong ? 32 : rotary);
    const constant = (tensor: Tensor, part: string) =>
      body.add('Constant', [], `${part}_${name}`, { value: tensor });
    return body.outputs(constant(cos, 'cos_cache'), constant(sin, 'sin_cache'));
  };
  const isLong = s.add('Greater', [length, s.ints('original_length', [rotary], [])], 'is_long');
  const cos = s.add('If', [isLong], 'cos_cache', {
    then_branch: branch('large', true),
    else_branch: branch('small', false),
  });
  const sin = new Value('sin_cache');
  cos.producer!.setOutput(1, sin);
  return [cos, sin];
}

function gated(s: Decoder, h: Value): Value {
  const gate = s.product(h, 'layers.0.mlp.gate_proj', [HIDDEN, INNER]);
  const up = s.product(h, 'layers.0.mlp.up_proj', [HIDDEN, INNER]);
  const open = s.add('Mul', [gate, s.add('Sigmoid', [gate], 'sigmoid')], 'silu');
  return s.product(s.add('Mul', [open, up], 'inner'), 'layers.0.mlp.down_proj', [INNER, HIDDEN]);
}

/** Two of three experts for each token, with interleaved gates. */
function mixture(s: Decoder, h: Value): Value {
  const flat = s.add('Reshape', [h, s.ints('rows', [-1, HIDDEN])], 'flat_rows');
  const router = s.add('MatMul', [flat, s.weight('layers.0.moe.router', [HIDDEN, 3])], 'router');
  return s.microsoft(
    'QMoE',
    [
      ...[h, router, s.packed('experts.gate_up.qweight', [3, 2 * HIDDEN, HIDDEN / 2])],
      ...[
        s.scales('experts.gate_up.scales', [3, 2 * HIDDEN, 2]),
        s.weight('experts.gate_up.bias', [3, 2 * HIDDEN]),
      ],
      ...[
        s.packed('experts.down.qweight', [3, HIDDEN, HIDDEN / 2]),
        s.scales('experts.down.scales', [3, HIDDEN, 2]),
      ],
      s.weight('experts.down.bias', [3, HIDDEN]),
    ],
    'mixed',
    {
      ...{ k: 2, activation_type: 'swiglu', swiglu_fusion: 1, normalize_routing_weights: 1 },
      ...{ activation_alpha: float(1.702), activation_beta: float(1), swiglu_limit: float(7) },
      ...{ expert_weight_bits: 4, block_size: BLOCK },
    },
  );
}

/** Tokens of a text of few words, and those after them: [samples, length]. */
export function tokenData(samples: number, length: number): Map<string, Tensor> {
  const text = Array.from({ length: samples + length }, (_, i) => (i * i + 3 * i) % WORDS);
  const rows = (shift: number) =>
    ints(Array.from({ length: samples }, (_, r) => text.slice(r + shift, r + shift + length)).flat(), [
      samples,
      length,
    ]);
  return new Map([
    ['input_ids', rows(0)],
    ['target', rows(1)],
  ]);
}
