/**
 * The precision that an operator computes in under `--precision fp16` or `bf16`. Operators that are in no list compute in
 * float32: softmax, losses, reductions, exponentials, logarithms, powers, layer normalization, recurrent layers and all
 * that control flow contains. The lists follow PyTorch's autocast; batch normalization, too, computes in float32.
 */

/** Products of matrices, and convolutions. */
const PRODUCTS = ['MatMul', 'Gemm', 'Einsum', 'Conv', 'ConvTranspose'];

/** Arithmetic that takes the widest type of its operands; constants and parameters count as narrow. */
const ELEMENTWISE = [
  ...[
    'Add',
    'Sub',
    'Mul',
    'Div',
    'Neg',
    'Abs',
    'Max',
    'Min',
    'Clip',
    'Where',
    'Dropout',
    'Relu',
    'LeakyRelu',
  ],
  ...[
    'PRelu',
    'Elu',
    'Selu',
    'Tanh',
    'Sigmoid',
    'HardSigmoid',
    'HardSwish',
    'Erf',
    'Gelu',
    'MaxPool',
    'AveragePool',
  ],
];

/** Operators that copy elements, in the type that these have. Parameters stay float32, so that embeddings do. */
const MOVEMENTS = [
  ...[
    'Identity',
    'Reshape',
    'Flatten',
    'Transpose',
    'Squeeze',
    'Unsqueeze',
    'Concat',
    'Split',
    'Slice',
    'Expand',
  ],
  ...['Tile', 'Pad', 'Gather', 'GatherElements', 'GatherND', 'DepthToSpace', 'SpaceToDepth'],
];

/** Computed in float32, with a result of the type of their first input. */
const NORMALIZATIONS = ['BatchNormalization', 'InstanceNormalization', 'GroupNormalization'];

/** Operators that operator set 18 does not define for bfloat16. */
const WITHOUT_BFLOAT = [
  ...['Conv', 'ConvTranspose', 'MaxPool', 'AveragePool', 'Elu', 'Selu', 'HardSigmoid', 'HardSwish', 'Gelu'],
];

/** How an operator computes: in 16 bits, as its operands are, or in float32. */
export type PrecisionRule = 'product' | 'elementwise' | 'movement' | 'normalization' | 'float32';

const RULES = new Map<string, PrecisionRule>([
  ...PRODUCTS.map(op => [op, 'product'] as const),
  ...ELEMENTWISE.map(op => [op, 'elementwise'] as const),
  ...MOVEMENTS.map(op => [op, 'movement'] as const),
  ...NORMALIZATIONS.map(op => [op, 'normalization'] as const),
]);

/** The operators of each rule, for the documentation. */
export const PRECISION_RULES: ReadonlyMap<string, PrecisionRule> = RULES;

export function precisionRule(
  { opType, domain }: { opType: string; domain: string },
  low: 'float16' | 'bfloat16',
): PrecisionRule {
  if (domain !== '' || (low === 'bfloat16' && WITHOUT_BFLOAT.includes(opType))) return 'float32';
  return RULES.get(opType) ?? 'float32';
}
