/** A loss that a program writes as a function of expressions, which becomes a graph. */
import { type DType, dtypeCode, isHalf } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Graph, Model, Node, type Shape, Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, toAttrs } from '../../ops/core/builder.js';

const TARGETS = ['float32', 'float64', 'int64', 'int32', 'bool'] as const;

/** An operand: an expression, or a number, which takes the element type of the expression. */
export type LossOperand = LossExpression | number;
type Axes = number | readonly number[];

/** Declares a target, which the data feed by its name. An extent is a number, a name, or null if any fits. */
export type LossTargets = Readonly<
  Record<(typeof TARGETS)[number], (name: string, shape: Shape) => LossExpression>
>;

export type LossContext = {
  /** Outputs and inner values of the model, by name. Those of 16-bit outputs are float32. */
  outputs: Readonly<Record<string, LossExpression>>;
  targets: LossTargets;
  /** Any operator of ONNX, for which a list of numbers is an int64 vector, such as axes, and a number a float32 scalar. */
  op: (
    opType: string,
    inputs: readonly (LossOperand | readonly number[])[],
    attributes?: AttrInit,
  ) => LossExpression;
};

/** Returns the loss: a number, or one for each sample or position, of which the mean is taken. */
export type LossFunction = (context: LossContext) => LossExpression;

/** The nodes of a loss under construction. */
class Sheet {
  readonly graph = new Graph('loss');
  readonly #names = new Map<string, number>();

  fresh(hint: string): string {
    const times = this.#names.get(hint) ?? 0;
    this.#names.set(hint, times + 1);
    return times ? `${hint}_${times}` : hint;
  }

  constant(tensor: Tensor): Value {
    const value = new Value(this.fresh('constant'), {
      kind: 'tensor',
      dtype: tensor.dtype,
      shape: tensor.dims,
    });
    this.graph.initializers.set(value, tensor);
    return value;
  }

  node(opType: string, inputs: readonly Value[], text: string, attributes: AttrInit = {}): LossExpression {
    const value = new Value(this.fresh(opType.toLowerCase()));
    const node = new Node(opType, [...inputs], [value], toAttrs(attributes));
    // The runtime names the node in its errors.
    node.name = this.fresh(shorten(text));
    this.graph.append(node);
    return new LossExpression(this, value, text);
  }
}

/** A value of the loss, whose methods add nodes. Elementwise methods broadcast as in ONNX; reductions drop the axes. */
export class LossExpression {
  readonly #sheet: Sheet;
  readonly #value: Value;
  readonly #text: string;

  /** @internal */
  constructor(sheet: Sheet, value: Value, text: string) {
    this.#sheet = sheet;
    this.#value = value;
    this.#text = text;
  }

  /** The expression as it was written. */
  toString(): string {
    return this.#text;
  }

