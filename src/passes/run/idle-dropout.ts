import { constantOf } from '../../graph/constants.js';
import { allGraphs, type Graph, type Model, type Node, type Value } from '../../graph/ir.js';

/**
 * What `action` gives while each Dropout that passes its input on is an Identity: builds of the runtime for browsers have no
 * kernel for Dropout. The outputs lack their masks. The model is then as it was.
 */
export function withoutIdleDropout<T>(model: Model, action: () => T): T {
  const idle = [...allGraphs(model.graph)].flatMap(({ nodes }: Graph) => nodes.filter(isIdle));
  const before = idle.map(({ inputs, outputs, attrs }) => ({ inputs, outputs, attrs }));
  const { graph } = model;
  const asked = graph.outputs;
  // Shape inference asks for all values, by name; the mask of a Dropout that does nothing is of no use.
  const masks = new Set(idle.map(node => node.outputs[1]?.name));
  if (asked.some(v => masks.has(v.name))) graph.outputs = asked.filter(v => !masks.has(v.name));
  for (const node of idle) {
    const [input, output] = [node.inputs[0]!, node.outputs[0]!];
    Object.assign(node, { opType: 'Identity', inputs: [input], outputs: [output], attrs: new Map() });
  }
  try {
    return action();
  } finally {
    graph.outputs = asked;
    for (const [i, node] of idle.entries()) Object.assign(node, { opType: 'Dropout', ...before[i] });
  }
}

/** Whether it drops nothing, and its mask is not read. */
const isIdle = ({ opType, domain, inputs: [, ratio, mode], outputs: [, mask], graph }: Node) =>
  opType === 'Dropout' &&
  domain === '' &&
  (!mode || isZero(mode, graph) || isZero(ratio, graph)) &&
  !mask?.readers.length;

const isZero = (value: Value | null | undefined, graph: Graph | undefined) => {
  const tensor =
    value && (graph?.initializers.get(value) ?? (value.producer && constantOf(value.producer)?.tensor));
  return tensor?.numbers()[0] === 0;
};
