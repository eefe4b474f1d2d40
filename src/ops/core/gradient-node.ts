import { AgdError } from '../../graph/errors.js';
import { Node, type Shape, Value, type ValueType } from '../../graph/ir.js';
import { type AttrInit, type Builder, toAttrs } from './builder.js';
import type { Expr } from './expr.js';
import { NodeView, type Operands, type Rule } from './rule.js';

/** What a node of a complete training graph can look up in it. */
export type Surroundings = {
  writers: ReadonlyMap<Value, Node>;
  values: ReadonlyMap<string, Value>;
};

/** Converts an operator of a training graph to standard operators; outputs without readers may be omitted. */
export type Lowering<I extends Operands = readonly Expr[]> = (
  node: GradientNode<I>,
) => readonly (Expr | undefined)[];

/** The forward node whose rule is applied, if it is not in the graph itself. */
export type Primal = {
  opType?: string;
  inputs: Operands;
  outputs?: Operands;
  attrs?: AttrInit;
};

/** A node of a training graph, with access to the forward pass that it belongs to. */
export class GradientNode<I extends Operands = readonly Expr[]> extends NodeView<I> {
  constructor(
    node: Node,
    g: Builder,
    private readonly surroundings: Surroundings,
  ) {
    super(node, g, g.opset(node.domain));
  }

  /** The producer of an input. */
  writer(input: number): Node | undefined {
    const value = this.node.inputs[input];
    return value ? this.surroundings.writers.get(value) : undefined;
  }

  /** The value that an output is the gradient of, by name: `x` for `x_grad` and for terms of its sum. */
  primal(output = 0): Expr | undefined {
    const base = this.node.outputs[output]?.name.match(/^(.+)_grad(_\w*)?$/)?.[1];
    const value = base === undefined ? undefined : this.surroundings.values.get(base);
    return value && this.g.of(value);
  }

  /** A placeholder with the extents in an int64 vector and the type of `like`; its elements are arbitrary. */
  shapedBy(input: number, like: Expr): Expr {
    const shape = this.inputs[input]!;
    const writer = this.writer(input);
    if (writer?.opType === 'Shape' && writer.attrs.size === 0) return this.g.of(writer.inputs[0]!);
    const known = shape.constant;
    const rank = shape.extent(0);
    if (!known && typeof rank !== 'number') return this.unsupported('a shape of unknown length');
    const type = (dims: Shape): ValueType => ({ kind: 'tensor', dtype: like.dtype, shape: dims });
    // If all extents are known, rules need nothing else, so the value needs no producer.
    if (known) return this.g.of(new Value('shape', type(known)));
    const zero = this.g.scalar(0, like.dtype);
    return zero.op('Expand', [shape], {}, { types: [type(Array(rank).fill(null))] });
  }

  override unsupported(what: string): never {
    throw new AgdError(
      'unsupported-op',
      `Cannot write ${this.node.label} in standard operators, with ${what}.`,
    );
  }

  /** The cotangents of a forward operator's inputs, each computed on demand; the node need not be in the graph. */
  pullbacks<F extends Operands, O extends Operands>(
    rule: Rule<F, O>,
    dys: O,
    { opType = this.node.opType, inputs, outputs = [], attrs }: Primal,
  ): readonly (() => Expr | undefined)[] {
    const values = (list: Operands) => list.map(e => e?.value ?? null);
    const own = attrs ? toAttrs(attrs) : this.node.attrs;
    const forward = new Node(opType, values(inputs), values(outputs), own);
    if (!outputs.length && dys[0]) forward.outputs = [new Value('y', dys[0].type)];
    const pullbacks = rule(dys, new NodeView(forward, this.g, this.g.opset()) as never);
    return pullbacks.map(p => () => (typeof p === 'function' ? p() : p?.addTo(undefined)));
  }

  /**
   * The cotangents for this node's outputs, which are in the order of the forward node's inputs; only those in use are
   * computed.
   */
  byRule<F extends Operands, O extends Operands>(
    rule: Rule<F, O>,
    dys: O,
    primal: Primal,
  ): (Expr | undefined)[] {
    const pullbacks = this.pullbacks(rule, dys, primal);
    return this.node.outputs.map((v, i) => (v ? pullbacks[i]?.() : undefined));
  }
}

export const lowering = <I extends Operands>(lower: Lowering<I>): Lowering => lower as unknown as Lowering;
