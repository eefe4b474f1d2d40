/**
 * One small case for every operator that has a gradient: a row for each. `operators.test.ts` checks all of them
 * against differences, and `docs/reference/operators.md` is made from what comes of them. What an operator can be beside
 * that (its attributes, its broadcasts) is the matter of its family's own test.
 */
import type { Model, Value } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { type AttrInit, float } from '../../src/ops/core/builder.js';
import { Body, control, float32, model } from './body.js';
import { bools, floatsOf, type Input, ints, singleNode, spread, type VjpCase } from './vjp.js';

export type Example = {
  domain: '' | 'com.microsoft';
  op: string;
  /** Inputs in the operator's order; null for those that this case leaves out. */
  inputs: readonly Input[];
  c: VjpCase;
  /** Why inputs have no gradient, or are left out, by their name in the operator's definition. */
  without: Record<string, string>;
  /** A new model, its inputs by position and its outputs; extents are hidden from the rules where `symbolic`. */
  make(symbolic: boolean): { model: Model; ins: readonly (Value | null)[]; outs: readonly Value[] };
  tensors: readonly (Tensor | null)[];
};

/** Of inputs that an example leaves out: nothing is to be said of them. */
export const INTEGER = 'an integer';

type Options = VjpCase & { without?: Record<string, string> };

/** One node. Integers are known before the run where extents are, and by the run where these are not. */
export function row(op: string, inputs: readonly Input[], { without = {}, ...given }: Options = {}): Example {
  const domain = given.domain === 'com.microsoft' ? given.domain : '';
  const tensors = inputs.map((x, i) =>
    x === null || x instanceof Tensor ? x : spread(x, given.range, i + 1),
  );
  const constants = tensors.flatMap((t, i) => (t && /int/.test(t.dtype) ? [i] : []));
  const make = (symbolic: boolean) =>
    singleNode(op, tensors, {
      ...given,
      symbolic: symbolic && (given.symbolic ?? true),
      constants: given.constants ?? (symbolic ? [] : constants),
    });
  return { domain, op, inputs, c: given, without, make, tensors };
}

const microsoft = (op: string, inputs: readonly Input[], options: Options = {}) =>
  row(op, inputs, { ...options, domain: 'com.microsoft' });

/** Several nodes, for operators that cannot stand alone: `write` adds them, and returns the outputs. */
function several(
  op: string,
  shapes: readonly (readonly number[])[],
  write: (main: Body, inputs: readonly Value[]) => Value[],
  without: Record<string, string> = {},
): Example {
  const tensors = shapes.map((dims, i) => spread(dims, [-1, 1], i + 1));
  const make = (symbolic: boolean) => {
    const main = new Body('main');
    const ins = shapes.map((dims, i) =>
      main.input(`x${i}`, float32(dims.map((d, axis) => (symbolic ? `d${i}_${axis}` : d)))),
    );
    const outs = write(main, ins);
    return { model: model(main, outs), ins, outs };
  };
  return { domain: '', op, inputs: shapes, c: {}, without, make, tensors };
}

const scalar = (n: number) => ints([n], []);
const int32 = (values: readonly number[], dims: readonly number[] = [values.length]) =>
  Tensor.from('int32', dims, Int32Array.from(values));
const bytes = (values: readonly number[], dims: readonly number[] = [values.length]) =>
  new Tensor('uint8', dims, Uint8Array.from(values));

/** Bytes that hold all kinds of halves. */
const nibbles = (count: number, dims: readonly number[]) =>
  bytes(
    Array.from({ length: count }, (_, i) => (37 * i + 11) % 256),
    dims,
  );
const grid = floatsOf([-0.83, 0.31, 0.42, -0.27, 1.63, 0.1, -1.71, 2.44], [1, 2, 2, 2]);

const positive = { range: [0.5, 2] } as const;
const steep = { ...positive, step: 1e-3 } as const;
const unary = (names: string, options?: Options) => names.split(' ').map(op => row(op, [[3, 4]], options));

