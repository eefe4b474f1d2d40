/**
 * The place of a tensor in a model: a name that is the same in file and graph. The name of its value is not enough, as
 * a function or a subgraph may have a tensor of the same name.
 */
import { constantOf } from './constants.js';
import type { Attr, Graph, Model, Node } from './ir.js';
import { sparseConstant, sparseInitializers } from './proto/sparse.js';
import type { Tensor } from './tensor.js';

/**
 * The names from the outside in, as JSON: '' or a function's key; for a subgraph the first output of its node and the
 * attribute; then the initializer, or the first output of the node and the attribute.
 */
export type Place = string;

export const placeOf = (path: readonly string[]): Place => JSON.stringify(path);

/** The description of the tensor at a place in messages. */
export const showPlace = (place: Place) => `'${(JSON.parse(place) as string[]).filter(Boolean).join('/')}'`;

export const functionKey = (f: { domain: string; name: string; overload: string }) =>
  `${f.domain}:${f.name}:${f.overload}`;

/** A tensor of a model. `name` is that of the value that it belongs to in its graph, if there is one. */
export type PlacedTensor = {
  place: Place;
  name?: string;
  tensor: Tensor;
  /** Replaces the tensor; only for places that are a whole tensor in the file. */
  replace?: (tensor: Tensor) => void;
};

/** All tensors of a model that a file can store, including those of functions, subgraphs and attributes. */
export function* tensorsOf(model: Model): Generator<PlacedTensor> {
  yield* inGraph(model.graph, ['']);
  for (const fn of model.functions) {
    const scope = [functionKey(fn)];
    for (const [name, attr] of fn.attributeDefaults)
      yield* inAttr(attr, [...scope, '', name], undefined, next => fn.attributeDefaults.set(name, next));
    yield* inGraph(fn.body, scope);
  }
}

function* inGraph(graph: Graph, scope: readonly string[]): Generator<PlacedTensor> {
  for (const [value, tensor] of graph.initializers)
    yield {
      place: placeOf([...scope, value.name]),
      name: value.name,
      tensor,
      replace: next => graph.initializers.set(value, next),
    };
  for (const { name, values } of sparseInitializers(graph))
    yield { place: placeOf([...scope, name, 'values']), tensor: values };
  for (const node of graph.nodes)
    if (node.attrs.size) for (const [key, attr] of node.attrs) yield* inNode(node, key, attr, scope);
}

function* inNode(node: Node, key: string, attr: Attr, scope: readonly string[]): Generator<PlacedTensor> {
  const output = node.outputs.find(o => o)?.name ?? '';
  const path = [...scope, output, key];
  const constant = constantOf(node);
  if (constant?.key === key && attr.type !== 'tensor')
    yield { place: placeOf(path), name: output, tensor: constant.tensor };
  const sparse = sparseConstant(node);
  if (sparse && key === 'sparse_value') yield { place: placeOf([...path, 'values']), tensor: sparse.values };
  const name = constant?.key === key ? output : undefined;
  yield* inAttr(attr, path, name, next => node.setAttr(key, next));
}

function* inAttr(
  attr: Attr,
  path: readonly string[],
  name: string | undefined,
  replace: (attr: Attr) => void,
): Generator<PlacedTensor> {
  if (attr.type === 'tensor')
    yield { place: placeOf(path), name, tensor: attr.value, replace: value => replace({ ...attr, value }) };
  else if (attr.type === 'tensors')
    for (const [i, tensor] of attr.value.entries())
      yield {
        place: placeOf([...path, `${i}`]),
        tensor,
        replace: next => replace({ ...attr, value: attr.value.with(i, next) }),
      };
  else if (attr.type === 'graph') yield* inGraph(attr.value, path);
  else if (attr.type === 'graphs')
    for (const [i, graph] of attr.value.entries()) yield* inGraph(graph, [...path, `${i}`]);
}
