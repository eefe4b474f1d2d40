import { AgdError } from '../../graph/errors.js';
import { optimizerNamed } from '../../ops/optimizers/index.js';
import { ensure, resolveOptions } from '../../ops/optimizers/optimizer.js';
import { wrapped } from '../../ops/optimizers/wrappers/index.js';
import type { Facts } from '../common/context.js';
import type { InjectOptions } from '../options.js';

/** The optimizer with its options. Throws `bad-option` if one of them, or of the step's options, is invalid. */
export function resolveOptimizer(options: InjectOptions): Facts['optimizer'] {
  const { name = 'agd', ...given } = options.optimizer ?? {};
  const optimizer = wrapped(optimizerNamed(name), options);
  const settings = resolveOptions(optimizer, given);
  if (options.gradients && options.checkpointActivations !== undefined)
    throw new AgdError(
      'bad-option',
      'Activations can only be recomputed in a backward pass that inject writes: give a loss, not gradients.',
    );
  checkPrecision(options);
  ensure(
    options.stateRounding === undefined || options.stateBits !== undefined,
    'stateRounding is the rounding of quantized states: add stateBits.',
  );
  checkLazy(options, optimizer);
  checkSharpness(options, optimizer);
  return { name, optimizer, settings };
}

function checkPrecision({ precision, qat, dpSgd, gradients }: InjectOptions): void {
  const other = Object.entries({ qat, dpSgd, gradients }).find(([, value]) => value !== undefined)?.[0];
  ensure(precision === undefined || !other, `precision cannot be combined with ${other}: leave out one.`);
}

/** Throws `bad-option` if a second backward pass is combined with an option that it does not work with. */
function checkSharpness(
  options: InjectOptions,
  { name, diagonal }: { name: string; diagonal?: unknown },
): void {
  const { sam, wsam, dpSgd, unfreezeEvery, syncBatchNorm } = options;
  const own = sam ? 'sam' : wsam && 'wsam';
  if (!own) return;
  const rivals = { dpSgd, unfreezeEvery, syncBatchNorm: syncBatchNorm || undefined, [name]: diagonal };
  const all = own === 'sam' ? { ...rivals, wsam } : rivals;
  const other = Object.entries(all).find(([, value]) => value !== undefined)?.[0];
  ensure(!other, `${own} cannot be combined with ${other}: leave out one.`);
}

/** Throws `bad-option` if sparse updates are combined with an option that needs whole tables. */
function checkLazy(
  options: InjectOptions,
  { name, diagonal, point, totals }: Facts['optimizer']['optimizer'],
): void {
  if (!options.lazyRows?.length) return;
  const { gradients, accumulate = 1, ema, telemetry, cautious, stateBits, wsam, scheduleFree } = options;
  const whole = {
    ...{ gradients, ema, telemetry, stateBits, wsam, scheduleFree },
    accumulate: accumulate > 1 || undefined,
    cautious: cautious || undefined,
    [name]: diagonal ?? point ?? totals,
  };
  const other = Object.entries(whole).find(([, value]) => value !== undefined)?.[0];
  ensure(
    !other,
    `lazyRows changes only the rows of a batch, and ${other} takes whole tables: leave out one.`,
  );
}
