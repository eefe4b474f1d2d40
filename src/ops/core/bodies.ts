import { cloneNodes } from '../../graph/clone.js';
import type { Dim, Graph, Node, Value, ValueType } from '../../graph/ir.js';
import { type Builder, RANDOM } from './builder.js';
import { join } from './types.js';

/** The types of the inputs of a node's subgraphs, as far as they follow from the node's own inputs and outputs. */
export function bodyInputTypes(node: Node): (ValueType | undefined)[] {
  const types = node.inputs.map(v => v?.type);
  switch (node.opType) {
    case 'Loop': {
      const carried = types.slice(2);
      return [
        { kind: 'tensor', dtype: 'int64', shape: [] },
        { kind: 'tensor', dtype: 'bool', shape: [] },
        ...carried,
      ];
    }
    case 'Scan': {
      const count = intAttr(node, 'num_scan_inputs');
      const states = types.length - count;
      return types.map((type, i) =>
        i < states ? type : sliceType(type, scanAxis(node, 'scan_input_axes', i - states)),
      );
    }
    case 'SequenceMap':
      return types.map(type => (type?.kind === 'sequence' ? type.elem : type));
    default:
      return [];
  }
}

function intAttr(node: Node, name: string): number {
  const attr = node.attrs.get(name);
  return attr?.type === 'int' ? Number(attr.value) : 0;
}

/** One of a list of scan axes; 0 if the list is not given. */
export function scanAxis(node: Node, name: string, i: number): number {
  const attr = node.attrs.get(name);
  return attr?.type === 'ints' ? Number(attr.value[i] ?? 0) : 0;
}

/** The types of the outputs of a node whose subgraphs are typed. */
export function bodyOutputTypes(node: Node): (ValueType | undefined)[] {
  const [body, other] = node.subgraphs() as [Graph, Graph?];
  const types = body.outputs.map(v => v.type);
  switch (node.opType) {
    case 'If':
      return types.map((type, i) => join(type, other?.outputs[i]?.type));
    case 'Loop': {
      const carried = body.inputs.slice(2).map(v => v.type);
      return [...carried, ...types.slice(1 + carried.length).map(type => stackType(type))];
    }
    case 'SequenceMap':
      return types.map(elem => elem && { kind: 'sequence', elem });
    default:
      return [];
  }
}

/**
 * Once a Loop's body is typed, makes the extents of carried values unknown if an iteration changes them. Returns
 * whether there were any, in which case the body must be typed again.
 */
export function settleLoop(body: Graph): boolean {
  let changed = false;
  body.inputs.slice(2).forEach((input, i) => {
    const kept = join(input.type, body.outputs[1 + i]?.type) ?? input.type;
    if (JSON.stringify(kept) !== JSON.stringify(input.type)) changed = true;
    input.type = kept;
  });
  return changed;
}

/** The type of a slice, which lacks the sliced axis. */
export function sliceType(type: ValueType | undefined, axis: number): ValueType | undefined {
  if (type?.kind !== 'tensor' || !type.shape) return type;
  return {
    ...type,
    shape: type.shape.filter((_, i) => i !== (axis + type.shape!.length) % type.shape!.length),
  };
}

/** The type of `length` such slices, stacked. */
export function stackType(type: ValueType | undefined, axis = 0, length: Dim = null): ValueType | undefined {
  if (type?.kind !== 'tensor' || !type.shape) return type;
  const at = axis < 0 ? axis + type.shape.length + 1 : axis;
  return { ...type, shape: [...type.shape.slice(0, at), length, ...type.shape.slice(at)] };
}

/**
 * Copies a body's nodes into a builder's graph. `values` maps its inputs to values there, and is extended by the
 * copies.
 */
export function copyInto(b: Builder, body: Graph, values: Map<Value, Value>): Map<Value, Value> {
  b.adopt(cloneNodes(body.nodes, { values, name: name => b.scope.names.fresh(name) }));
  return values;
}

/** The nodes of a graph, at any depth, with random outputs. */
export function randomNodes(graph: Graph, g: Builder): Node[] {
  return graph.nodes.flatMap(node => [
    ...(draws(node, g) ? [node] : []),
    ...node.subgraphs().flatMap(body => randomNodes(body, g)),
  ]);
}

function draws({ opType, domain, inputs }: Node, g: Builder): boolean {
  if (opType !== 'Dropout') return RANDOM.has(opType) && domain === '';
  return !!inputs[2] && g.constant(inputs[2])?.numbers()[0] !== 0;
}
