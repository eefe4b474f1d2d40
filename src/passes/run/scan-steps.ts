/** Runs several steps as one Scan, so that the state stays inside the runtime. */
import { cloneGraph } from '../../graph/clone.js';
import { type Dim, Graph, Model, Node, type Shape, Value, type ValueType } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { readDescription } from '../file/step-metadata.js';
import { hoistReshapes } from './hoist-reshapes.js';

/** Name of the leading axis of steps in batches. */
const STEPS = 'steps';

export type ScannedSteps = {
  model: Model;
  /** For states that show what a step did: the outputs with their value after each step. */
  stacked: ReadonlyMap<string, string>;
  /** Extents of states, where they differ from those in the model. */
  hoisted: ReadonlyMap<string, readonly number[]>;
};

/**
 * The training step of an injected model as the body of a Scan: one run does one step for each element of the batches'
 * new leading axis. State stays inside the runtime between steps; it is an input and an output of the run under the
 * same names as before, with the extents in `hoisted` if its update uses others. The loss output becomes the vector of
 * the steps' losses, and `stacked` names the outputs with telemetry, norms, skips and loss scale of each step; other outputs are removed.
 * The learning rate is the same for all steps of the run.
 */
export function scanSteps(
  model: Model,
  { steps = STEPS, hoist = true }: { steps?: Dim; hoist?: boolean } = {},
): ScannedSteps {
  const { lr, loss, telemetry, gradNorm, skipped, scaling } = readDescription(model);
  const updates = model.trainingInfo.flatMap(info => info.updates);
  const source = model.graph;
  const find = (values: readonly Value[], name: string) => values.find(v => v.name === name)!;
  const states = updates.map(u => find(source.inputs, u.state));
  const data = source.inputs.filter(v => v.name !== lr && !states.includes(v) && !source.initializers.has(v));

  const names = Names.of(model);
  const boundary = new Set([...states, ...data].map(v => v.name));
  for (const output of source.outputs) boundary.add(output.name);
  const step = Graph.view(source, { inputs: [...states, ...data], initializers: new Map() });
  step.name = names.fresh('step');
  const kept = [find(source.outputs, loss.name)];
  const shows = new Map<string, string>();
  const record = [telemetry?.name, gradNorm, skipped, scaling?.scale];
  for (const shown of updates.filter(u => record.includes(u.state))) {
    const now = find(source.outputs, shown.value);
    // A body must not output a value twice.
    const again = new Value(names.fresh(`${shown.state}_steps`), now.type);
    kept.push(again);
    step.append(new Node('Identity', [now], [again]));
    shows.set(shown.state, again.name);
  }
  for (const output of kept) boundary.add(output.name);
  step.outputs = [...updates.map(u => find(source.outputs, u.value)), ...kept];
  // Copied, as a value in two graphs would have the readers of both.
  const fed = source.inputs.filter(v => !data.includes(v) && !states.includes(v));
  const outside = [...fed, ...source.initializers.keys()].filter(v => !states.includes(v));
  const values = new Map(outside.map(v => [v, copyOf(v)]));
  const starts = new Map([...values, ...states.map(v => [v, copyOf(v)] as const)]);
  const own = (v: Value) => starts.get(v)!;
  const body = cloneGraph(step, {
    values,
    name: name => (boundary.has(name) ? names.fresh(`${name}_step`) : name),
  });

  const outer = new Graph(source.name);
  const batches = data.map(v => new Value(v.name, stacked(v.type, steps)));
  outer.initializers = new Map([...source.initializers].map(([v, tensor]) => [own(v), tensor]));
  outer.inputs = [...batches, ...states.map(own), ...fed.map(own)];
  outer.outputs = [
    ...updates.map((u, i) => new Value(u.value, states[i]!.type)),
    ...kept.map(v => new Value(v.name, stacked(v.type, steps))),
  ];
  const scan = new Node('Scan', [...states.map(own), ...batches], [...outer.outputs]);
  scan.name = names.fresh('steps');
  scan.setAttr('body', { type: 'graph', value: body });
  scan.setAttr('num_scan_inputs', { type: 'int', value: batches.length });
  outer.nodes = [scan];
  const hoisted = hoist ? hoistReshapes(outer, scan, body, states.length) : new Map<string, number[]>();

  const result = new Model(outer);
  return { model: Object.assign(result, model, { graph: outer }), stacked: shows, hoisted };
}

function copyOf({ name, type, extra }: Value): Value {
  return Object.assign(new Value(name, type), { extra });
}

function stacked(type: ValueType | undefined, steps: Dim): ValueType | undefined {
  if (type?.kind !== 'tensor') return type;
  const shape: Shape | undefined = type.shape && [steps, ...type.shape];
  return { ...type, shape };
}
