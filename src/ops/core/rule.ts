import type { FloatDType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Node, Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import type { Builder } from './builder.js';
import type { Expr } from './expr.js';

/**
 * Makes the cotangent of one input, once it is known to be needed; null where there is no gradient. Where it is
 * cheaper to add it to what the input's cotangent is so far, `addTo` does that.
 */
export type Pullback = (() => Expr) | { addTo(sum: Expr | undefined): Expr } | null;

export type Operands = readonly (Expr | undefined)[];

/**
 * A vector-Jacobian product: from the cotangents of a node's outputs to one pullback per input. An omitted
 * optional input or output, and the cotangent of an output that nothing depends on, is undefined; a node
 * with a single output always has that output's cotangent.
 */
export type Rule<I extends Operands = readonly Expr[], O extends Operands = readonly Expr[]> = (
  dys: O,
  node: NodeView<I>,
) => readonly Pullback[];

export type Unary = Rule<readonly [Expr], readonly [Expr]>;
export type Binary = Rule<readonly [Expr, Expr], readonly [Expr]>;

/** Writes an operator as others that have rules; the node is replaced before the backward pass is made. */
export type Expansion<I extends Operands = readonly Expr[]> = (
  node: NodeView<I>,
) => readonly (Expr | undefined)[];

/** What is known of one operator. Which it is follows from its shape: see the constructors below. */
export type OpDef =
  | { kind: 'rule'; rule: Rule<never, never> }
  | { kind: 'expansion'; expand: Expansion<never>; straightThrough?: Rule<never, never> }
  /** Its outputs are integers, booleans or shapes, or do not depend on any input's values. */
  | { kind: 'none'; why: string }
  /** Constant almost everywhere: the gradient is zero, or passes straight through where a user asks for it. */
  | { kind: 'zero'; why: string; straightThrough: Rule<never, never> };

/** With `straightThrough`, another gradient where a user asks for those. */
export const expansion = <I extends Operands>(
  expand: Expansion<I>,
  straightThrough?: Rule<never, never>,
): OpDef => ({
  kind: 'expansion',
  expand: expand as never,
  straightThrough,
});
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
 * Differentiates the nodes that stand in `g.graph` when it is called: what rules for control flow are given
 * to make the body of their backward pass. One cotangent per value of `wrt`, undefined where none arrives.
 */
export type Vjp = (
  g: Builder,
  cotangents: ReadonlyMap<Value, Expr>,
  wrt: readonly Value[],
) => readonly (Expr | undefined)[];

/** A node as a rule sees it: its operands as expressions, its attributes with their defaults. */
export class NodeView<I extends Operands = readonly Expr[]> {
  readonly inputs: I;
  readonly attrs: Attributes;

  constructor(
    readonly node: Node,
    readonly g: Builder,
    /** Version of the operator set that the node's domain is imported with. */
    readonly opset: number,
    /** Outer values that the node's subgraphs read; their pullbacks follow those of the inputs. */
    readonly captures: readonly Value[] = [],
    /** Whether the gradient of an input (by position, captures after inputs) is wanted. */
    readonly needs: (input: number) => boolean = () => true,
    readonly vjp: Vjp = () => [],
  ) {
    this.inputs = node.inputs.map(v => v && g.of(v)).map(e => e ?? undefined) as unknown as I;
    this.attrs = new Attributes(node);
  }

  /** The first output, or the output at `index`, which is added to the node where it was omitted. */
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

  /** For attributes or forms that an operator's definition allows and we do not differentiate. */
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

/** An axis counted from the front. */
export function normalizeAxis(axis: number, x: Expr): number {
  return axis < 0 ? axis + x.rank : axis;
}

export function normalizeAxes(axes: readonly number[], x: Expr): number[] {
  return axes.map(a => normalizeAxis(a, x));
}

/** The axes from `from` up to, not including, `to`. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
}

/** The numerical constant that keeps a division or a logarithm finite without showing in the result. */
export function tiny(dtype: FloatDType): number {
  return { float16: 6e-8, bfloat16: 1e-38, float32: 1e-38, float64: 1e-300 }[dtype];
}
