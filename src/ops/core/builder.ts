import { characters } from '../../graph/bytes.js';
import type { DType } from '../../graph/dtype.js';
import {
  type Attr,
  Graph,
  type Int,
  NO_ATTRS,
  Node,
  numberOf,
  Value,
  type ValueType,
} from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { Expr } from './expr.js';
import { inferTypes, learnExtents } from './infer.js';
import type { Provider } from './provider.js';

/** Attributes as rules write them: whole numbers are ints, `float(x)` is a float. */
export type AttrInit = Record<string, Attr | Int | readonly number[] | string | Tensor | Graph | undefined>;

/** A float attribute; a bare number is an int. */
export const float = (value: number): Attr => ({ type: 'float', value });
export const floats = (value: readonly number[]): Attr => ({ type: 'floats', value: [...value] });

export type EmitOptions = {
  domain?: string;
  /** Number of outputs; 1 if not given. */
  outputs?: number;
  /** Base of the first output's name; the operator's name in lower case if not given. */
  hint?: string;
  /** Types of the outputs, if the rule knows more than inference. */
  types?: (ValueType | undefined)[];
};

/** State that all graphs of one model share while nodes are added. */
export type Scope = {
  names: Names;
  opsets: ReadonlyMap<string, number>;
  /** The execution provider to write nodes for; cpu if not given. */
  provider?: Provider;
  /** Set if batch normalization is to be the same on parts of a batch: what the ranks of a run exchange for that. */
  synchronized?: Synchronized;
};

/** Statistics of a batch and of its gradients. Each value is a copy of what a rank computes, and others read the copy. */
export type Synchronized = {
  /** By mean. `count` is a scalar, the number of values that mean and biased variance are over. */
  statistics: Map<Value, { count: Value; mean: Value; variance: Value }>;
  /** Values that are linear in the gradient of the loss, to be summed over the ranks. */
  sums: Set<Value>;
};

/** Random operators: equal nodes have different outputs. */
export const RANDOM: ReadonlySet<string> = new Set([
  'RandomNormal',
  'RandomNormalLike',
  'RandomUniform',
  'RandomUniformLike',
  'Bernoulli',
  'Multinomial',
  'Dropout',
]);

/**
 * Adds nodes to a graph. Equal nodes are emitted once, and constants, which become initializers of the outermost graph,
 * are shared across the model.
 */
export class Builder {
  /** Keyed by `#place`. */
  readonly #emitted = new Map<number, Node>();
  readonly #constants: Map<string, Value>;
  /** Results of `ints` and `scalar` by argument: constants are requested far more often than created. */
  readonly #numbers: Map<string, Value>;
  /** Values that are still named after their operator, by number: an object has to be given a hash first. */
  readonly #unnamed = new Set<number>();
  readonly #known: Map<Value, Tensor>;
  readonly #root: Builder;

  /** Receives nodes while a pass collects them: see `into`. */
  #sink: Node[] | undefined;

  constructor(
    readonly graph: Graph,
    readonly scope: Scope,
    readonly parent?: Builder,
  ) {
    this.#root = parent ? parent.#root : this;
    this.#constants = parent ? this.#root.#constants : new Map();
    this.#numbers = parent ? this.#root.#numbers : new Map();
    this.#known = new Map(parent ? parent.#known : []);
    for (const [value, tensor] of graph.initializers) this.#known.set(value, tensor);
    for (let i = 0; i < graph.nodes.length; i++) this.#learn(graph.nodes[i]!);
  }

  /** The execution provider whose kernels decide between equivalent nodes. */
  get provider(): Provider {
    return this.scope.provider ?? 'cpu';
  }

  /** A builder of a new subgraph, whose nodes may read all values that are visible here. */
  subgraph(hint: string): Builder {
    return new Builder(new Graph(this.scope.names.fresh(hint)), this.scope, this);
  }

  /** A value with a new name and no producer yet. */
  newValue(hint: string, type?: ValueType): Value {
    return new Value(this.scope.names.fresh(hint), type);
  }

  /** A new input of the graph. */
  input(hint: string, type?: ValueType): Expr {
    const value = this.newValue(hint, type);
    this.graph.inputs.push(value);
    return this.of(value);
  }

  of(value: Value): Expr {
    return new Expr(value, this);
  }

  /** The tensor of a value, if it is an initializer or the output of a Constant node. */
  constant(value: Value): Tensor | undefined {
    return this.#known.get(value) ?? this.parent?.constant(value);
  }