const ELEMENTWISE = [
  ...unary('Neg Abs Exp Sin Cos Atan Sinh Cosh Asinh Erf Identity'),
  ...unary('Log Sqrt Reciprocal', positive),
  ...unary('Asin Acos Atanh Tan', { range: [-0.9, 0.9] }),
  ...unary('Acosh', { range: [1.2, 3] }),
  ...'Add Sub Mul Div Pow Max Min'.split(' ').map(op => row(op, [[2, 1], [3]], steep)),
  ...'Sum Mean'.split(' ').map(op => row(op, [[2, 3], [3], [2, 1]])),
  row('Mod', [[4, 3], floatsOf([1.1, -0.7, 0.9])], { attrs: { fmod: 1 }, step: 1e-3 }),
  row('Clip', [[3, 4], floatsOf([-0.5], []), floatsOf([0.8], [])]),
  row('Where', [bools([1, 0, 1, 1, 0, 0], [2, 3]), [3], [2, 1]]),
  row('Cast', [[2, 3]], { attrs: { to: 1 } }),
  row('CastLike', [[2, 3], floatsOf([0])], { wrt: [0], without: { target_type: 'only its type is read' } }),
];

const ACTIVATIONS = [
  ...unary(
    'Relu LeakyRelu ThresholdedRelu Shrink Elu Selu Celu Sigmoid Tanh HardSigmoid HardSwish Mish Softplus Softsign',
    { range: [-4, 4] },
  ),
  ...unary('Gelu', { range: [-4, 4], opset: 20 }),
  ...unary('Swish', { range: [-4, 4], opset: 24 }),
  ...unary('Softmax LogSoftmax'),
  row('PRelu', [[4, 2, 3], [3]]),
];

const LINALG = [
  row('MatMul', [
    [2, 2, 3],
    [3, 4],
  ]),
  row('Gemm', [[2, 3], [4, 3], [4]], { attrs: { transB: 1, alpha: float(0.5) } }),
  row('Det', [[2, 3, 3]]),
  row(
    'Einsum',
    [
      [2, 3],
      [3, 4],
    ],
    { attrs: { equation: 'ij,jk->ik' } },
  ),
];

const REDUCTIONS = [
  ...'Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare'
    .split(' ')
    .map(r => row(`Reduce${r}`, [[2, 3, 2], ints([1])], positive)),
  row('CumSum', [[3, 4], scalar(1)]),
  row('CumProd', [[3, 4], scalar(1)], { opset: 26 }),
];

const MOVEMENT = [
  row('Reshape', [[2, 3], ints([3, -1])]),
  row('Flatten', [[2, 3, 2]]),
  row('Squeeze', [[1, 3, 1, 2], ints([0, -2])]),
  row('Unsqueeze', [[3, 2], ints([0, -1])]),
  row('Transpose', [[2, 3, 4]], { attrs: { perm: [2, 0, 1] } }),
  row('Expand', [[3, 1], ints([2, 3, 4])]),
  row('Tile', [[2, 3], ints([2, 3])]),
  row(
    'Concat',
    [
      [2, 3],
      [1, 3],
    ],
    { attrs: { axis: 0 } },
  ),
  row('Split', [[2, 6], ints([1, 3, 2])], { attrs: { axis: 1 }, outputs: 3 }),
  row('Slice', [[4, 3, 2], ints([0]), ints([100]), ints([0]), ints([2])]),
  row('Pad', [[3, 4], ints([1, 2]), floatsOf([0.5], []), ints([0])]),
  row('CenterCropPad', [[3, 4], ints([2, 5])]),
  row('Trilu', [[4, 3], scalar(-1)]),
  row('Compress', [[2, 3], bools([1, 0, 1])], { attrs: { axis: 1 } }),
  row('DepthToSpace', [[1, 8, 2, 1]], { attrs: { blocksize: 2 } }),
  row('SpaceToDepth', [[2, 1, 4, 2]], { attrs: { blocksize: 2 } }),
  row('ReverseSequence', [[3, 3, 2], ints([1, 2, 3])]),
];

const INDEXING = [
  row('Gather', [[4, 3], ints([2, 0, 2])]),
  row('GatherElements', [[3, 3], ints([0, -1, 1, 1, 2, 1], [2, 3])]),
  row('GatherND', [[3, 2, 2], ints([0, 1, 2, -1, 0, 1], [3, 2])]),
  row('ScatterElements', [[3, 3], ints([0, -1, 1, 2, 1, 0], [2, 3]), [2, 3]]),
  row('ScatterND', [[3, 2, 2], ints([0, 1, 2, -1], [2, 2]), [2, 2]]),
  row('TensorScatter', [[2, 4, 2], [2, 2, 2], ints([1, 2])], { opset: 24 }),
  row('TopK', [[3, 4], ints([2])], { outputs: 2 }),
  row('Unique', [[2, 3]]),
  row('OneHot', [ints([1, -1, 5]), scalar(3), floatsOf([0.5, 2])]),
  row('Range', [floatsOf([0.5], []), floatsOf([3.1], []), floatsOf([0.5], [])], {
    wrt: [0, 2],
    without: { limit: 'only how many numbers there are depends on it' },
  }),
];

