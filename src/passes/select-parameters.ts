import picomatch from 'picomatch';
import { isFloat } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import type { Graph, Node, Value } from '../graph/ir.js';
import type { Tensor } from '../graph/tensor.js';
import { activeValues, type BackwardOptions } from './backward.js';

/** What becomes of a floating-point constant of the model, and why. */
export type ParameterChoice = { value: Value; trains: boolean; why: string };

export type SelectOptions = BackwardOptions & {
  /** Globs over names: what matches trains, even where the rule says otherwise. */
  train?: readonly string[];
  /** Globs over names: what matches does not train; stronger than `train`. */
  freeze?: readonly string[];
};

/**
 * Decides which floating-point initializers train. One is a weight, and trains, if a target (the loss) depends on it
 * through differentiable operators, unless
 *
 * 1. every operator that reads it takes it as a setting (running statistics, bounds of a clip, an exponent,
 *    a dropout ratio, resize scales ...);
 * 2. it has a single element that is broadcast over the other operand: an epsilon, a scale, a temperature;
 * 3. it looks like a mask: some element is infinite or of magnitude 10,000 and above, or all are 0 or 1 and
 *    both occur;
 * 4. it was filled in the forward pass, as zeros to start from: one repeated number, and every operator that reads it
 *    takes it where fresh weights, which are broadcast over the batch, do not go (an initial state, what is scattered
 *    into, an operand as large as the result).
 *
 * Weights in Constant nodes must have been lifted to initializers. Throws `no-such-value` for a glob that
 * matches nothing and `nothing-to-train` where nothing is left.
 */
export function selectParameters(
  graph: Graph,
  targets: readonly Value[],
  options: SelectOptions = {},
): ParameterChoice[] {
  const candidates = [...graph.initializers].filter(
    ([value, tensor]) => isFloat(tensor.dtype) && tensor.size > 0 && value.name,
  );
  const names = candidates.map(([value]) => value.name);
  const forced = matcher('--train', options.train, names);
  const frozen = matcher('--freeze', options.freeze, names);
  const reached = reach(graph, targets, options);
  const readers = readersOf(graph);
  const choices = candidates.map(([value, tensor]): ParameterChoice => {
    const no = (why: string) => ({ value, trains: false, why });
    if (frozen?.(value.name)) return no('frozen by --freeze');
    if (!reached.has(value)) return no('the loss does not depend on it through differentiable operators');
    if (forced?.(value.name)) return { value, trains: true, why: 'chosen by --train' };
    const why = notAWeight(value, tensor, readers.get(value) ?? []);
    return why ? no(why) : { value, trains: true, why: 'a weight' };
  });
  if (!choices.some(c => c.trains))
    throw new AgdError(
      'nothing-to-train',
      `Nothing to train: of ${candidates.length} floating-point initializers none is a weight that ${targets.map(v => `'${v.name}'`).join(', ')} depends on. ` +
        'Choose with --train GLOB; `agd-onnx inspect` lists them.',
    );
  return choices;
}

type Reader = { node: Node; input: number };

/** Inputs that set an operator up rather than take part in learning. */
const SETTINGS: Record<string, readonly number[]> = {
  BatchNormalization: [3, 4],
  Clip: [1, 2],
  Dropout: [1],
  OneHot: [2],
  Pad: [2],
  Pow: [1],
  QuantizeLinear: [1, 2],
  DequantizeLinear: [1, 2],
  Range: [0, 1, 2],
  Resize: [1, 2],
};

/** Inputs that hold one number per channel: a single element there is a weight of a single channel. */
const PER_CHANNEL: Record<string, readonly number[]> = {
  Conv: [1, 2],
  ConvTranspose: [1, 2],
  Gemm: [0, 1, 2],
  MatMul: [0, 1],
  Gather: [0],
  BatchNormalization: [1, 2],
  InstanceNormalization: [1, 2],
  LayerNormalization: [1, 2],
  GroupNormalization: [1, 2],
  RMSNormalization: [1],
  PRelu: [1],
  LSTM: [1, 2, 3, 7],
  GRU: [1, 2, 3],
  RNN: [1, 2, 3],
};