  add(b: LossOperand): LossExpression {
    return this.#binary('Add', 'add', b);
  }
  sub(b: LossOperand): LossExpression {
    return this.#binary('Sub', 'sub', b);
  }
  mul(b: LossOperand): LossExpression {
    return this.#binary('Mul', 'mul', b);
  }
  div(b: LossOperand): LossExpression {
    return this.#binary('Div', 'div', b);
  }
  pow(b: LossOperand): LossExpression {
    return this.#binary('Pow', 'pow', b);
  }
  /** The larger of the two, elementwise. */
  max(b: LossOperand): LossExpression {
    return this.#binary('Max', 'max', b);
  }
  /** The smaller of the two, elementwise. */
  min(b: LossOperand): LossExpression {
    return this.#binary('Min', 'min', b);
  }
  matmul(b: LossExpression): LossExpression {
    return this.#binary('MatMul', 'matmul', b);
  }
  equal(b: LossOperand): LossExpression {
    return this.#binary('Equal', 'equal', b);
  }
  greater(b: LossOperand): LossExpression {
    return this.#binary('Greater', 'greater', b);
  }
  less(b: LossOperand): LossExpression {
    return this.#binary('Less', 'less', b);
  }
  neg(): LossExpression {
    return this.#unary('Neg', 'neg');
  }
  abs(): LossExpression {
    return this.#unary('Abs', 'abs');
  }
  exp(): LossExpression {
    return this.#unary('Exp', 'exp');
  }
  log(): LossExpression {
    return this.#unary('Log', 'log');
  }
  sqrt(): LossExpression {
    return this.#unary('Sqrt', 'sqrt');
  }
  relu(): LossExpression {
    return this.#unary('Relu', 'relu');
  }
  sigmoid(): LossExpression {
    return this.#unary('Sigmoid', 'sigmoid');
  }
  tanh(): LossExpression {
    return this.#unary('Tanh', 'tanh');
  }
  not(): LossExpression {
    return this.#unary('Not', 'not');
  }
  softmax(axis = -1): LossExpression {
    return this.#unary('Softmax', 'softmax', { axis: this.#axes('softmax', axis)[0] });
  }
  logSoftmax(axis = -1): LossExpression {
    return this.#unary('LogSoftmax', 'logSoftmax', { axis: this.#axes('logSoftmax', axis)[0] });
  }
  /** Elementwise selection with this boolean as the condition. */
  where(yes: LossOperand, no: LossOperand): LossExpression {
    const like = [yes, no].find(x => x instanceof LossExpression);
    if (!(like instanceof LossExpression))
      throw this.#error('where', 'at least one of both values must be an expression');
    const [a, b] = [yes, no].map(x => this.#operand('where', x, like));
    return this.#sheet.node('Where', [this.#value, a!, b!], `${this}.where(${yes}, ${no})`);
  }
  /** Over all axes if none are given. */
  sum(axes?: Axes, options: { keepdims?: boolean } = {}): LossExpression {
    return this.#reduce('ReduceSum', 'sum', axes, options);
  }
  /** Over all axes if none are given. */
  mean(axes?: Axes, options: { keepdims?: boolean } = {}): LossExpression {
    return this.#reduce('ReduceMean', 'mean', axes, options);
  }
  /** Slices along an axis, by an expression of whole numbers. */
  gather(indices: LossExpression, axis = 0): LossExpression {
    const index = this.#operand('gather', indices);
    return this.#sheet.node('Gather', [this.#value, index], `${this}.gather(${indices}, ${axis})`, { axis });
  }
  /** Elements along an axis, by an expression of whole numbers with the same number of axes. */
  gatherElements(indices: LossExpression, axis = 0): LossExpression {
    const index = this.#operand('gatherElements', indices);
    const text = `${this}.gatherElements(${indices}, ${axis})`;
    return this.#sheet.node('GatherElements', [this.#value, index], text, { axis });
  }
  reshape(shape: readonly number[]): LossExpression {
    return this.#withInts('Reshape', 'reshape', shape);
  }
  unsqueeze(axes: Axes): LossExpression {
    return this.#withInts('Unsqueeze', 'unsqueeze', axes);
  }
  squeeze(axes: Axes): LossExpression {
    return this.#withInts('Squeeze', 'squeeze', axes);
  }
  /** Reverses the axes, or permutes them by `perm`. */
  transpose(perm?: readonly number[]): LossExpression {
    return this.#unary('Transpose', 'transpose', perm ? { perm: this.#axes('transpose', perm) } : {});
  }
  cast(dtype: (typeof TARGETS)[number]): LossExpression {
    if (!TARGETS.includes(dtype)) throw this.#error('cast', `expected ${TARGETS.join(', ')}, not '${dtype}'`);
    return this.#unary('Cast', 'cast', { to: dtypeCode(dtype) });
  }
  /** Any operator of ONNX with this as its first input. A list of numbers is an int64 vector, such as axes. */
  onnx(
    opType: string,
    inputs: readonly (LossOperand | readonly number[])[] = [],
    attributes: AttrInit = {},
  ): LossExpression {
    const all = [this.#value, ...inputs.map(x => this.#input(opType, x))];
    return this.#sheet.node(opType, all, `${this}.onnx('${opType}')`, attributes);
  }

  /** @internal The value, for the graph that has it. */
  static valueIn(sheet: object, e: LossExpression): Value | undefined {
    return e.#sheet === sheet ? e.#value : undefined;
  }

  #unary(opType: string, method: string, attributes: AttrInit = {}): LossExpression {
    return this.#sheet.node(opType, [this.#value], `${this}.${method}()`, attributes);
  }

  #binary(opType: string, method: string, b: LossOperand): LossExpression {
    return this.#sheet.node(opType, [this.#value, this.#operand(method, b)], `${this}.${method}(${b})`);
  }

  #reduce(opType: string, method: string, axes: Axes | undefined, { keepdims = false }): LossExpression {
    const over = axes === undefined ? [] : [this.#ints(this.#axes(method, axes))];
    const text = `${this}.${method}(${axes === undefined ? '' : `[${axes}]`})`;
    return this.#sheet.node(opType, [this.#value, ...over], text, { keepdims: keepdims ? 1 : 0 });
  }

