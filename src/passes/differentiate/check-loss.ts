/** Warns of losses that do not fit the output that they read, such as cross-entropy of probabilities. */
import type { Graph, Node, Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import { isBuiltInLoss, type LossKind } from '../../ops/losses/index.js';
import { flagValue } from '../options/text.js';
import type { LossSpec } from '../options.js';

/** The range of an output, derived from the operator that computes it. */
type Nature = 'probabilities' | 'independent probabilities' | 'logarithms' | 'scores';

const NATURES = record<Nature>({
  Softmax: 'probabilities',
  Sigmoid: 'independent probabilities',
  HardSigmoid: 'independent probabilities',
  LogSoftmax: 'logarithms',
  ...Object.fromEntries(['Gemm', 'MatMul', 'Conv', 'Add'].map(op => [op, 'scores' as const])),
});

/** Operators that change the layout or type of elements, not their values. */
const MOVES = new Set(['Identity', 'Cast', 'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Transpose']);

/** Operators that interpret their input as class scores. */
const CLASSIFIERS = new Set(['Softmax', 'LogSoftmax', 'Sigmoid', 'ArgMax', 'TopK', 'Hardmax']);

/**
 * Warnings for a loss that does not fit its output, as far as operators tell, with the suggested option. One line
 * each.
 */
export function checkLoss(graph: Graph, spec: LossSpec, output: Value): string[] {
  const { kind } = spec;
  if (kind === 'output' || !isBuiltInLoss(kind) || takesScores(graph, spec)) return [];
  const made = natureOf(output);
  if (!made) return [];
  const { nature, node, before } = made;
  const it = `Output '${output.name}'`;
  const scores = before && sameRank(before, output) ? before.name : undefined;
  const from = scores === undefined ? '' : ` --output ${flagValue(scores)}`;
  const fromScores = (loss: LossKind) =>
    scores === undefined ? '' : `--loss ${loss}${from}, the scores before it`;
  const either = (...ways: string[]) => ways.filter(Boolean).join(', or ');
  const op = node.opType === 'Div' ? 'Softmax' : node.opType;
  switch (kind) {
    case 'cross-entropy':
      if (nature === 'probabilities')
        return [
          `${it} is already a Softmax, and cross-entropy applies another one, which is nearly flat on probabilities. ${use(fromScores('cross-entropy'))}`,
        ];
      if (nature === 'independent probabilities')
        return [
          `${it} is a ${op}, but cross-entropy expects scores of exclusive classes. ${use(either('--loss bce', fromScores('cross-entropy')))}`,
        ];
      return [];
    case 'nll':
      if (nature === 'logarithms') return [];
      return [
        `${it} is computed by ${op}, but nll expects log-probabilities. ${use(nature === 'scores' ? '--loss cross-entropy' : fromScores('cross-entropy'))}`,
      ];
    case 'bce-with-logits':
      if (nature === 'scores') return [];
      return [
        `${it} is computed by ${op}, but bce-with-logits applies a sigmoid. ${use(nature === 'logarithms' ? '--loss nll' : either('--loss bce', fromScores(nature === 'probabilities' ? 'cross-entropy' : 'bce-with-logits')))}`,
      ];
    case 'bce':
      if (nature === 'probabilities' || nature === 'independent probabilities') return [];
      return [
        `${it} is computed by ${op}, but bce expects probabilities. ${use(nature === 'scores' ? '--loss bce-with-logits' : '--loss nll')}`,
      ];
    default: {
      const reader = nature === 'scores' && classifierOf(output, graph);
      if (!reader && !(nature === 'scores' && /logits?$/i.test(output.name))) return [];
      const why = reader ? `, to which the model applies ${reader.opType}` : '';
      return [
        `${it} has class scores${why}, but ${kind} compares them directly with the targets. ${use(reader && reader.opType === 'Sigmoid' ? '--loss bce-with-logits' : '--loss cross-entropy')}`,
      ];
    }
  }
}

/** kl takes the softmax of scores, and other losses compare scores with those of a teacher. */
const takesScores = (graph: Graph, { kind, target }: LossSpec) =>
  kind === 'kl' ||
  (target !== undefined && graph.nodes.some(node => node.outputs.some(v => v?.name === target)));

const use = (what: string) => (what ? `Use ${what}.` : 'Use the value before it.');

/** The nature of the values if the operator that computes them determines it, and the value that it was computed from. */
export function natureOf(output: Value) {
  let node = output.producer;
  while (node && node.domain === '' && MOVES.has(node.opType)) node = node.inputs[0]?.producer;
  if (node?.domain !== '') return undefined;
  const [top, bottom] = node.inputs;
  const exponent = top?.producer;
  // e^x / sum(e^x)
  if (node.opType === 'Div' && exponent?.opType === 'Exp' && bottom) {
    const total = bottom.producer;
    if (total?.opType !== 'ReduceSum' || total.inputs[0] !== top) return undefined;
    return { nature: 'probabilities' as const, node, before: exponent.inputs[0] };
  }
  const nature = NATURES[node.opType];
  return nature && { nature, node, before: nature === 'scores' ? null : top };
}

const sameRank = (a: Value, b: Value) => !!a.shape && a.shape.length === b.shape?.length;

function classifierOf(value: Value, graph: Graph): Node | undefined {
  const known = new Set<Value | null>([value]);
  for (const node of graph.nodes) {
    if (node.domain !== '' || !known.has(node.inputs[0]!)) continue;
    if (CLASSIFIERS.has(node.opType)) return node;
    if (MOVES.has(node.opType)) known.add(node.outputs[0]!);
  }
  return undefined;
}