const WINDOWS = [
  row('Conv', [[2, 2, 5, 4], [3, 2, 3, 2], [3]], { attrs: { kernel_shape: [3, 2], pads: [1, 0, 1, 1] } }),
  row('ConvTranspose', [[1, 2, 3, 3], [2, 3, 3, 2], [3]], {
    attrs: { kernel_shape: [3, 2], strides: [2, 2] },
  }),
  row(
    'DeformConv',
    [
      [1, 2, 4, 4],
      [2, 2, 2, 2],
      floatsOf(
        Array.from({ length: 72 }, (_, i) => 0.17 + 0.09 * (i % 7)),
        [1, 8, 3, 3],
      ),
      [2],
      [1, 4, 3, 3],
    ],
    { attrs: { kernel_shape: [2, 2] }, opset: 22, step: 2e-3 },
  ),
  row('MaxPool', [[2, 2, 4, 4]], { attrs: { kernel_shape: [3, 2] } }),
  row('AveragePool', [[1, 2, 5, 4]], {
    attrs: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] },
    step: 0.5,
  }),
  row('LpPool', [[2, 2, 4, 4]], { attrs: { kernel_shape: [3, 2] }, range: [-2, 2.5] }),
  row('MaxUnpool', [[1, 2, 2, 2], ints([5, 7, 13, 15, 16, 18, 27, 30], [1, 2, 2, 2]), ints([1, 2, 5, 5])], {
    attrs: { kernel_shape: [2, 2], strides: [2, 2] },
    constants: [2],
  }),
  ...'GlobalAveragePool GlobalMaxPool GlobalLpPool'.split(' ').map(op => row(op, [[2, 2, 3, 2]])),
  row('Col2Im', [[2, 8, 6], ints([3, 4]), ints([2, 2])], { constants: [2], step: 0.5 }),
];

const IMAGES = [
  row('Resize', [[1, 4, 5], null, floatsOf([1, 0.7, 1.7])], {
    attrs: { mode: 'linear' },
    wrt: [0],
    constants: [2],
    step: 0.5,
    without: { sizes: INTEGER },
  }),
  row('Resize', [[1, 4, 5], floatsOf([0.11, 0.2, 0.63, 0.87]), null, ints([3, 4])], {
    attrs: { mode: 'linear', coordinate_transformation_mode: 'tf_crop_and_resize', axes: [1, 2] },
    step: 1e-3,
  }),
  row('GridSample', [[1, 2, 4, 3], grid], { opset: 20 }),
  row('AffineGrid', [[2, 2, 3], ints([2, 3, 4, 5])], { opset: 20 }),
  row(
    'RoiAlign',
    [[1, 2, 4, 5], floatsOf([0.3, 0.4, 3.1, 2.9, -1.7, -0.8, 2.2, 6.1], [2, 4]), ints([0, 0])],
    {
      attrs: { output_height: 2, output_width: 2, sampling_ratio: 2 },
      step: 2e-3,
      range: [-1, 1.5],
    },
  ),
  row('MaxRoiPool', [[2, 2, 4, 5], floatsOf([0, 0, 0, 4, 3, 1, 1, 1, 2, 3], [2, 5])], {
    attrs: { pooled_shape: [3, 2] },
    wrt: [0],
    without: { rois: 'rounded to whole elements: constant almost everywhere' },
  }),
];

const NORMALIZATIONS = [
  row('BatchNormalization', [[2, 3, 2, 2], [3], [3], [3], spread([3], [0.5, 2], 7)]),
  row('LayerNormalization', [[2, 3, 4], [4], [4]], { outputs: 3 }),
  row('RMSNormalization', [[2, 3, 4], [4]], { opset: 23 }),
  row('SimplifiedLayerNormalization', [[2, 3, 4], [4]]),
  row('InstanceNormalization', [[2, 3, 2, 3], [3], [3]]),
  row('GroupNormalization', [[2, 4, 3], [4], [4]], { attrs: { num_groups: 2 }, opset: 21 }),
  row('MeanVarianceNormalization', [[2, 2, 2, 3]]),
  row('LpNormalization', [[3, 4]]),
  row('LRN', [[2, 6, 1, 2]], { attrs: { size: 3, alpha: float(0.9) } }),
  row('Dropout', [[3, 4], floatsOf([0.4], []), bools([0], [])], {
    wrt: [0],
    without: { ratio: 'a setting' },
  }),
];