  #withInts(opType: string, method: string, numbers: Axes): LossExpression {
    const list = this.#axes(method, numbers);
    return this.#sheet.node(opType, [this.#value, this.#ints(list)], `${this}.${method}([${list}])`);
  }

  #ints(values: readonly number[]): Value {
    return this.#sheet.constant(Tensor.ints(values));
  }

  #axes(method: string, axes: Axes): readonly number[] {
    const list = typeof axes === 'number' ? [axes] : axes;
    if (Array.isArray(list) && list.every(Number.isSafeInteger)) return list;
    throw this.#error(method, `expected whole numbers, not ${described(axes)}`);
  }

  #input(method: string, x: LossOperand | readonly number[]): Value {
    if (Array.isArray(x)) return this.#ints(this.#axes(method, x));
    return typeof x === 'number'
      ? this.#sheet.constant(Tensor.filled('float32', [], x))
      : this.#operand(method, x as LossOperand);
  }

  #operand(method: string, x: LossOperand, like: LossExpression = this): Value {
    if (typeof x === 'number') {
      const value = this.#sheet.constant(Tensor.filled('float32', [], x));
      const { node } = this.#sheet;
      return node.call(this.#sheet, 'CastLike', [value, like.#value], `${x}`).#value;
    }
    const value = x instanceof LossExpression ? LossExpression.valueIn(this.#sheet, x) : undefined;
    if (value) return value;
    throw this.#error(
      method,
      `expected an expression of this loss${x instanceof LossExpression ? ', not one of another' : ` or a number, not ${described(x)}`}`,
    );
  }

  #error(method: string, what: string): AgdError {
    return new AgdError('bad-option', `The loss: ${shorten(this.#text)}.${method}(): ${what}.`);
  }
}

const described = (x: unknown) => (typeof x === 'object' ? JSON.stringify(x) : String(x));

/** Texts of deep expressions end in what was written last. */
const shorten = (text: string) => (text.length <= 80 ? text : `…${text.slice(-79)}`);

/**
 * The graph of a loss, whose inputs are values of the model and targets, by name. Throws `no-such-value` for a value that the
 * model does not compute, `bad-option` for operands that are not expressions, and where the function does not return one.
 */
export function lossGraphOf(model: Model, write: LossFunction): Model {
  const sheet = new Sheet();
  const { graph } = sheet;
  const written = new Map([...graphValues(model)].map(v => [v.name, v]));
  const read = new Map<string, LossExpression>();
  const input = (name: string, type: Value['type'], text: string) => {
    const value = new Value(name, type);
    graph.inputs.push(value);
    return new LossExpression(sheet, value, text);
  };
  const output = (name: string): LossExpression => {
    const value = written.get(name);
    if (!value)
      throw new AgdError(
        'no-such-value',
        `The loss: outputs.${name}: the model has no such output; it has ${model.graph.outputs.map(v => `'${v.name}'`).join(', ')}.`,
      );
    const found = input(name, value.type, name);
    return isHalf(value.dtype) ? found.cast('float32') : found;
  };
  const outputs = new Proxy<Record<string, LossExpression>>(
    {},
    {
      get(_, name) {
        if (typeof name !== 'string') return undefined;
        const found = read.get(name) ?? output(name);
        read.set(name, found);
        return found;
      },
    },
  );
  const known = new Map<string, LossExpression>();
  const target = (dtype: DType) => (name: string, shape: Shape) => {
    if (typeof name !== 'string' || !Array.isArray(shape))
      throw new AgdError(
        'bad-option',
        `The loss: targets.${dtype}() takes a name and a shape, as targets.${dtype}('target', ['batch']).`,
      );
    const found = known.get(name) ?? input(name, { kind: 'tensor', dtype, shape }, name);
    known.set(name, found);
    return found;
  };
  const targets = Object.fromEntries(TARGETS.map(dtype => [dtype, target(dtype)])) as LossTargets;
  const op: LossContext['op'] = (opType, [first, ...others], attributes) => {
    const start =
      first instanceof LossExpression
        ? first
        : new LossExpression(
            sheet,
            sheet.constant(
              typeof first === 'number' ? Tensor.filled('float32', [], first) : Tensor.ints(first ?? []),
            ),
            `${first}`,
          );
    return start.onnx(opType, others, attributes);
  };
  const loss: unknown = write({ outputs, targets, op });
  const value = loss instanceof LossExpression ? LossExpression.valueIn(sheet, loss) : undefined;
  if (!value)
    throw new AgdError(
      'bad-option',
      `The loss: the function must return an expression, not ${described(loss)}.`,
    );
  if (!read.size)
    throw new AgdError(
      'bad-option',
      `The loss ${shorten(`${loss}`)} reads none of the outputs: ${model.graph.outputs.map(v => `'${v.name}'`).join(', ')}.`,
    );
  graph.append(new Node('Identity', [value], [new Value(sheet.fresh('value'))]));
  graph.outputs = [graph.nodes.at(-1)!.outputs[0]!];
  const made = new Model(graph);
  made.opsetImports = new Map([['', Math.max(18, model.opset)]]);
  return made;
}

function* graphValues({ graph }: Model): Iterable<Value> {
  for (const { outputs } of graph.nodes) for (const v of outputs) if (v) yield v;
  yield* graph.outputs;
}
