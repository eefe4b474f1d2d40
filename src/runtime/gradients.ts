import { AgdError } from '../graph/errors.js';
import type { Model } from '../graph/ir.js';
import { record } from '../graph/record.js';
import { Tensor } from '../graph/tensor.js';
import { providerOf } from '../ops/core/provider.js';
import { singleValue } from '../passes/differentiate/train-batch-norm.js';
import { type GradientOptions, gradientModel } from '../passes/differentiate.js';
import { checkCounted, checkRange } from './data/targets.js';
import { withDevice } from './devices/choose.js';
import { asFeeds, type Feeds, Session, type SessionOptions, shapesIn } from './session.js';
import { firstNonFinite } from './train/finite.js';
import { verifyPackedBatch } from './train/verify-packing.js';

/** `warnings`: what is likely not meant as it was asked for, a line each. */
export type Gradients = { loss?: number; gradients: Map<string, Tensor>; warnings: string[] };

/**
 * Loss and gradients of one batch. `given` holds the model's inputs, the target where the loss takes one, and
 * for a vector-Jacobian product the cotangent of each output of `options.cotangents` as `<output>_cotangent`.
 * Gradients have their values' shapes and element types; where none arrives they are zeros. Throws `missing-data`,
 * `bad-shape` or `bad-dtype` for feeds that do not fit, `bad-data` for targets that the loss does not take and for a
 * batch without samples, `bad-option` with `pack` where documents of a row influence one another, `non-finite` where the loss
 * or a gradient is.
 */
export async function gradients(
  model: Model,
  options: GradientOptions,
  given: Feeds,
  run: SessionOptions = {},
): Promise<Gradients> {
  const session = await withDevice(run);
  let feeds = asFeeds(given);
  const arrays = Object.values(feeds).filter(t => t.dims.length);
  if (options.loss && arrays.length && arrays.every(t => t.dims[0] === 0))
    throw new AgdError('bad-data', 'The data has no samples.');
  const values = record(Object.fromEntries([...model.graph.initializers].map(([v, t]) => [v.name, t])));
  const made = await gradientModel(
    model,
    { provider: providerOf(session.device), ...options },
    shapesIn(() => feeds),
  );
  await verifyPackedBatch({ model, options }, feeds);
  feeds = withTarget(feeds, options, made.model);
  const { target } = made;
  const labels = target && feeds[target.name];
  if (labels) {
    checkRange(target, labels);
    checkCounted(target, labels, target.name);
  }
  const { axis, samples = 1, node = '' } = made.leastBatch ?? {};
  const batched = made.model.graph.inputs.filter(v => v.shape?.[0] === axis && feeds[v.name]);
  if (axis !== undefined && batched.some(v => feeds[v.name]!.dims[0]! < samples)) throw singleValue(node);
  const runner = await Session.create(made.model, session);
  try {
    const results = await runner.run(select(runner, feeds));
    const found = [...made.gradients].map(([name, out]): [string, Tensor] => {
      if (out) return [name, results[out]!];
      const like = values[name] ?? feeds[name]!;
      return [name, Tensor.zeros(like.dtype, like.dims)];
    });
    const loss = made.loss ? results[made.loss]!.numbers()[0]! : undefined;
    const result = { loss, gradients: new Map(found), warnings: made.warnings };
    checkFinite(result, made.loss, feeds, values);
    return result;
  } finally {
    await runner.release();
  }
}

/**
 * The feeds with the target under the name of its input, which has another than was asked for where a value of the model
 * has that; in training the array is found too.
 */
export function withTarget(feeds: Feeds, { loss }: GradientOptions, { graph }: Model): Feeds {
  const asked = loss?.target ?? 'target';
  const isTarget = (name: string) =>
    name.startsWith(`${asked}_`) && /^\d+$/.test(name.slice(asked.length + 1));
  const names = graph.inputs.map(v => v.name);
  const input = names.find(name => isTarget(name) && !feeds[name]);
  const array = feeds[asked];
  return input && array && !names.includes(asked) ? Object.assign(feeds, { [input]: array }) : feeds;
}

/** Throws where loss or a gradient is not finite, with the first of data, parameters and gradients that is not. */
function checkFinite({ loss, gradients }: Gradients, name: string | undefined, feeds: Feeds, values: Feeds) {
  const found = record(Object.fromEntries(gradients));
  const gradient = firstNonFinite(found);
  const isLoss = loss !== undefined && !Number.isFinite(loss);
  if (!isLoss && gradient === undefined) return;
  const own = Object.fromEntries(Object.entries(values).filter(([value]) => value in found));
  const [input, parameter] = [firstNonFinite(feeds), firstNonFinite(own)];
  const what = isLoss ? `Loss '${name}' is ${loss}` : `The gradient of '${gradient}' is not finite`;
  const cause =
    (input !== undefined && `: the data for '${input}' are not finite`) ||
    (parameter !== undefined && `: '${parameter}' is not finite`) ||
    (isLoss && gradient !== undefined && `: the gradient of '${gradient}' is not finite`) ||
    '';
  throw new AgdError('non-finite', `${what}${cause}.`);
}

/** What the session takes of `feeds`; inputs on which no gradient depends are not there any more. */
function select(session: Session, feeds: Feeds): Feeds {
  return Object.fromEntries(
    session.inputs.map(name => {
      const tensor = feeds[name];
      if (!tensor) {
        const given =
          Object.keys(feeds)
            .map(n => `'${n}'`)
            .join(', ') || 'nothing';
        throw new AgdError('missing-data', `Input '${name}' needs an array of that name; given: ${given}.`);
      }
      return [name, tensor];
    }),
  );
}