const [T, B, I, H] = [4, 2, 3, 2];
const small = (dims: readonly number[], seed: number) => spread(dims, [-0.8, 0.8], seed);
const layer = (gates: number) => [
  small([T, B, I], 1),
  small([1, gates * H, I], 2),
  small([1, gates * H, H], 3),
  small([1, 2 * gates * H], 4),
  int32([4, 3]),
  small([1, B, H], 5),
];
const recurrent = { attrs: { hidden_size: H } };

const SEQUENCES_OF_STEPS = [
  row('LSTM', [...layer(4), small([1, B, H], 6), small([1, 3 * H], 7)], { ...recurrent, outputs: 3 }),
  row('GRU', layer(3), { ...recurrent, outputs: 2 }),
  row('RNN', layer(1), { ...recurrent, outputs: 2 }),
];

const ATTENTION = [
  row(
    'Attention',
    [
      [2, 2, 3, 4],
      [2, 2, 3, 4],
      [2, 2, 3, 3],
      [3, 5],
      [2, 2, 2, 4],
      [2, 2, 2, 3],
    ],
    { opset: 23, outputs: 3, without: { nonpad_kv_seqlen: INTEGER } },
  ),
  row('RotaryEmbedding', [[2, 2, 3, 4], [5, 2], [5, 2], ints([0, 1, 2, 3, 2, 0], [2, 3])], { opset: 23 }),
];

const LOSSES = ['SoftmaxCrossEntropyLoss', 'NegativeLogLikelihoodLoss'].map(op =>
  row(op, [[3, 4], ints([1, 3, 0]), spread([4], [0.5, 2], 3)], {}),
);

const SIGNALS = [
  row('DFT', [[2, 6, 1], scalar(6), scalar(1)], { opset: 20 }),
  row('STFT', [[2, 9, 1], scalar(2), floatsOf([0.2, 0.8, 1.1, 0.5]), scalar(4)]),
];

const QUANTIZED = [
  row('DequantizeLinear', [bytes([3, 0, 5, 7, 8, 1, 100, 128], [2, 4]), floatsOf([0.3], []), bytes([2], [])]),
  row('DynamicQuantizeLinear', [[2, 3]], { outputs: 3, cotangents: [1], tolerance: 1e-5 }),
];

const truth = bools([1], []);
/** y = op(x) and z = other(x), a graph without inputs. */
const branch = (name: string, op: string, x: Value) => {
  const body = new Body(name);
  return body.outputs(body.add(op, [x], `${name}_y`));
};

const CONTROL = [
  several('If', [[2, 3]], (main, [x]) =>
    control(main, 'If', [main.constant('cond', truth)], ['y'], {
      then_branch: branch('yes', 'Sin', x!),
      else_branch: branch('no', 'Exp', x!),
    }),
  ),
  several('Loop', [[3], [3]], (main, [v0, w]) => {
    const body = new Body('body');
    body.input('iter', { kind: 'tensor', dtype: 'int64', shape: [] });
    const keep = body.input('keep', { kind: 'tensor', dtype: 'bool', shape: [] });
    const v = body.input('v', float32([3]));
    const next = body.add('Sin', [body.add('Mul', [v, w!], 'vw')], 'next');
    const graph = body.outputs(body.add('Identity', [keep], 'go_on'), next);
    const bounds = [main.constant('count', scalar(3)), main.constant('cond', truth)];
    return control(main, 'Loop', [...bounds, v0!], ['last'], { body: graph });
  }),
  several('Scan', [[3], [4, 3]], (main, [h0, x]) => {
    const body = new Body('body');
    const [h, slice] = [body.input('h'), body.input('slice')];
    const next = body.add('Tanh', [body.add('Mul', [h, slice], 'product')], 'next');
    const graph = body.outputs(next, body.add('Identity', [next], 'out'));
    return control(main, 'Scan', [h0!, x!], ['last', 'all'], { body: graph, num_scan_inputs: 1 });
  }),
];

