import { isFloat } from '../../src/graph/dtype.js';
import { allGraphs, type Model, type Shape } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { gradientModel } from '../../src/passes/differentiate.js';
import type { Device } from '../../src/passes/options.js';
import { type Feeds, Session, shapesIn } from '../../src/runtime/session.js';
import { type Backward, type Case, type Check, largestDifference, reference, section } from './case.js';

const TOLERANCE = 2e-3;

/** Compares the vector-Jacobian product of a model with the case's reference, input by input. */
export async function checkVjp(
  { model, tensors }: Case,
  device?: Device,
): Promise<{ checks: Check[]; backward: Backward }> {
  const inputs = section(tensors, 'input:');
  const cotangents = section(tensors, 'cotangent:');
  const wrt = [...section(tensors, 'gradient:').keys()];
  const shapes = new Map(model.graph.inputs.map(v => [v.name, v.shape]));
  const feeds: Feeds = Object.fromEntries(
    [...inputs].map(([name, tensor]) => [name, asScalar(tensor, shapes.get(name))]),
  );
  const made = await gradientModel(
    model,
    { cotangents: [...cotangents.keys()], wrt },
    shapesIn(() => feeds),
  );
  for (const [output, input] of made.cotangents) feeds[input] = cotangents.get(output)!;
  // A model of which no gradient is defined has no outputs, and no session.
  const results = made.model.graph.outputs.length ? await run(made.model, feeds, device) : {};
  const had = countTypes(model);
  const emits = [...countTypes(made.model)].filter(([type, count]) => count > (had.get(type) ?? 0));
  const gradients = wrt.filter(name => made.gradients.get(name));
  const checks = wrt.map(name => {
    const ref = reference(tensors, `gradient:${name}`);
    const out = made.gradients.get(name);
    const tensor = out ? results[out] : undefined;
    const got = tensor && isFloat(tensor.dtype) ? tensor.numbers() : inputs.get(name)!.numbers().fill(0);
    const allowed = TOLERANCE * Math.max(1, ...ref.want.map(Math.abs));
    return { what: `gradient of ${name}`, error: largestDifference(got, ref) / allowed };
  });
  return { checks, backward: { gradients, emits: emits.map(([type]) => type).sort() } };
}

function countTypes(model: Model): Map<string, number> {
  const counts = new Map<string, number>();
  for (const graph of allGraphs(model.graph))
    for (const { opType } of graph.nodes) counts.set(opType, (counts.get(opType) ?? 0) + 1);
  return counts;
}

/** Runs the model on those of the tensors that it reads. */
async function run(model: Model, tensors: Feeds, device?: Device): Promise<Feeds> {
  const session = await Session.create(model, { device });
  const inputs = model.graph.inputs.filter(v => session.inputs.includes(v.name));
  const feeds = Object.fromEntries(inputs.map(v => [v.name, asScalar(tensors[v.name]!, v.shape)]));
  const results = await session.run(feeds);
  await session.release();
  return results;
}

/** The cases store scalars with one axis. */
function asScalar(t: Tensor, shape: Shape | undefined): Tensor {
  return shape?.length === 0 && t.size === 1 ? new Tensor(t.dtype, [], t.bytes) : t;
}
