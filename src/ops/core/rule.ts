import type { FloatDType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Node, Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import type { Builder } from './builder.js';
import type { Expr } from './expr.js';
import type { Provider } from './provider.js';

/**
 * Computes the cotangent of one input, once it is known to be needed; null if there is no gradient. `addTo` adds it to
 * the input's cotangent so far, for rules in which that is cheaper.
 */
export type Pullback = (() => Expr) | { addTo(sum: Expr | undefined): Expr } | null;

export type Operands = readonly (Expr | undefined)[];

/**
 * A vector-Jacobian product: from the cotangents of a node's outputs to one pullback per input. Undefined are omitted
 * optional inputs and outputs, and the cotangents of outputs that the loss does not depend on; a single output always
 * has a cotangent.
 */
export type Rule<I extends Operands = readonly Expr[], O extends Operands = readonly Expr[]> = (
  dys: O,
  node: NodeView<I>,
) => readonly Pullback[];

export type Unary = Rule<readonly [Expr], readonly [Expr]>;
export type Binary = Rule<readonly [Expr, Expr], readonly [Expr]>;

/** Expands an operator into others that have rules; the node is replaced before the backward pass is built. */
export type Expansion<I extends Operands = readonly Expr[]> = (
  node: NodeView<I>,
) => readonly (Expr | undefined)[];

/** The definition of an operator. Its kind follows from its fields: see the constructors below. */
export type OpDef =
  | { kind: 'rule'; rule: Rule<never, never> }
  | {
      kind: 'expansion';
      expand: Expansion<never>;
      straightThrough?: Rule<never, never>;
      /** Where a gradient is wanted for these inputs only, the node stays as it is and has this rule. */
      partial?: { inputs: readonly number[]; rule: Rule<never, never> };
      /** Whether the runtime has no kernel for this node on a provider, although it has one for the operator. */
      lacksKernel?: (node: Node, provider: Provider) => boolean;
    }
  /** The outputs are integers, booleans or shapes, or do not depend on the values of any input. */
  | { kind: 'none'; why: string }
  /** Constant almost everywhere: the gradient is zero, or passes straight through if the user requests it. */
  | { kind: 'zero'; why: string; straightThrough: Rule<never, never> };

/** Files of definitions by domain; an export's name is the operator's name. */
export type Families = Readonly<Record<string, readonly Record<string, unknown>[]>>;

/** `straightThrough` is the gradient to use if the user requests straight-through gradients. */
export const expansion = <I extends Operands>(
  expand: Expansion<I>,
  straightThrough?: Rule<never, never>,
  partial?: { inputs: readonly number[]; rule: Rule<I, readonly [Expr]> },
): OpDef => ({
  kind: 'expansion',
  expand: expand as never,
  straightThrough,
  partial: partial as never,
});

/** The same, for an operator of which the runtime does not compute all forms on every provider. */
export const expansionWithForms = <I extends Operands>(
  lacksKernel: (node: Node, provider: Provider) => boolean,
  expand: Expansion<I>,
): OpDef => ({ kind: 'expansion', expand: expand as never, lacksKernel });

/** Whether the rule for some of a node's inputs serves: a gradient is wanted for none of the others. */
export const hasPartialRule = (def: OpDef | undefined, needs: (input: number) => boolean, count: number) =>
  def?.kind === 'expansion' &&
  def.partial !== undefined &&
  range(0, count).every(i => !needs(i) || def.partial!.inputs.includes(i));
export const noGradient = (why: string): OpDef => ({ kind: 'none', why });
export const zeroGradient = (
  why: string,
  straightThrough: Rule<never, never> = ([dy]: readonly [Expr]) => [() => dy],
): OpDef => ({
  kind: 'zero',
  why,
  straightThrough,
});

/**
 * Differentiates the nodes that are in `g.graph` at the time of the call; rules for control flow use it to build the
 * body of their backward pass. Returns one cotangent per value of `wrt`, undefined if none arrives.
 */
export type Vjp = (
  g: Builder,
  cotangents: ReadonlyMap<Value, Expr>,
  wrt: readonly Value[],
) => readonly (Expr | undefined)[];

/** A node as rules see it: operands as expressions, attributes with their defaults. */
export class NodeView<I extends Operands = readonly Expr[]> {
  readonly inputs: I;
  readonly attrs: Attributes;

  constructor(
    readonly node: Node,
    readonly g: Builder,
    /** Version of the operator set that the model imports for the node's domain. */
    readonly opset: number,
    /** Outer values that the node's subgraphs read; their pullbacks follow those of the inputs. */
    readonly captures: readonly Value[] = [],
    /** Whether the gradient of an input (by position, captures after inputs) is needed. */
    readonly needs: (input: number) => boolean = () => true,
    readonly vjp: Vjp = () => [],
  ) {
    this.inputs = node.inputs.map(v => v && g.of(v)).map(e => e ?? undefined) as unknown as I;
    this.attrs = new Attributes(node);
  }

  /** The first output, or the output at `index`, which is added to the node if it was omitted. */
  output(index = 0, type = this.node.outputs[0]?.type): Expr {
    const { outputs } = this.node;
    const known = outputs[index];
    if (known) return this.g.of(known);
    const added = this.g.newValue(`${outputs[0]?.name ?? 'output'}_${index}`, type);
    this.node.setOutput(index, added);
    return this.g.of(added);
  }

  get outputs(): readonly Expr[] {
    return this.node.outputs.map((_, i) => this.output(i));
  }

  /** Whether the node has this optional output. */
  has(output: number): boolean {
    return !!this.node.outputs[output];
  }

  /** Throws `no-gradient`: for attributes or forms that are valid but not supported. */
  unsupported(what: string): never {
    throw new AgdError('no-gradient', `No gradient for ${this.node.label} with ${what}.`);
  }
}

/** Typed reading of a node's attributes. */
export class Attributes {
  constructor(private readonly node: Node) {}

  has(name: string): boolean {
    return this.node.attrs.has(name);
  }
  int(name: string, otherwise: number): number {
    const a = this.node.attrs.get(name);
    return a ? Number(this.#typed(name, a, 'int')) : otherwise;
  }
  float(name: string, otherwise: number): number {
    const a = this.node.attrs.get(name);
    return a ? this.#typed(name, a, 'float') : otherwise;
  }
  string(name: string, otherwise: string): string {
    const a = this.node.attrs.get(name);
    return a ? String(this.#typed(name, a, 'string')) : otherwise;
  }
  ints(name: string): number[] | undefined {
    const a = this.node.attrs.get(name);
    return a && this.#typed(name, a, 'ints').map(Number);
  }
  floats(name: string): number[] | undefined {
    const a = this.node.attrs.get(name);
    return a && this.#typed(name, a, 'floats');
  }
  strings(name: string): string[] | undefined {
    const a = this.node.attrs.get(name);
    return a && this.#typed(name, a, 'strings').map(String);
  }
  tensor(name: string): Tensor | undefined {
    const a = this.node.attrs.get(name);
    return a && this.#typed(name, a, 'tensor');
  }
  graph(name: string): Graph | undefined {
    const a = this.node.attrs.get(name);
    return a && this.#typed(name, a, 'graph');
  }

  #typed<T extends keyof AttrValues>(name: string, a: { type: string }, type: T): AttrValues[T] {
    if (a.type === type) return (a as unknown as { value: AttrValues[T] }).value;
    throw new AgdError(
      'invalid-model',
      `Attribute '${name}' of ${this.node.label} is of type ${a.type}, not ${type}.`,
    );
  }
}

type AttrValues = {
  int: number | bigint;
  float: number;
  string: string | Uint8Array;
  ints: (number | bigint)[];
  floats: number[];
  strings: (string | Uint8Array)[];
  tensor: Tensor;
  graph: Graph;
};

/** A nonnegative axis. */
export function normalizeAxis(axis: number, x: Expr): number {
  return axis < 0 ? axis + x.rank : axis;
}

export function normalizeAxes(axes: readonly number[], x: Expr): number[] {
  return axes.map(a => normalizeAxis(a, x));
}

/** The axes from `from` up to, but not including, `to`. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
}

/** A constant that keeps a division or a logarithm finite without affecting the result. */
export function tiny(dtype: FloatDType): number {
  return { float16: 6e-8, bfloat16: 1e-38, float32: 1e-38, float64: 1e-300 }[dtype];
}
