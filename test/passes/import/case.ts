/** Small graphs with inputs and outputs, as JSON files hold them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DType } from '../../../src/graph/dtype.js';
import { Graph, Model, Node, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { type AttrInit, float, toAttrs } from '../../../src/ops/core/builder.js';
import { Session } from '../../../src/runtime/session.js';

export type Stored = [dtype: DType, dims: number[], data: number[]];
export type StoredNode = [op: string, inputs: string[], outputs: string[], attrs: Record<string, unknown>];
export type Case = {
  name: string;
  nodes: StoredNode[];
  inputs: Record<string, Stored>;
  outputs: Record<string, Stored>;
};

export function readCases(file: string): Case[] {
  return JSON.parse(readFileSync(join(import.meta.dirname, file), 'utf8'));
}

const ARRAYS = { float32: Float32Array, int32: Int32Array, bool: Uint8Array, uint32: Uint32Array } as const;

export function tensorOf([dtype, dims, data]: Stored): Tensor {
  if (dtype === 'int64') return Tensor.from(dtype, dims, BigInt64Array.from(data, BigInt));
  const array = ARRAYS[dtype as keyof typeof ARRAYS].from(data);
  return new Tensor(dtype, dims, new Uint8Array(array.buffer));
}

/** Whole numbers and texts stand for themselves; `{float}` and `{strings}` say what they are. */
function attrOf(attr: unknown): AttrInit[string] {
  if (typeof attr === 'object' && attr && 'float' in attr) return float(attr.float as number);
  if (typeof attr === 'object' && attr && 'strings' in attr)
    return { type: 'strings', value: attr.strings as string[] };
  return attr as AttrInit[string];
}

/** `constants`: integers and single numbers are initializers; `symbolic`: extents of the other inputs are names. */
export function buildCase({ nodes, inputs, outputs }: Case, constants: boolean, symbolic: boolean): Model {
  const graph = new Graph('case');
  const values = new Map<string, Value>();
  const value = (name: string) => {
    if (!name) return null;
    if (!values.has(name)) values.set(name, new Value(name));
    return values.get(name)!;
  };
  for (const [name, stored] of Object.entries(inputs)) {
    const v = value(name)!;
    const [dtype, dims] = stored;
    const isSetting = dtype === 'int64' || dims.length === 0;
    const shape = symbolic && dims.length ? dims.map((d, i) => (isSetting ? d : `${name}${i}`)) : dims;
    v.type = { kind: 'tensor', dtype, shape };
    if (constants && isSetting) graph.initializers.set(v, tensorOf(stored));
    else graph.inputs.push(v);
  }
  graph.nodes = nodes.map(([op, ins, outs, attrs]) => {
    const dot = op.lastIndexOf('.');
    const given = Object.entries(attrs).map(([k, a]) => [k, attrOf(a)]);
    const node = new Node(
      op.slice(dot + 1),
      ins.map(value),
      outs.map(value),
      toAttrs(Object.fromEntries(given) as AttrInit),
    );
    node.domain = op.slice(0, Math.max(dot, 0));
    return node;
  });
  graph.outputs = Object.keys(outputs).map(name => value(name)!);
  const model = new Model(graph);
  model.opsetImports = new Map([
    ['', 17],
    ['com.microsoft', 1],
    ['ai.onnx.preview.training', 1],
  ]);
  return model;
}

export async function runCase(model: Model, { inputs }: Case): Promise<Record<string, Tensor>> {
  const session = await Session.create(model);
  const fed = session.inputs.map(name => [name, tensorOf(inputs[name]!)]);
  const results = await session.run(Object.fromEntries(fed));
  await session.release();
  return results;
}
