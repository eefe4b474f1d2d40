/** What is different between two models: which tensors moved, by how much, and how the graphs differ. */
import { equalBytes } from './bytes.js';
import { byteLength, type DType } from './dtype.js';
import { type Attr, allGraphs, type Graph, type Model, type Node, showShape, type Value } from './ir.js';
import { functionKey, type Place, type PlacedTensor, tensorsOf } from './places.js';
import { Tensor } from './tensor.js';

export type TensorType = { dtype: DType; shape: readonly number[] };

/** A tensor whose values differ; of texts only `changed` is known. Numbers are NaN or infinite where values are. */
export type MovedTensor = TensorType & {
  name: string;
  elements: number;
  /** Elements with another value. */
  changed: number;
  /** ||b - a|| / ||a||, 2-norms. */
  relative?: number;
  /** Largest absolute difference of an element. */
  maxAbs?: number;
  /** Cosine of the angle between the two, as vectors. */
  cosine?: number;
};

export type Differences<T> = {
  added: (T & { name: string })[];
  removed: (T & { name: string })[];
  changed: { name: string; from: T; to: T }[];
};

export type ModelDiff = {
  /** Tensors with other values, those that moved most first. */
  moved: MovedTensor[];
  /** Number of tensors with the same values. */
  unchanged: number;
  /** Tensors that only one of the models has, or that have another type. */
  tensors: Differences<TensorType>;
  /** Nodes by their first output, those of subgraphs and functions too; changed: operator, inputs, outputs or attributes. */
  nodes: Differences<{ operator: string }>;
  inputs: Differences<{ type: string }>;
  outputs: Differences<{ type: string }>;
  opsets: Differences<{ version: number }>;
};

/** Compares models tensor by tensor and node by node; names say what belongs together. */
export function diffModels(a: Model, b: Model): ModelDiff {
  const { pairs, removed, added } = pairTensors(a, b);
  const moved: MovedTensor[] = [];
  const retyped: ModelDiff['tensors']['changed'] = [];
  let unchanged = 0;
  for (const { name, one, other } of pairs) {
    const [from, to] = [typeOf(one), typeOf(other)];
    if (showTensor(from) !== showTensor(to)) retyped.push({ name, from, to });
    else {
      const movement = compareTensors(one, other);
      if (movement) moved.push({ name, ...from, elements: one.size, ...movement });
      else unchanged++;
    }
  }
  return {
    moved: moved.sort((x, y) => rank(y) - rank(x)),
    unchanged,
    tensors: { added, removed, changed: retyped },
    nodes: differences(
      nodesOf(a),
      nodesOf(b),
      ({ operator }) => ({ operator }),
      ({ key }) => key,
    ),
    inputs: differences(dataInputs(a), dataInputs(b), typeText, ({ type }) => type),
    outputs: differences(valuesOf(a.graph.outputs), valuesOf(b.graph.outputs), typeText, ({ type }) => type),
    opsets: differences(
      opsetsOf(a),
      opsetsOf(b),
      ({ version }) => ({ version }),
      ({ version }) => `${version}`,
    ),
  };
}

/** Whether nothing is different. */
export function isSameModel({ moved, unchanged: _, ...others }: ModelDiff): boolean {
  return (
    !moved.length &&
    Object.values(others).every(d => !d.added.length && !d.removed.length && !d.changed.length)
  );
}

/** Values that are no numbers come first. */
const rank = ({ relative = Infinity }: MovedTensor) => (Number.isNaN(relative) ? Infinity : relative);

const typeOf = ({ dtype, dims }: Tensor): TensorType => ({ dtype, shape: [...dims] });
const showTensor = ({ dtype, shape }: TensorType) => `${dtype}[${shape}]`;

type Pair = { name: string; one: Tensor; other: Tensor };
type Named = TensorType & { name: string };

/** By place; what is left, such as a constant that became an initializer, by the name of its value. */
function pairTensors(a: Model, b: Model): { pairs: Pair[]; removed: Named[]; added: Named[] } {
  const [before, after] = [a, b].map(model => new Map([...tensorsOf(model)].map(t => [t.place, t])));
  const pairs: Pair[] = [];
  const left: [Place, PlacedTensor][] = [];
  for (const [place, one] of before!) {
    const other = after!.get(place);
    if (!other) left.push([place, one]);
    else pairs.push({ name: nameOf(one), one: one.tensor, other: other.tensor });
    after!.delete(place);
  }
  const byName = new Map(
    [...after!.values()].flatMap(t => (t.name === undefined ? [] : [[t.name, t] as const])),
  );
  const removed: Named[] = [];
  for (const [, one] of left) {
    const other = one.name === undefined ? undefined : byName.get(one.name);
    if (other) {
      pairs.push({ name: nameOf(one), one: one.tensor, other: other.tensor });
      after!.delete(other.place);
      byName.delete(one.name!);
    } else removed.push({ name: nameOf(one), ...typeOf(one.tensor) });
  }
  const added = [...after!.values()].map(t => ({ name: nameOf(t), ...typeOf(t.tensor) }));
  return { pairs, removed, added };
}