function notAWeight(value: Value, tensor: Tensor, readers: readonly Reader[]): string | undefined {
  if (readers.every(r => SETTINGS[r.node.opType]?.includes(r.input)))
    return `a setting of ${readers[0]!.node.opType}`;
  if (tensor.size === 1 && !readers.some(r => isSingleChannel(r, value)))
    return 'a constant of the arithmetic';
  if (readers.every(r => MASKING.has(r.node.opType)) && looksLikeMask(tensor)) return 'a mask';
  const filled = readers.length > 0 && readers.every(r => takesFilled(r, value, tensor)) && tensor.isUniform;
  // The first factor of a product of weights may be a fresh one, of low rank.
  if (filled && readers.some(r => r.node.opType !== 'MatMul')) return 'filled in the forward pass';
  return undefined;
}

const ELEMENTWISE = new Set(['Add', 'Sub', 'Mul', 'Div', 'Where', 'Max', 'Min']);
const MASKING = new Set([...ELEMENTWISE, 'Unsqueeze', 'Slice', 'Expand', 'Cast']);

/** Inputs that start something: states, and what is scattered into. */
const STARTS: Record<string, readonly number[]> = {
  LSTM: [5, 6],
  GRU: [5],
  RNN: [5],
  Gemm: [0],
  MatMul: [0],
  ScatterElements: [0],
  ScatterND: [0],
};

function takesFilled({ node, input }: Reader, { shape }: Value, { dims, data }: Tensor): boolean {
  if (STARTS[node.opType]?.includes(input)) return true;
  const result = node.outputs[0]?.shape;
  if (!ELEMENTWISE.has(node.opType) || !shape || !result) return false;
  if (dims.length > 1 && dims.length === result.length && dims[0]! > 1) return true;
  return node.opType === 'Mul' && Number(data[0]) === 0 && `${dims}` === `${result}`;
}

function isSingleChannel({ node, input }: Reader, value: Value): boolean {
  if (PER_CHANNEL[node.opType]?.includes(input)) return true;
  if (node.opType !== 'Add' || value.shape?.length === 0) return false;
  return node.inputs[1 - input]?.shape?.at(-1) === 1;
}

function looksLikeMask(tensor: Tensor): boolean {
  let zeros = 0;
  let ones = 0;
  for (const x of tensor.numbers()) {
    if (!(Math.abs(x) < 1e4)) return true;
    if (x === 0) zeros++;
    else if (x === 1) ones++;
  }
  return zeros > 0 && ones > 0 && zeros + ones === tensor.size;
}

/** The values that `targets` depend on through differentiable operators, from them back. */
function reach(graph: Graph, targets: readonly Value[], options: BackwardOptions): Set<Value> {
  const floating = [...graph.initializers.keys()].filter(v => isFloat(v.dtype));
  const active = activeValues(graph.nodes, floating, options);
  const reached = new Set<Value>(targets);
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some(o => o && reached.has(o) && active.has(o))) continue;
    for (const v of [...node.inputs, ...node.subgraphs().flatMap(s => s.captures())])
      if (v && active.has(v)) reached.add(v);
  }
  return reached;
}

/** The nodes that read a value, those in subgraphs included, and at which input. */
export function readersOf(graph: Graph): Map<Value, Reader[]> {
  const readers = new Map<Value, Reader[]>();
  const visit = (nodes: readonly Node[]) => {
    for (const node of nodes) {
      node.inputs.forEach((value, input) => {
        if (value) readers.set(value, [...(readers.get(value) ?? []), { node, input }]);
      });
      for (const sub of node.subgraphs()) visit(sub.nodes);
    }
  };
  visit(graph.nodes);
  return readers;
}

/** Whether a name matches one of the globs; throws `no-such-value` for one that matches no name at all. */
export function matcher(
  flag: string,
  globs: readonly string[] | undefined,
  names: readonly string[],
  what = 'floating-point initializer',
) {
  if (!globs?.length) return undefined;
  const tests = globs.map(glob => picomatch(glob, { bash: true, dot: true }));
  globs.forEach((glob, i) => {
    if (!names.some(name => tests[i]!(name)))
      throw new AgdError(
        'no-such-value',
        `${flag} '${glob}' matches no ${what}; \`agd-onnx inspect\` lists them.`,
      );
  });
  return (name: string) => tests.some(test => test(name));
}
