import { isFloat } from '../../src/graph/dtype.js';
import { encodeModel } from '../../src/graph/proto.js';
import type { Tensor } from '../../src/graph/tensor.js';
import { gradientModel } from '../../src/passes/gradients.js';
import { type Feeds, Session, sessionShapes } from '../../src/runtime/session.js';
import { type Case, type Check, largestDifference, reference, section } from './case.js';

const TOLERANCE = 2e-3;

/** Compares the vector-Jacobian product of a model with the case's reference, input by input. */
export async function checkVjp({ model, tensors }: Case): Promise<Check[]> {
  const inputs = section(tensors, 'input:');
  const cotangents = section(tensors, 'cotangent:');
  const wrt = [...section(tensors, 'gradient:').keys()];
  const made = await gradientModel(model, { cotangents: [...cotangents.keys()], wrt }, sessionShapes);
  const session = await Session.create(encodeModel(made.model));
  const known = new Set(session.inputs);
  const feeds: Feeds = {};
  const feed = (name: string, tensor: Tensor) => {
    if (known.has(name)) feeds[name] = tensor;
  };
  for (const [name, tensor] of inputs) feed(name, tensor);
  for (const [output, input] of made.cotangents) feed(input, cotangents.get(output)!);
  const results = made.model.graph.outputs.length ? await session.run(feeds) : {};
  await session.release();
  return wrt.map(name => {
    const ref = reference(tensors, `gradient:${name}`);
    const out = made.gradients.get(name);
    const tensor = out ? results[out] : undefined;
    const got = tensor && isFloat(tensor.dtype) ? tensor.numbers() : inputs.get(name)!.numbers().fill(0);
    const allowed = TOLERANCE * Math.max(1, ...ref.want.map(Math.abs));
    return { what: `gradient of ${name}`, error: largestDifference(got, ref) / allowed };
  });
}
