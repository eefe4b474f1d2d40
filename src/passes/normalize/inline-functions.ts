import { cloneNodes } from '../../graph/clone.js';
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { allGraphs, type FunctionDef, type Graph, type Model, Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { functionKey } from '../../graph/places.js';
import type { Tensor } from '../../graph/tensor.js';
import { weightOf } from './lift-constants.js';

/**
 * Replaces every call of a model-local function by the function's nodes, including calls in functions and in
 * subgraphs, so that gradients can pass through them. A weight in a function becomes one initializer that all of its
 * calls read, like that of a module that is called several times. Throws `invalid-model` for a function that calls
 * itself or imports another version of the default operator set. Returns whether there was any call.
 */
export function inlineFunctions(model: Model): boolean {
  if (!model.functions.length) return false;
  const table = new Map(model.functions.map(f => [functionKey(f), f]));
  checkSize(model, table);
  const names = Names.of(model);
  const lifted = new Set<FunctionDef>();
  let changed = false;
  const expand = (nodes: readonly Node[]): Node[] =>
    nodes.flatMap(node => {
      for (const sub of node.subgraphs()) sub.nodes = expand(sub.nodes);
      const def = table.get(functionKey({ domain: node.domain, name: node.opType, overload: node.overload }));
      if (!def) return [node];
      checkImports(model, def);
      if (!lifted.has(def)) liftWeights(model, def, `${node.name || node.opType}/`, names);
      lifted.add(def);
      changed = true;
      return expand(callBody(node, def, names, model.graph.initializers));
    });
  model.graph.nodes = expand(model.graph.nodes);
  model.functions = [];
  return changed;
}

/** The maximum number of nodes: functions that call others twice double it at each level. */
const MOST_NODES = 200_000;

/** Throws `invalid-model` if a function calls itself, or its calls would expand to too many nodes. */
function checkSize({ graph }: Model, table: ReadonlyMap<string, FunctionDef>): void {
  const sizes = new Map<FunctionDef, number>();
  const open = new Set<FunctionDef>();
  const sizeOf = (body: Graph): number => {
    let size = 0;
    for (const { nodes } of allGraphs(body))
      for (const node of nodes) {
        const def = table.get(
          functionKey({ domain: node.domain, name: node.opType, overload: node.overload }),
        );
        size += def ? sizeOfCall(def) : 1;
      }
    return size;
  };
  const sizeOfCall = (def: FunctionDef): number => {
    const known = sizes.get(def);
    if (known !== undefined) return known;
    if (open.has(def)) throw new AgdError('invalid-model', `Function '${def.name}' calls itself.`);
    open.add(def);
    const size = sizeOf(def.body);
    open.delete(def);
    sizes.set(def, size);
    return size;
  };
  const size = sizeOf(graph);
  if (size > MOST_NODES)
    throw new AgdError(
      'invalid-model',
      `The model's functions stand for ${size} nodes; at most ${MOST_NODES} can be handled.`,
    );
}

function checkImports(model: Model, def: FunctionDef): void {
  for (const [domain, version] of def.opsetImports) {
    const own = model.opsetImports.get(domain);
    if (own === undefined) model.opsetImports.set(domain, version);
    else if (own !== version)
      throw new AgdError(
        'invalid-model',
        `Function '${def.name}' imports version ${version} of operator set '${domain || 'ai.onnx'}', the model version ${own}.`,
      );
  }
}

/** Moves the weights of a function, including those of its subgraphs, to the initializers of the main graph. */
function liftWeights({ graph }: Model, { body }: FunctionDef, prefix: string, names: Names): void {
  const lift = (value: Value, tensor: Tensor) => {
    value.name = names.fresh(`${prefix}${value.name}`);
    value.type ??= { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
    graph.initializers.set(value, tensor);
  };
  for (const inner of allGraphs(body)) {
    // A subgraph must not return an outer value.
    const stays = (value: Value) => inner !== body && inner.outputs.includes(value);
    for (const [value, tensor] of inner.initializers) {
      if (!isFloat(tensor.dtype) || stays(value)) continue;
      lift(value, tensor);
      inner.initializers.delete(value);
    }
    inner.nodes = inner.nodes.filter(node => {
      const tensor = weightOf(node);
      const value = node.outputs[0]!;
      if (!tensor || stays(value)) return true;
      lift(value, tensor);
      return false;
    });
  }
}

/** The function's nodes, with the inputs and outputs of the call. */
function callBody(
  call: Node,
  def: FunctionDef,
  names: Names,
  weights: { has(value: Value): boolean },
): Node[] {
  const values = new Map<Value, Value>();
  const omitted = new Set<Value>();
  def.body.inputs.forEach((formal, i) => {
    const actual = call.inputs[i];
    if (actual) values.set(formal, actual);
    else omitted.add(formal);
  });
  const prefix = call.name || call.opType;
  const nodes = cloneNodes(def.body.nodes, {
    values,
    name: name => names.fresh(`${prefix}/${name}`),
    attr: attr =>
      attr.type === 'ref' ? (call.attrs.get(attr.value) ?? def.attributeDefaults.get(attr.value)) : attr,
  });
  const written = new Set(nodes.flatMap(n => n.outputs));
  const results = new Map<Value, Value>();
  const copies: Node[] = [];
  def.body.outputs.forEach((formal, i) => {
    const actual = call.outputs[i];
    const made = values.get(formal) ?? (weights.has(formal) ? formal : undefined);
    if (!actual || !made) return;
    // An output that is an input, or is returned twice, has no node that could write it under the caller's name.
    if (written.has(made) && !results.has(made)) results.set(made, actual);
    else copies.push(new Node('Identity', [results.get(made) ?? made], [actual]));
  });
  const resolve = (v: Value | null) => (v && omitted.has(v) ? null : v && (results.get(v) ?? v));
  for (const node of nodes) {
    node.inputs = node.inputs.map(resolve);
    node.outputs = node.outputs.map(resolve);
  }
  return [...nodes, ...copies];
}