const nameOf = ({ place, name }: PlacedTensor) => {
  const path = (JSON.parse(place) as string[]).filter(Boolean);
  return name !== undefined && path.length <= 2 ? name : path.join('/');
};

/** Elements that are compared at a time: an even number, as two of four bits share a byte. */
const CHUNK = 2 ** 20;

/** Undefined where the bytes are the same. */
function compareTensors(
  a: Tensor,
  b: Tensor,
): Omit<MovedTensor, 'name' | 'elements' | keyof TensorType> | undefined {
  if (a.strings || b.strings) {
    const changed = (a.strings ?? []).filter((text, i) => !equalBytes(text, b.strings![i]!)).length;
    return changed ? { changed } : undefined;
  }
  const [one, other] = [a.bytes, b.bytes];
  if (equalBytes(one, other)) return undefined;
  let [changed, maxAbs, squares, ofA, ofB, dot] = [0, 0, 0, 0, 0, 0];
  const step = byteLength(a.dtype, CHUNK);
  for (let at = 0, left = a.size; left > 0; at += step, left -= CHUNK) {
    const part = (bytes: Uint8Array) =>
      new Tensor(a.dtype, [Math.min(CHUNK, left)], bytes.subarray(at, at + step)).floats();
    const [x, y] = [part(one), part(other)];
    for (let i = 0; i < x.length; i++) {
      const [p, q] = [x[i]!, y[i]!];
      ofA += p * p;
      ofB += q * q;
      dot += p * q;
      if (Object.is(p, q)) continue;
      changed++;
      const difference = p === q ? 0 : Math.abs(q - p);
      squares += difference * difference;
      if (!(difference <= maxAbs)) maxAbs = difference;
    }
  }
  const norm = Math.sqrt(ofA);
  const distance = Math.sqrt(squares);
  return {
    changed,
    relative: distance === 0 ? 0 : distance / norm,
    maxAbs,
    cosine: dot / (norm * Math.sqrt(ofB)),
  };
}

function differences<S extends { name: string }, T>(
  a: readonly S[],
  b: readonly S[],
  shown: (item: S) => T,
  key: (item: S) => string,
): Differences<T> {
  const [before, after] = [a, b].map(items => new Map(items.map(item => [item.name, item])));
  const named = (item: S) => ({ ...shown(item), name: item.name });
  return {
    added: [...after!.values()].filter(({ name }) => !before!.has(name)).map(named),
    removed: [...before!.values()].filter(({ name }) => !after!.has(name)).map(named),
    changed: [...before!.values()].flatMap(from => {
      const to = after!.get(from.name);
      return to && key(to) !== key(from) ? [{ name: from.name, from: shown(from), to: shown(to) }] : [];
    }),
  };
}

function nodesOf({ graph, functions }: Model) {
  const scopes: [string, Graph][] = [
    ...[...allGraphs(graph)].map((g): [string, Graph] => ['', g]),
    ...functions.flatMap(f => [...allGraphs(f.body)].map((g): [string, Graph] => [`${functionKey(f)}/`, g])),
  ];
  return scopes.flatMap(([scope, g]) =>
    g.nodes.map(node => ({
      name: `${scope}${node.outputs.find(o => o)?.name ?? node.name}`,
      operator: node.domain ? `${node.domain}.${node.opType}` : node.opType,
      key: nodeKey(node),
    })),
  );
}

/** Tensors and graphs among the attributes are compared where they are listed. */
const nodeKey = ({ domain, opType, inputs, outputs, attrs }: Node) =>
  JSON.stringify([
    domain,
    opType,
    inputs.map(v => v?.name ?? ''),
    outputs.map(v => v?.name ?? ''),
    [...attrs].map(([name, attr]) => [name, attributeKey(attr)]).sort(),
  ]);

const APART: readonly Attr['type'][] = ['tensor', 'tensors', 'graph', 'graphs'];

const attributeKey = (attr: Attr) =>
  APART.includes(attr.type)
    ? attr.type
    : JSON.stringify(attr, (key, value) =>
        key === 'extra'
          ? undefined
          : typeof value === 'bigint'
            ? `${value}`
            : ArrayBuffer.isView(value)
              ? [...(value as Uint8Array)]
              : value,
      );

/** Inputs without a default. */
const dataInputs = ({ graph }: Model) => valuesOf(graph.inputs.filter(v => !graph.initializers.has(v)));

const valuesOf = (values: readonly Value[]) =>
  values.map(({ name, dtype, shape }) => ({
    name,
    type: `${dtype ?? '?'}${shape ? showShape(shape) : ''}`,
  }));

const typeText = ({ type }: { type: string }) => ({ type });

const opsetsOf = ({ opsetImports }: Model) =>
  [...opsetImports].map(([domain, version]) => ({ name: domain || 'ai.onnx', version }));
