import { allGraphs, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { prune } from '../../graph/prune.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { scan } from '../../ops/core/scan.js';

/** With fewer states in a step of a batch, the runtime's LSTM and the gates again take less than a Scan's nodes. */
const LEAST = 2 ** 10;
/** A batch of unknown size. */
const USUAL = 16;

/** What the gradient of an LSTM computes again: the arguments of all gates, and the cells, as the outputs of a Scan. */
type Again = { gates: Value; last: Value; cells: Value };

/**
 * Runs LSTMs whose gradient is computed too as Scans that return what the gradient reads, so that it is not computed
 * again. The file keeps the operator, which other runtimes know. Returns whether there was anything to change.
 */
export function keepGates(model: Model): boolean {
  const names = Names.of(model);
  let changed = false;
  for (const graph of [...allGraphs(model.graph)]) {
    const found = new Map(graph.nodes.flatMap(node => pairOf(node) ?? []));
    if (!found.size) continue;
    changed = true;
    const { nodes } = graph;
    graph.nodes = [];
    const g = new Builder(graph, { names, opsets: model.opsetImports });
    const replaced: [Value, Expr][] = [];
    for (const node of nodes) {
      const again = found.get(node);
      if (again) replaced.push(...kept(g, node, again));
      else g.adopt([node]);
    }
    for (const [old, { value }] of replaced) old.replaceAllUses(value);
    prune(graph);
  }
  return changed;
}

const pairOf = (node: Node): [Node, Again][] | undefined => {
  const again = isPlain(node) ? againOf(node) : undefined;
  return again && [[node, again]];
};

/** Whether this is an LSTM of full sequences in one direction, with the usual activations. */
function isPlain(node: Node): boolean {
  if (node.opType !== 'LSTM' || node.domain) return false;
  const { inputs, attrs } = node;
  const [x, , r, , lengths, , , peepholes] = inputs;
  const others = [...attrs.keys()].filter(name => name !== 'hidden_size' && name !== 'direction');
  const isForward = new Attributes(node).string('direction', 'forward') === 'forward';
  const hidden = r?.shape?.[2];
  const batch = x?.shape?.[1];
  const isLarge = typeof hidden === 'number' && hidden * (typeof batch === 'number' ? batch : USUAL) >= LEAST;
  return isForward && !others.length && !lengths && !peepholes && x?.dtype === 'float32' && isLarge;
}

const from = (value: Value | null | undefined, opType: string) =>
  value?.producer?.opType === opType && !value.producer.domain ? value.producer : undefined;

const readersOf = (node: Node, opType: string) =>
  (node.outputs[0]?.readers ?? []).filter(reader => reader.opType === opType && !reader.domain);

/** As `recurrentRule` and `lstmDirection` write them. */
function againOf(node: Node): Again | undefined {
  const [x, w, r, b] = node.inputs;
  const isPart = (value: Value | null | undefined, of: Value | null | undefined) =>
    !!of && from(value, 'Gather')?.inputs[0] === of;
  const isHalf = (value: Value | null | undefined) => isPart(from(value, 'Slice')?.inputs[0], b);
  const isTurned = (value: Value | null | undefined, of: Value | null | undefined) =>
    isPart(from(value, 'Transpose')?.inputs[0], of);
  const befores = readersOf(node, 'Gather')
    .flatMap(all => readersOf(all, 'Slice'))
    .flatMap(most => readersOf(most, 'Concat'))
    .filter(({ inputs }) => from(inputs[0], 'Unsqueeze'));
  for (const product of befores.flatMap(before => readersOf(before, 'MatMul'))) {
    const [sum] = readersOf(product, 'Add');
    const ofInput = from(sum?.inputs[0], 'MatMul');
    const isSum =
      ofInput?.inputs[0] === x && isTurned(ofInput?.inputs[1], w) && isTurned(product.inputs[1], r);
    if (!sum || !isSum) continue;
    const gates = b
      ? readersOf(sum, 'Add').find(({ inputs }) => from(inputs[1], 'Add')?.inputs.every(isHalf))
      : sum;
    const cells = gates && cellsOf(gates);
    if (cells) return { gates: gates.outputs[0]!, last: cells.outputs[0]!, cells: cells.outputs[1]! };
  }
  return undefined;
}

/** The Scan of f c + i g, for which f is a part of `gates`. */
function cellsOf(gates: Node): Node | undefined {
  const forget = readersOf(gates, 'Slice').flatMap(part => readersOf(part, 'Sigmoid'));
  return forget
    .flatMap(f => readersOf(f, 'Scan').filter(({ inputs }) => inputs[1] === f.outputs[0]))
    .find(
      node =>
        node
          .subgraphs()[0]!
          .nodes.map(n => n.opType)
          .join() === 'Mul,Add,Identity',
    );
}

/** Returns what takes the place of what was computed again. */
function kept(g: Builder, node: Node, { gates, last, cells }: Again): [Value, Expr][] {
  const part = (i: number) => {
    const value = node.inputs[i];
    return value ? g.of(value).gather(g.scalar(0, 'int64'), 0) : undefined;
  };
  const x = g.of(node.inputs[0]!);
  const [w, r, b, , h0, c0] = [1, 2, 3, 4, 5, 6].map(part);
  const hidden = r!.extent(-1) as number;
  const zeros = () => g.scalar(0, 'float32').op('Expand', [g.vector([x.dims(1, 2), hidden])]);
  const turned = r!.transpose([1, 0]);
  const ofInput = x.matmul(w!.transpose([1, 0]));
  const gate = (e: Expr, i: number, count = 1) => e.slice([i * hidden], [(i + count) * hidden], [e.rank - 1]);
  const { states, outputs } = scan(g, {
    states: [h0 ?? zeros(), c0 ?? zeros()],
    inputs: [b ? ofInput.add(gate(b, 0, 4).add(gate(b, 4, 4))) : ofInput],
    body: (inner, [h, c], [slice]) => {
      const z = h!.matmul(inner.of(turned.value)).add(slice!);
      const [i, o, f] = [0, 1, 2].map(k => gate(z, k).sigmoid());
      const next = f!.mul(c!).add(i!.mul(gate(z, 3).tanh()));
      const y = o!.mul(next.tanh());
      return { states: [y, next], outputs: [z, y, next] };
    },
  });
  const [z, y, all] = outputs as [Expr, Expr, Expr];
  const [yh, yc] = states as [Expr, Expr];
  const [Y, Yh, Yc] = node.outputs;
  g.identity(y.unsqueeze([1]).value, Y!);
  if (Yh) g.identity(yh.unsqueeze([0]).value, Yh);
  if (Yc) g.identity(yc.unsqueeze([0]).value, Yc);
  return [
    [gates, z],
    [cells, all],
    [last, yc],
  ];
}