  /** The producer of a value, in this graph or among the nodes being collected. */
  writer(value: Value): Node | undefined {
    if (value.producer?.graph === this.graph) return value.producer;
    const unlinked = this.#sink ?? (this.graph.isView ? this.graph.nodes : undefined);
    return unlinked?.findLast(node => node.outputs.includes(value));
  }

  /** Runs `emit` and appends the nodes that it adds to `nodes`, from which a pass inserts them into the graph. */
  into<T>(nodes: Node[], emit: () => T): T {
    const before = this.#sink;
    this.#sink = nodes;
    try {
      return emit();
    } finally {
      this.#sink = before;
    }
  }

  #add(node: Node): void {
    if (this.#sink) this.#sink.push(node);
    else this.graph.append(node);
  }

  /**
   * Marks values that change between runs (parameters, state): they are not constants, even if they have initializers.
   */
  forget(values: readonly Value[]): void {
    for (let b: Builder | undefined = this; b; b = b.parent)
      for (const value of values) b.#known.delete(value);
  }

  /** Version of an operator set in this model; 1 if the model does not import it. */
  opset(domain = ''): number {
    return this.scope.opsets.get(domain) ?? 1;
  }

  /** Gives an existing value a second name: `to` becomes the output of an Identity of `from`. */
  identity(from: Value, to: Value): void {
    this.#add(new Node('Identity', [from], [to]));
  }

  /**
   * Gives a value a descriptive name if a node of this graph writes it and it has no such name yet; otherwise names a
   * copy of it.
   */
  rename(e: Expr, hint: string): Value {
    const { value } = e;
    if (this.#unnamed.delete(numberOf(value))) {
      value.name = this.scope.names.fresh(hint);
      return value;
    }
    const copy = this.newValue(hint, value.type);
    this.identity(value, copy);
    return copy;
  }

  /**
   * Replaces the value `old` by an expression. If a node of this graph writes the expression and it has no descriptive
   * name yet, it takes the name of `old`; otherwise `old` becomes a copy of it. Returns the value to read instead of
   * `old`.
   */
  replace(old: Value, { value }: Expr): Value {
    if (this.#unnamed.delete(numberOf(value))) {
      value.name = old.name;
      return value;
    }
    this.identity(value, old);
    return old;
  }

  /** Adds nodes created elsewhere, such as copies of another graph's. */
  adopt(nodes: readonly Node[]): void {
    for (const node of nodes) {
      this.#add(node);
      this.#learn(node);
    }
  }

  /** An initializer with these contents; equal ones are shared. */
  tensor(tensor: Tensor, hint = 'const'): Expr {
    const key = `${tensor.dtype}[${tensor.dims}]${characters(tensor.bytes)}`;
    let value = this.#constants.get(key);
    if (!value) {
      value = new Value(this.scope.names.fresh(hint), {
        kind: 'tensor',
        dtype: tensor.dtype,
        shape: tensor.dims,
      });
      this.#constants.set(key, value);
      this.#root.graph.initializers.set(value, tensor);
      this.#root.#known.set(value, tensor);
    }
    this.#known.set(value, tensor);
    return this.of(value);
  }

