/** Why a loss or an update is not finite, as an error that says what to try. */
import { AgdError } from '../../graph/errors.js';
import { singleValue } from '../../passes/differentiate/train-batch-norm.js';
import type { TrainingDescription } from '../../passes/file/description.js';
import type { Feeds } from '../session.js';
import { firstNonFinite, LAST_GOOD } from './finite.js';

export function nonFinite(what: string, advice = 'try a smaller --lr'): AgdError {
  return new AgdError('non-finite', `${what}. The state is ${LAST_GOOD}; ${advice}.`);
}

/** All that the next step depends on: what only shows may be more than its element type holds. */
export function deciding({ telemetry, gradNorm }: TrainingDescription, state: Feeds): Feeds {
  const shown = [telemetry?.name, gradNorm];
  return Object.fromEntries(Object.entries(state).filter(([name]) => !shown.includes(name)));
}

/** The cause of a loss that is not finite: the data, what the run began with, or the step's own arithmetic. */
export function diverged(
  description: TrainingDescription,
  loss: number,
  step: number,
  batch: Feeds,
  state: Feeds,
): AgdError {
  const at = `is ${loss} at step ${step}`;
  const input = firstNonFinite(batch);
  if (input) return nonFinite(`Loss ${at}: the data for '${input}' are not finite`);
  const { loss: spec } = description;
  const ignored = 'ignoreIndex' in spec ? spec.ignoreIndex : undefined;
  if (ignored !== undefined && batch[spec.target!]!.numbers().every(label => label === ignored))
    return new AgdError(
      'non-finite',
      `Loss ${at}: all targets of the batch are ${ignored}, which is ignored. Use larger batches, or leave out such ` +
        'batches with --on-nonfinite skip.',
    );
  const broken = firstNonFinite(deciding(description, state));
  if (broken) return nonFinite(`Loss ${at}: '${broken}' is not finite`);
  const isHalf = description.precision === 'fp16';
  const advice = isHalf ? `try a smaller --lr, or a wider type: --precision bf16 or fp32` : undefined;
  return nonFinite(`Loss '${spec.name}' ${at}`, advice);
}

/** The error for the update of `step`, the last of `steps` in a run, that made `name` of the state non-finite. */
export function brokenBy(
  { statistics }: TrainingDescription,
  step: number,
  steps: number,
  name: string,
  state: Feeds,
): AgdError {
  if (steps === 1 && statistics.includes(name) && state[name]!.numbers().every(Number.isNaN))
    return singleValue(`the batch normalization of '${name}'`);
  return nonFinite(`The update of step ${step} made '${name}' non-finite`);
}

/** With scales below it, gradients that float16 holds would round to zero: the overflow is not one of the scale. */
const LEAST_SCALE = 2 ** -24;
const WIDER = 'try --precision bf16 or fp32';

/** Throws `non-finite` where gradients overflow whatever the loss scale is. */
export function checkScale({ scaling }: TrainingDescription, next: Feeds): void {
  const scale = scaling?.stops ? next[scaling.scale]!.numbers()[0]! : 1;
  if (scale < LEAST_SCALE)
    throw nonFinite(`Gradients overflow float16 at any loss scale, down to ${scale}`, WIDER);
}
