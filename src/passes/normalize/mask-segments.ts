/** Packed sequences: masks attention between documents of the same row. */
import { AgdError } from '../../graph/errors.js';
import { allGraphs, type Graph, Node, showShape, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { SEGMENTS, sameSegment } from './add-segments.js';

/** The input of an attention operator that is added to its scores, or masks them: [batch, heads, length, length]. */
const BIAS: Readonly<Record<string, number>> = {
  'com.microsoft:GroupQueryAttention': 10,
  'com.microsoft:MultiHeadAttention': 5,
  'com.microsoft:Attention': 5,
  ':Attention': 3,
};

/** Operators that carry something from token to token, for which there is no mask. */
const MIXES = new Set(
  ['LSTM', 'GRU', 'RNN', 'Scan', 'Loop'].concat(
    ...['SparseAttention', 'LinearAttention', 'CausalConvWithState', 'LongformerAttention', 'QAttention'],
    ...['DecoderMaskedMultiHeadAttention', 'DecoderMaskedSelfAttention', 'DecoderAttention'],
  ),
);

/** What the scores of attention pass on their way to a Softmax. */
const BETWEEN = new Set(['Add', 'Sub', 'Mul', 'Div', 'Where', 'Cast', 'Clip', 'Min', 'Max', 'Tanh']);

/** Added to scores of other documents; exp of it is 0. */
const FAR = { float32: -1e30, float64: -1e30, float16: -6e4, bfloat16: -1e30 } as const;

/**
 * Keeps attention within the documents of a row. Throws `bad-option` for an operator that carries something from token
 * to token in another way, for scores whose axes are not known, and where nothing attends.
 */
export function maskSegments(g: Builder): void {
  const { graph } = g;
  const segments = g.of(graph.inputs.find(v => v.name === SEGMENTS)!);
  const front: Node[] = [];
  const same = g.into(front, () => sameSegment(segments));
  const before = (emit: () => Expr) => g.into(front, emit).value;
  const bias = (dtype: keyof typeof FAR, rank: number) => {
    const far = g.scalar(FAR[dtype], dtype);
    const near = g.scalar(0, dtype);
    return before(() => (rank === 4 ? same.unsqueeze([1]) : same).where(near, far));
  };
  let count = 0;
  for (const inner of [...allGraphs(graph)])
    for (const node of [...inner.nodes]) {
      const index = BIAS[`${node.domain}:${node.opType}`];
      if (MIXES.has(node.opType)) throw unmaskable(node, 'carries values from token to token');
      const scores = index === undefined ? scoresOf(node) : undefined;
      if (index === undefined && !scores) continue;
      count++;
      if (scores) add(inner, node, 0, bias(floatOf(scores, node), rankOf(scores, node, segments.value)));
      else if (node.inputs[index!]?.dtype === 'bool') {
        const given = node.inputs[index!]!;
        const own = before(() => same.unsqueeze([1]));
        insert(inner, node, index!, 'And', [given, own]);
      } else if (node.inputs[index!]) add(inner, node, index!, bias(floatOf(node.inputs[index!]!, node), 4));
      else {
        while (node.inputs.length < index!) node.setInput(node.inputs.length, null);
        node.setInput(index!, bias(floatOf(node.inputs[0]!, node), 4));
      }
    }
  if (!count)
    throw new AgdError(
      'bad-option',
      '--pack: the model has no attention that could be kept within the documents of a row; train without --pack.',
    );
  graph.prepend(...front);

  function add(inner: Graph, node: Node, index: number, own: Value) {
    insert(inner, node, index, 'Add', [node.inputs[index]!, own]);
  }

  function insert(inner: Graph, node: Node, index: number, opType: string, inputs: [Value, Value]) {
    const masked = new Value(g.scope.names.fresh('within_documents'), typeOf(inputs));
    inner.insertBefore(node, new Node(opType, inputs, [masked]));
    node.setInput(index, masked);
  }
}

/** Of a mask with one for the documents: the first may lack batch and heads. */
function typeOf([given, own]: readonly [Value, Value]): Value['type'] {
  if (given.type?.kind !== 'tensor' || !given.shape || !own.shape) return undefined;
  const before = given.shape.slice(-own.shape.length, -2);
  const outer = own.shape.slice(0, -2).map((d, i, all) => (d === 1 ? (before.at(i - all.length) ?? 1) : d));
  return { ...given.type, shape: [...outer, ...own.shape.slice(-2)] };
}

/** The scores that a Softmax makes weights of: those of attention come from a product of two computed matrices. */
function scoresOf(node: Node): Value | undefined {
  if (node.domain !== '' || node.opType !== 'Softmax') return undefined;
  const [scores] = node.inputs;
  const axis = new Attributes(node).int('axis', -1);
  const rank = scores!.shape?.length;
  if (axis !== -1 && axis + 1 !== rank) return undefined;
  return isProduct(scores!, new Set()) ? scores! : undefined;
}

function isProduct(value: Value, seen: Set<Value>): boolean {
  const { producer } = value;
  if (!producer || seen.has(value)) return false;
  seen.add(value);
  if (producer.opType === 'Einsum') return true;
  if (producer.opType === 'MatMul' || producer.opType === 'FusedMatMul')
    return producer.inputs.every(v => v && isComputed(v));
  return BETWEEN.has(producer.opType) && producer.inputs.some(v => v && isProduct(v, seen));
}

/** Whether a value is neither a weight nor one that is only laid out anew. */
function isComputed(value: Value): boolean {
  const { producer } = value;
  if (!producer) return false;
  if (producer.opType === 'Constant') return false;
  const moves = ['Transpose', 'Reshape', 'Cast', 'DequantizeLinear', 'Identity', 'Unsqueeze', 'Squeeze'];
  return !moves.includes(producer.opType) || isComputed(producer.inputs[0]!);
}

function floatOf({ dtype }: Value, node: Node): keyof typeof FAR {
  if (dtype && dtype in FAR) return dtype as keyof typeof FAR;
  throw unmaskable(node, `has scores of type ${dtype ?? 'unknown'}`);
}

/** 4: [batch, heads, length, length]; 3 without heads. */
function rankOf({ shape }: Value, node: Node, segments: Value): 3 | 4 {
  if (shape?.length === 4) return 4;
  if (shape?.length === 3 && shape[0] !== null && shape[0] === segments.shape![0]) return 3;
  throw unmaskable(
    node,
    `has scores of shape ${showShape(shape)}, whose first axis is not known to be the batch`,
  );
}

const unmaskable = (node: Node, why: string) =>
  new AgdError(
    'bad-option',
    `--pack cannot keep documents apart in node '${node.name || node.outputs[0]?.name}' (${node.opType}), which ${why}; train without --pack.`,
  );