/** The sequence of two inputs, and one element of a sequence. */
const pair = (main: Body, [a, b]: readonly Value[]) => main.add('SequenceConstruct', [a!, b!], 's');
const at = (main: Body, s: Value, i: number) =>
  main.add('SequenceAt', [s, main.constant(`at${i}`, scalar(i))], `y${i}`);

const SEQUENCES = [
  ...['SequenceConstruct', 'SequenceAt'].map(op =>
    several(op, [[2], [3]], (main, xs) => [at(main, pair(main, xs), 1)]),
  ),
  several('SequenceInsert', [[2], [3], [4]], (main, xs) => {
    const longer = main.add('SequenceInsert', [pair(main, xs), xs[2]!, main.constant('i', scalar(1))], 't');
    return [0, 1, 2].map(i => at(main, longer, i));
  }),
  several(
    'SequenceErase',
    [[2], [3]],
    (main, xs) => [
      at(main, main.add('SequenceErase', [pair(main, xs), main.constant('i', scalar(1))], 't'), 0),
    ],
    {},
  ),
  ...['SplitToSequence', 'ConcatFromSequence'].map(op =>
    several(op, [[4, 5]], (main, [x]) => {
      const parts = main.add('SplitToSequence', [x!, main.constant('split', ints([1, 3]))], 's', { axis: 0 });
      return [main.add('ConcatFromSequence', [parts], 'y', { axis: 0 })];
    }),
  ),
  several('SequenceMap', [[2], [2], [2]], (main, xs) => {
    const body = new Body('body');
    const result = body.add(
      'Mul',
      [body.input('x', float32([null])), body.input('w', float32([null]))],
      'element_y',
    );
    result.type = float32();
    const graph = body.outputs(result);
    const [mapped] = control(main, 'SequenceMap', [pair(main, xs), xs[2]!], ['mapped'], { body: graph });
    return [main.add('ConcatFromSequence', [mapped!], 'y', { axis: 0 })];
  }),
  ...['Optional', 'OptionalGetElement'].map(op =>
    several(op, [[2, 3]], (main, [x]) => [
      main.add('OptionalGetElement', [main.add('Optional', [x!], 'held')], 'y'),
    ]),
  ),
];

const heads: AttrInit = { num_heads: 2 };
const unsupported = (what: string) => ({ past_sequence_length: what });
const sharedBuffer = unsupported('a past that shares its buffer is not supported');

