import type { TrainEvent } from '../src/internal.js';

type Event<T extends TrainEvent['type']> = Extract<TrainEvent, { type: T }>;

/** Numbers of a run after `step` steps of it, which count from 1 over all epochs. */
export type Scalars = { epoch: number; step: number; time: number; values: Map<string, number> };

/** The names of what has one: the losses, `lr` and the norm; others are metrics, as METRIC/validation or METRIC/train. */
export const LOSS = { train: 'loss/train', epoch: 'loss/train_epoch', validation: 'loss/validation' };

/** What a step or an epoch has told in numbers; nothing of other events. */
export function scalarsOf(event: TrainEvent, stepsPerEpoch: number): Scalars | undefined {
  if (event.type === 'step') {
    const { epoch, time, loss, lr, gradNorm, lossScale, skipped } = event;
    const values = present({
      ...{ [LOSS.train]: loss, lr, grad_norm: gradNorm, loss_scale: lossScale },
      // Most runs skip nothing.
      skipped: skipped || undefined,
    });
    return { epoch, step: (epoch - 1) * stepsPerEpoch + event.step, time, values };
  }
  if (event.type !== 'epoch') return undefined;
  const { epoch, time, trainLoss, validation, training } = event;
  const values = present({
    [LOSS.epoch]: trainLoss,
    [LOSS.validation]: validation?.loss,
    ...metricsOf(validation, 'validation'),
    ...metricsOf(training, 'train'),
  });
  return { epoch, step: epoch * stepsPerEpoch, time, values };
}

function metricsOf(evaluation: Event<'epoch'>['validation'], where: string): Record<string, number> {
  const entries = Object.entries(evaluation?.metrics ?? {}).filter(([name]) => name !== 'loss');
  return Object.fromEntries(entries.map(([name, value]) => [`${name}/${where}`, value]));
}

function present(values: Record<string, number | undefined>): Map<string, number> {
  return new Map(Object.entries(values).filter((entry): entry is [string, number] => entry[1] !== undefined));
}
