/** Runs an optimizer alone: parameters whose gradients are inputs. */
import { allGraphs, Graph, Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { Builder } from '../../../src/ops/core/builder.js';
import {
  type Optimizer,
  type OptimizerOptions,
  resolveOptions,
} from '../../../src/ops/optimizers/optimizer.js';
import { attachOptimizer } from '../../../src/passes/update/attach-optimizer.js';
import type { PlannedUpdate } from '../../../src/passes/update/update-parameters.js';
import { type Feeds, Session } from '../../../src/runtime/session.js';

export type Numbers = Record<string, readonly number[]>;
type Float = 'float32' | 'float64';

const ARRAYS = { float32: Float32Array, float64: Float64Array };
const tensor = (dtype: Float, values: readonly number[], dims: readonly number[] = [values.length]) =>
  Tensor.from(dtype, dims, ARRAYS[dtype].from(values));

export class OptimizerRun {
  private constructor(
    private readonly session: Session,
    private readonly updates: readonly { state: string; value: string }[],
    private readonly dtype: Float,
    private readonly shapes: Readonly<Record<string, readonly number[]>>,
    private state: Feeds,
    private readonly lr: number,
    /** Element types of all values. */
    readonly dtypes: ReadonlySet<string | undefined>,
    readonly opTypes: ReadonlySet<string>,
  ) {}

  /**
   * `own` are options of single parameters; `start` are the parameters by name, vectors unless `shapes` has theirs. The Hessian is diagonal: a coordinate's
   * gradient is what is fed, and `curvature` of its index times its value.
   */
  static async create<O extends OptimizerOptions>(
    optimizer: Optimizer<O>,
    given: Partial<O>,
    start: Numbers,
    {
      dtype = 'float32',
      step,
      own = {},
      shapes = {},
      curvature,
    }: {
      dtype?: Float;
      step?: PlannedUpdate;
      own?: Record<string, Partial<O>>;
      shapes?: Record<string, readonly number[]>;
      curvature?: (index: number) => number;
    } = {},
  ): Promise<OptimizerRun> {
    const options = resolveOptions(optimizer, given);
    const model = new Model(new Graph('update'));
    model.opsetImports = new Map([['', 18]]);
    const g = new Builder(model.graph, { names: Names.of(model), opsets: model.opsetImports });
    const parameters = Object.entries(start).map(([name, values]) => {
      const dims = shapes[name] ?? [values.length];
      const type = { kind: 'tensor', dtype, shape: dims } as const;
      const [param, grad] = [new Value(name, type), new Value(`${name}_grad`, type)];
      g.graph.inputs.push(grad);
      g.graph.initializers.set(param, tensor(dtype, values, dims));
      const bend =
        curvature &&
        g.tensor(
          tensor(
            dtype,
            values.map((_, i) => curvature(i)),
          ),
        );
      const whole = bend ? g.of(grad).add(g.of(param).mul(bend)) : g.of(grad);
      return { param, grad: whole, options: { ...options, ...own[name] } };
    });
    const { updates, lr } = attachOptimizer(g, optimizer, options.lr, parameters, step);
    const fed = new Set([lr, ...updates.map(u => u.state)]);
    const state: Feeds = {};
    for (const value of fed) {
      if (value !== lr) state[value.name] = g.graph.initializers.get(value)!;
      g.graph.initializers.delete(value);
    }
    const names = updates.map(u => ({ state: u.state.name, value: u.value.name }));
    const values = [...allGraphs(model.graph)].flatMap(graph => [
      ...graph.initializers.keys(),
      ...graph.nodes.flatMap(node => node.outputs),
    ]);
    const opTypes = new Set(model.graph.nodes.map(node => node.opType));
    const dtypes = new Set(values.map(v => v?.dtype));
    return new OptimizerRun(
      await Session.create(model),
      names,
      dtype,
      shapes,
      state,
      options.lr,
      dtypes,
      opTypes,
    );
  }

  async step(grads: Numbers, lr = this.lr): Promise<void> {
    const feeds: Feeds = { ...this.state, lr: tensor('float32', [lr]) };
    feeds.lr = Tensor.filled('float32', [], lr);
    for (const [name, values] of Object.entries(grads))
      feeds[`${name}_grad`] = tensor(this.dtype, values, this.shapes[name]);
    const results = await this.session.run(feeds);
    this.state = Object.fromEntries(this.updates.map(u => [u.state, results[u.value]!]));
  }

  /** The current value of a parameter or another state. */
  get(name: string): number[] {
    return this.state[name]!.numbers();
  }

  /** Takes over parameters and states from another run, those that this one has. */
  startFrom(other: OptimizerRun): void {
    this.state = Object.fromEntries(Object.keys(this.state).map(name => [name, other.state[name]!]));
  }

  /** Replaces the values of a float64 state or parameter. */
  set(name: string, values: readonly number[], dims = [values.length]): void {
    this.state[name] = tensor('float64', values, dims);
  }

  get stateNames(): string[] {
    return Object.keys(this.state);
  }

  release(): Promise<void> {
    return this.session.release();
  }
}