const MICROSOFT = [
  microsoft('Gelu', [[3, 4]]),
  microsoft('FastGelu', [[2, 3, 4], [4]]),
  microsoft('BiasGelu', [[2, 3, 4], [4]]),
  microsoft('QuickGelu', [[3, 4]]),
  microsoft('FusedGemm', [[2, 3], [4, 3], [4]], { attrs: { transB: 1, activation: 'Tanh' } }),
  microsoft('FusedConv', [[1, 2, 4, 4], [3, 2, 3, 3], [3], [1, 3, 2, 2]], {
    attrs: { activation: 'Tanh' },
    symbolic: [0, 3],
  }),
  microsoft('SkipLayerNormalization', [[2, 3, 4], [2, 3, 4], [4], [4], [4]]),
  microsoft('SkipSimplifiedLayerNormalization', [[2, 3, 4], [2, 3, 4], [4], [4]]),
  microsoft(
    'EmbedLayerNormalization',
    [int32([2, 1, 0, 0, 0, 1], [2, 3]), int32([0, 1, 1, 0, 0, 1], [2, 3]), [3, 4], [3, 4], [2, 4], [4], [4]],
    {
      outputs: 2,
      cotangents: [0],
      symbolic: [],
      without: { mask: INTEGER, position_ids: INTEGER },
    },
  ),
  microsoft('Attention', [[1, 2, 4], [4, 12], [12], null, [2, 1, 2, 3, 2]], {
    attrs: heads,
    outputs: 2,
    symbolic: [0, 4],
    range: [-1, 1],
    without: { mask_index: INTEGER, ...sharedBuffer },
  }),
  microsoft('Attention', [[1, 2, 4], [4, 12], [12], null, null, [1, 2, 2, 2]], {
    attrs: heads,
    symbolic: [0, 5],
    range: [-1, 1],
  }),
  microsoft(
    'MultiHeadAttention',
    [[1, 2, 4], [1, 2, 4], [1, 2, 4], [12], null, [1, 2, 2, 5], [1, 2, 3, 2], [1, 2, 3, 2]],
    {
      attrs: heads,
      outputs: 3,
      symbolic: [0, 1, 2],
      range: [-1, 1],
      without: {
        key_padding_mask: INTEGER,
        cache_indirection: 'beams are not supported',
        ...sharedBuffer,
      },
    },
  ),
  microsoft(
    'GroupQueryAttention',
    [
      [1, 2, 32],
      [1, 2, 16],
      [1, 2, 16],
      [1, 1, 2, 16],
      [1, 1, 2, 16],
      int32([3]),
      int32([4], []),
      [5, 8],
      [5, 8],
    ],
    {
      attrs: { num_heads: 2, kv_num_heads: 1, do_rotary: 1 },
      outputs: 3,
      symbolic: [0, 1, 2],
      range: [-1, 1],
      constants: [5, 6],
      without: {
        position_ids: INTEGER,
        k_scale: 'a quantized past is not supported',
        v_scale: 'a quantized past is not supported',
      },
    },
  ),
  microsoft(
    'GroupQueryAttention',
    [
      ...[[2, 2, 32], [2, 2, 16], [2, 2, 16], null, null, int32([1, 0]), int32([2], []), null, null],
      ...[null, null, [2], null, null, [16], [16]],
    ],
    {
      attrs: { num_heads: 2, kv_num_heads: 1 },
      outputs: 3,
      symbolic: [0, 1, 2],
      range: [0.2, 1],
      constants: [5, 6],
    },
  ),
  microsoft(
    'SparseAttention',
    [
      ...[
        [1, 17, 4],
        [1, 17, 2],
        [1, 17, 2],
        [1, 1, 32, 2],
        [1, 1, 32, 2],
      ],
      ...[
        int32([0, 1, 2, 0, 1, 3], [2, 3]),
        int32([0, 1, -1, 0, 0, 1], [2, 3]),
        int32([17], []),
        int32([17]),
      ],
      ...[
        [32, 1],
        [32, 1],
      ],
    ],
    {
      attrs: { num_heads: 2, kv_num_heads: 1, sparse_block_size: 16, do_rotary: 1 },
      outputs: 3,
      cotangents: [0],
      wrt: [0, 1, 2],
      symbolic: [0],
      range: [-1, 1],
    },
  ),
  microsoft(
    'LinearAttention',
    [
      [2, 3, 6],
      [2, 3, 6],
      [2, 3, 4],
      [2, 2, 3, 2],
      [2, 3, 2],
      [2, 3, 1],
    ],
    {
      attrs: { q_num_heads: 2, kv_num_heads: 2 },
      outputs: 2,
      symbolic: [0],
      range: [-0.7, 0.7],
    },
  ),
  microsoft(
    'GroupQueryAttention',
    [
      [1, 3, 16],
      [1, 3, 8],
      [1, 3, 8],
      null,
      null,
      int32([2]),
      int32([3], []),
      null,
      null,
      null,
      [1, 2, 3, 3],
    ],
    {
      attrs: { num_heads: 2, kv_num_heads: 1 },
      outputs: 3,
      symbolic: [0, 1, 2],
      range: [-1, 1],
      constants: [5, 6],
    },
  ),
  ...['FusedMatMul', 'TransposeMatMul'].map(op =>
    microsoft(
      op,
      [
        [3, 2],
        [3, 4],
      ],
      { attrs: { alpha: float(0.5), transA: 1 } },
    ),
  ),
  microsoft('GatherND', [[3, 2, 2], ints([0, 1, 2, -1, 0, 1], [3, 2])]),
  microsoft('Pad', [[3, 4], ints([1, 0, 2, 1]), floatsOf([0.5])]),
  microsoft('Trilu', [[4, 3], scalar(-1)]),
  microsoft('ExpandDims', [[2, 3], int32([1], [])], { constants: [1] }),
  microsoft('GridSample', [[1, 2, 4, 3], grid]),
  microsoft('DequantizeLinear', [bytes([3, 0, 5, 7, 8, 1], [2, 3]), floatsOf([0.3], []), bytes([2], [])]),
  microsoft('Inverse', [floatsOf([2, 0.5, -1, 1.5, 1, 0.3, -0.2, 2], [2, 2, 2])], { step: 1e-3 }),
  microsoft('CDist', [
    [2, 3],
    [4, 3],
  ]),
  microsoft('UnfoldTensor', [[2, 5, 2]], { attrs: { dim: 1, size: 3, step: 2 } }),
  microsoft('GatedAdd', [
    [2, 3],
    [2, 3],
    [2, 1],
  ]),
  microsoft('GatedRMSNorm', [[2, 3, 4], [2], [2, 3, 4]]),
  microsoft('CausalConvWithState', [[2, 3, 4], [3, 1, 3], [3], [2, 3, 2]], {
    attrs: { activation: 'silu' },
    outputs: 2,
    symbolic: [0, 3],
  }),
  microsoft('MatMulNBits', [[2, 20], nibbles(2 * 2 * 8, [2, 2, 8]), [2, 2], bytes([0x79, 0x86]), null, [2]], {
    attrs: { N: 2, K: 20, block_size: 16, bits: 4 },
    range: [0.1, 0.4],
    constants: [1, 3],
    symbolic: [0],
    without: { g_idx: INTEGER },
  }),
  microsoft(
    'GatherBlockQuantized',
    [nibbles(3 * 10, [3, 10]), ints([2, 0, 2]), [3, 2], bytes([0x79, 0x86, 0x57], [3, 1])],
    {
      attrs: { block_size: 16, bits: 4, gather_axis: 0, quantize_axis: 1 },
      range: [0.1, 0.4],
      constants: [0, 1, 3],
      symbolic: [],
    },
  ),
  microsoft('MatMulBnb4', [[2, 16], nibbles(24, [24]), [3]], {
    attrs: { N: 3, K: 16, block_size: 16, quant_type: 1 },
    constants: [1],
  }),
  microsoft(
    'MoE',
    [
      [3, 2],
      floatsOf([0.9, 0.1, 0.5, 0.2, 0.8, 0.4, 0.3, 0.7, 0.1], [3, 3]),
      [3, 4, 2],
      [3, 4],
      [3, 2, 4],
      [3, 2],
    ],
    {
      attrs: { k: 2, activation_type: 'silu' },
      symbolic: [0, 1],
    },
  ),
  microsoft(
    'MoE',
    [
      ...[[3, 2], floatsOf([0.9, 0.1, 0.5, 0.2, 0.8, 0.4, 0.3, 0.7, 0.1], [3, 3])],
      ...[
        [3, 4, 2],
        [3, 4],
        [3, 2, 4],
        [3, 2],
        [3, 4, 2],
        [3, 4],
      ],
    ],
    { attrs: { k: 2, activation_type: 'silu' }, symbolic: [0, 1], range: [-1, 1] },
  ),
  microsoft(
    'QMoE',
    [
      ...[[2, 32], floatsOf([0.9, 0.1, 0.5, 0.2, 0.8, 0.4], [2, 3])],
      ...[nibbles(3 * 2 * 16, [3, 2, 16]), [3, 2], [3, 2]],
      ...[nibbles(3 * 32, [3, 32, 1]), [3, 32], [3, 32]],
      ...[nibbles(3 * 2 * 16, [3, 2, 16]), [3, 2], [3, 2]],
      nibbles(3, [3, 1]),
    ],
    {
      attrs: { k: 2, activation_type: 'silu', expert_weight_bits: 4 },
      range: [0.02, 0.06],
      step: 2e-3,
      symbolic: [0],
      constants: [2, 5, 8, 11],
      without: {
        fc2_zero_points: INTEGER,
        fc3_zero_points: INTEGER,
        ...Object.fromEntries(
          ['fc1_global_scale', 'fc2_global_scale', 'fc1_act_scale', 'fc2_act_scale'].map(name => [
            name,
            'of floating-point weights of few bits, which are not supported',
          ]),
        ),
        fc1_act_block_scale: 'of floating-point weights of few bits, which are not supported',
        fc2_act_block_scale: 'of floating-point weights of few bits, which are not supported',
      },
    },
  ),
  microsoft(
    'QMoE',
    [
      ...[[2, 32], floatsOf([0.9, 0.1, 0.5, 0.2, 0.8, 0.4], [2, 3])],
      ...[nibbles(3 * 2 * 16, [3, 2, 16]), [3, 2], null, nibbles(3 * 32, [3, 32, 1]), [3, 32], null],
      ...[null, null, null, null, null, null, floatsOf([0.5, 0.2, 0.3, 0.1, 0.4, 0.6], [2, 3])],
    ],
    {
      attrs: { k: 2, activation_type: 'silu', expert_weight_bits: 4 },
      range: [0.02, 0.06],
      step: 2e-3,
      wrt: [0, 14],
      symbolic: [0],
      constants: [2, 5],
    },
  ),
  microsoft('RotaryEmbedding', [[2, 3, 8], ints([0, 1, 2, 4, 2, 3], [2, 3]), [5, 2], [5, 2]]),
];

