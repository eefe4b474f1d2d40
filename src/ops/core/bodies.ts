import type { Graph, Node, Shape, TensorType, ValueType } from '../../graph/ir.js';

/** The types of the inputs of a node's subgraphs, as far as they follow from what the node reads and writes. */
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
        i < states ? type : slice(type, scanAxis(node, 'scan_input_axes', i - states)),
      );
    }
    default:
      return [];
  }
}

function intAttr(node: Node, name: string): number {
  const attr = node.attrs.get(name);
  return attr?.type === 'int' ? Number(attr.value) : 0;
}

/** One of a list of axes that a Scan runs along; 0 where the list is not given. */
export function scanAxis(node: Node, name: string, i: number): number {
  const attr = node.attrs.get(name);
  return attr?.type === 'ints' ? Number(attr.value[i] ?? 0) : 0;
}

/**
 * Once a Loop's body is typed: gives up the extents of carried values that an iteration changes. Returns whether
 * there were any, so that the body has to be typed again; else the Loop's outputs get the types of the body's.
 */
export function settleLoop(node: Node, body: Graph): boolean {
  const carried = body.inputs.slice(2);
  let changed = false;
  carried.forEach((input, i) => {
    const kept = steady(input.type, body.outputs[1 + i]?.type);
    if (JSON.stringify(kept) !== JSON.stringify(input.type)) changed = true;
    input.type = kept;
  });
  if (changed) return true;
  node.outputs.forEach((output, i) => {
    const type = body.outputs[1 + i]?.type;
    if (!output || type?.kind !== 'tensor') return;
    output.type = i < carried.length ? type : { ...type, shape: type.shape && [null, ...type.shape] };
  });
  return false;
}

/** What a loop-carried value keeps through an iteration: extents that its begin and its end share. */
function steady(begin: ValueType | undefined, end: ValueType | undefined): ValueType | undefined {
  if (begin?.kind !== 'tensor' || !begin.shape) return begin;
  if (end?.kind !== 'tensor' || end.shape?.length !== begin.shape.length)
    return { ...begin, shape: undefined };
  const shape: Shape = begin.shape.map((d, i) => (d === end.shape![i] ? d : null));
  return { ...begin, shape };
}

function slice(type: ValueType | undefined, axis: number): ValueType | undefined {
  if (type?.kind !== 'tensor' || !type.shape) return type;
  const at = axis < 0 ? axis + type.shape.length : axis;
  return { ...type, shape: type.shape.filter((_, i) => i !== at) } satisfies TensorType;
}