  ints(values: readonly number[]): Expr {
    return this.#number(`${values}`, () =>
      this.tensor(Tensor.ints(values), `ints_${values.join('_').slice(0, 24).replaceAll('-', 'm')}`),
    );
  }

  /** An int64 vector concatenated from numbers and vectors; a constant if all of them are known. */
  vector(parts: readonly (number | Expr)[]): Expr {
    const known = parts.map(p => (typeof p === 'number' ? [p] : p.constant));
    if (known.every(p => p !== undefined)) return this.ints(known.flat());
    const [first, ...rest] = parts.map(p => (typeof p === 'number' ? this.ints([p]) : p));
    return first!.concat(rest, 0);
  }

  /** A scalar of any floating-point, integer or bool type. */
  scalar(value: number, dtype: DType): Expr {
    const key = `${dtype} ${Object.is(value, -0) ? '-0' : value}`;
    return this.#number(key, () =>
      this.tensor(Tensor.filled(dtype, [], value), `${dtype}_${String(value).replace(/[^\w]/g, 'm')}`),
    );
  }

  #number(key: string, make: () => Expr): Expr {
    let value = this.#numbers.get(key);
    if (!value) {
      value = make().value;
      this.#numbers.set(key, value);
    }
    return this.of(value);
  }

  /** Adds one node and returns its outputs. If an equal node exists, returns the outputs of that. */
  emit(
    opType: string,
    inputs: readonly (Expr | undefined)[],
    attrs: AttrInit = {},
    options: EmitOptions = {},
  ): Expr[] {
    const values = inputs.map(readFrom);
    while (values.length && !values[values.length - 1]) values.pop();
    const node = new Node(opType, values, [], toAttrs(attrs));
    node.domain = options.domain ?? '';
    const count = options.outputs ?? 1;
    const shared = isShareable(node);
    const place = shared ? this.#place(node, count) : 0;
    const known = shared ? this.#emitted.get(place) : undefined;
    if (known) return known.outputs.map(v => this.of(v!));
    const types = options.types ?? inferTypes(node, inputs);
    const hint = options.hint ?? opType.toLowerCase();
    const make = (i: number) => {
      const value = this.newValue(i ? `${hint}_${i}` : hint, types[i]);
      this.#unnamed.add(numberOf(value));
      return value;
    };
    node.outputs = count === 1 ? [make(0)] : Array.from({ length: count }, (_, i) => make(i));
    learnExtents(node, inputs);
    this.#add(node);
    this.#learn(node);
    if (shared) this.#emitted.set(place, node);
    return node.outputs.map(v => this.of(v!));
  }

  #learn(node: Node): void {
    if (node.opType !== 'Constant') return;
    const value = node.domain === '' ? node.attrs.get('value') : undefined;
    if (value?.type === 'tensor') this.#known.set(node.outputs[0]!, value.value);
    const ints = node.attrs.get('value_ints');
    if (ints?.type === 'ints') this.#known.set(node.outputs[0]!, Tensor.ints(ints.value));
    const int = node.attrs.get('value_int');
    if (int?.type === 'int') this.#known.set(node.outputs[0]!, Tensor.filled('int64', [], Number(int.value)));
  }

  /** The position of an equal node with this number of outputs among the emitted nodes, or where it would be. */
  #place(node: Node, outputs: number): number {
    const { opType, inputs } = node;
    let place = Math.imul(outputs, 31) + hashOf(opType);
    for (let i = 0; i < inputs.length; i++) {
      const value = inputs[i];
      place = Math.imul(place ^ (value ? numberOf(value) : -1), 0x9e3779b1);
    }
    for (place |= 0; ; place = (place + 1) | 0) {
      const other = this.#emitted.get(place);
      if (!other || (other.outputs.length === outputs && areEqual(node, other))) return place;
    }
  }
}

const readFrom = (e: Expr | undefined) => e?.value ?? null;

const HASHES = new Map<string, number>();

/** Computed once: there are few operators. */
function hashOf(opType: string): number {
  let hash = HASHES.get(opType);
  if (hash === undefined) {
    hash = 0;
    for (let i = 0; i < opType.length; i++) hash = Math.imul(hash, 31) + opType.charCodeAt(i);
    HASHES.set(opType, hash);
  }
  return hash;
}

/** Whether an equal node has the same outputs, and equality can be tested. */
function isShareable({ opType, attrs }: Node): boolean {
  if (RANDOM.has(opType)) return false;
  if (!attrs.size) return true;
  for (const attr of attrs.values())
    if (attr.type === 'graph' || attr.type === 'tensor' || !('value' in attr)) return false;
  return true;
}

/** Whether two nodes apply the same operation to the same values. */
function areEqual(a: Node, b: Node): boolean {
  if (a.opType !== b.opType || a.domain !== b.domain || a.attrs.size !== b.attrs.size) return false;
  if (a.inputs.length !== b.inputs.length || a.inputs.some((value, i) => value !== b.inputs[i])) return false;
  for (const [name, attr] of a.attrs) {
    const other = b.attrs.get(name);
    if (attr.type !== other?.type || `${contentOf(attr)}` !== `${contentOf(other)}`) return false;
  }
  return true;
}

const contentOf = (attr: Attr) => ('value' in attr ? attr.value : undefined);

export function toAttrs(init: AttrInit): ReadonlyMap<string, Attr> {
  let attrs: Map<string, Attr> | undefined;
  for (const name in init) {
    const value = init[name];
    if (value === undefined) continue;
    attrs ??= new Map();
    attrs.set(name, toAttr(value));
  }
  return attrs ?? NO_ATTRS;
}

function toAttr(value: NonNullable<AttrInit[string]>): Attr {
  if (typeof value === 'number' || typeof value === 'bigint') return { type: 'int', value };
  if (typeof value === 'string') return { type: 'string', value };
  if (Array.isArray(value)) return { type: 'ints', value: [...(value as number[])] };
  if (value instanceof Tensor) return { type: 'tensor', value };
  if (value instanceof Graph) return { type: 'graph', value };
  return value as Attr;
}