/** Levels of uint8 around 128, and what they are steps of. */
const levels = (dims: readonly number[]) => {
  const count = dims.reduce((n, d) => n * d, 1);
  return bytes(
    Array.from({ length: count }, (_, i) => 108 + ((37 * i + 11) % 40)),
    dims,
  );
};
const zero = bytes([128], []);
const step = floatsOf([0.25], []);

/** What passes the gradient on only where a user asks for that: the case is of straight-through gradients. */
export const STRAIGHT_THROUGH: readonly Example[] = [
  ...unary('Sign Floor Ceil Round Hardmax'),
  row('QuantizeLinear', [[2, 3], floatsOf([0.5], []), bytes([128], [])]),
  microsoft('QuantizeLinear', [[2, 3], floatsOf([0.5], []), bytes([128], [])]),
  row('MatMulInteger', [levels([2, 4]), levels([4, 3]), zero, zero]),
  row('ConvInteger', [levels([1, 2, 4, 3]), levels([3, 2, 2, 2]), zero, zero]),
  row('QLinearMatMul', [levels([2, 4]), step, zero, levels([4, 3]), step, zero, step, zero]),
  row('QLinearConv', [
    ...[levels([1, 2, 4, 3]), step, zero, levels([3, 2, 2, 2]), step, zero, step, zero],
    int32([5, -3, 2]),
  ]),
  microsoft('DynamicQuantizeMatMul', [[2, 4], levels([4, 3]), step, zero, [3]]),
  microsoft('MatMulIntegerToFloat', [levels([2, 4]), levels([4, 3]), step, step, zero, zero, [3]]),
  microsoft(
    'QAttention',
    [...[levels([2, 3, 4]), levels([4, 12]), [12], step, step], ...[null, zero, zero, [2, 2, 2, 2, 2]]],
    { attrs: { num_heads: 2 }, outputs: 2, without: { mask_index: INTEGER } },
  ),
  microsoft('QGemm', [levels([2, 4]), step, zero, levels([4, 3]), step, zero, int32([5, -3, 2]), step, zero]),
  ...['QLinearAdd', 'QLinearMul'].map(op =>
    microsoft(op, [levels([2, 4]), step, zero, levels([4]), step, zero, step, zero]),
  ),
  ...['QLinearSigmoid', 'QLinearLeakyRelu'].map(op =>
    microsoft(op, [levels([2, 4]), step, zero, step, zero]),
  ),
  microsoft('QLinearSoftmax', [levels([2, 4]), step, zero, step, zero], { attrs: { axis: -1, opset: 13 } }),
  microsoft('QLinearGlobalAveragePool', [levels([1, 2, 4, 3]), step, zero, step, zero]),
  microsoft('QLinearAveragePool', [levels([1, 2, 4, 3]), step, zero, step, zero], {
    attrs: { kernel_shape: [2, 2] },
  }),
  microsoft('QLinearConcat', [step, zero, levels([2, 4]), step, zero, levels([1, 4]), step, zero], {
    attrs: { axis: 0 },
  }),
  microsoft('QLinearWhere', [
    ...[bools([1, 0, 0, 1]), levels([2, 4]), step, zero, levels([4]), step, zero, step, zero],
  ]),
];

export const EXAMPLES: readonly Example[] = [
  ...ELEMENTWISE,
  ...ACTIVATIONS,
  ...LINALG,
  ...REDUCTIONS,
  ...MOVEMENT,
  ...INDEXING,
  ...WINDOWS,
  ...IMAGES,
  ...NORMALIZATIONS,
  ...SEQUENCES_OF_STEPS,
  ...ATTENTION,
  ...LOSSES,
  ...SIGNALS,
  ...QUANTIZED,
  ...CONTROL,
  ...SEQUENCES,
  ...MICROSOFT,
];
