import { AgdError } from '../graph/errors.js';
import type { Model } from '../graph/ir.js';
import { Tensor } from '../graph/tensor.js';
import { type GradientOptions, gradientModel } from '../passes/gradients.js';
import { checkRange } from './data/bind.js';
import { type Feeds, Session, type SessionOptions, shapesIn } from './session.js';

export type Gradients = { loss?: number; gradients: Map<string, Tensor> };

/**
 * Loss and gradients of one batch. `feeds` holds the model's inputs, the target where the loss takes one, and
 * for a vector-Jacobian product the cotangent of each output of `options.cotangents` as `<output>_cotangent`.
 * Gradients have their values' shapes and element types; where none arrives they are zeros. Throws `missing-data`,
 * `bad-shape` or `bad-dtype` for feeds that do not fit, `bad-data` for targets that the loss does not take.
 */
export async function gradients(
  model: Model,
  options: GradientOptions,
  feeds: Feeds,
  session: SessionOptions = {},
): Promise<Gradients> {
  const values = Object.fromEntries([...model.graph.initializers].map(([v, t]) => [v.name, t]));
  const made = await gradientModel(model, options, shapesIn({ ...values, ...feeds }));
  const { target } = made;
  if (target && feeds[target.name]) checkRange(target, feeds[target.name]!);
  const runner = await Session.create(made.model, session);
  try {
    const results = await runner.run(select(runner, feeds));
    const found = [...made.gradients].map(([name, out]): [string, Tensor] => {
      if (out) return [name, results[out]!];
      const like = values[name] ?? feeds[name]!;
      return [name, Tensor.zeros(like.dtype, like.dims)];
    });
    const loss = made.loss ? results[made.loss]!.numbers()[0]! : undefined;
    return { loss, gradients: new Map(found) };
  } finally {
    await runner.release();
  }
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
