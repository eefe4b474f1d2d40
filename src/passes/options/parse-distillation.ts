/** Reads what a model is to learn from a teacher, as users write it. */
import { AgdError } from '../../graph/errors.js';
import { unknownName } from '../../ops/core/option-type.js';
import { LOSS_NAMES, lossNamed } from '../../ops/losses/index.js';
import type { LossTerm } from '../options.js';
import { parseLoss } from './parse-loss.js';

/** A loss between an output of the model and one of the teacher. */
export type Distilled = Omit<LossTerm, 'target'> & { alpha?: number; teacherOutput?: string };

/**
 * `kl:T=2,alpha=0.5` or `mse:hidden=hidden_t,weight=0.1`, each KIND:NAME=VALUE,... : the options of the loss; alpha, its
 * share, of which the other losses have the rest (0.5 for kl if neither alpha nor weight is given); weight, its factor; and
 * any other NAME=VALUE is an output of the model and that of the teacher. Throws `bad-option`.
 */
export function parseDistillation(texts: readonly string[]): Distilled[] {
  return texts.map(text => {
    const [, kind, list = ''] = /^\s*([\w-]+)\s*(?::(.*))?$/s.exec(text) ?? [];
    if (kind === undefined)
      throw new AgdError('bad-option', `--distill: expected KIND:NAME=VALUE,..., not '${text}'.`);
    if (!(LOSS_NAMES as readonly string[]).includes(kind)) throw unknownName('loss', kind, LOSS_NAMES);
    if (lossNamed(kind).target !== 'values')
      throw new AgdError(
        'bad-option',
        `--distill: ${kind} does not compare values: use kl, mse, l1, huber or cosine.`,
      );
    const options: string[] = [];
    const found: { alpha?: number; weight?: number; output?: string; teacherOutput?: string } = {};
    for (const item of list.split(',').filter(part => part.trim())) {
      const [name = '', value = ''] = item.split('=').map(part => part.trim());
      if (name === '' || value === '')
        throw new AgdError('bad-option', `--distill: expected NAME=VALUE, not '${item}' in '${text}'.`);
      if (name === 'alpha' || name === 'weight') found[name] = numberIn(name, value, name === 'alpha');
      else if (OPTIONS.has(name)) options.push(item);
      else Object.assign(found, { output: name, teacherOutput: value });
    }
    const { plus: _, ...term } = parseLoss(`${kind}(${options.join(', ')})`) as LossTerm & { plus?: unknown };
    const isKl = kind === 'kl';
    return {
      ...term,
      ...(isKl ? { targetScores: true } : {}),
      ...(isKl && found.alpha === undefined && found.weight === undefined ? { alpha: 0.5 } : {}),
      ...found,
    };
  });
}

const OPTIONS = new Set(['T', 'temperature', 'mask', 'classAxis', 'class-axis']);

function numberIn(name: string, text: string, isShare: boolean): number {
  const value = Number(text);
  if (Number.isFinite(value) && (!isShare || (value >= 0 && value <= 1))) return value;
  throw new AgdError(
    'bad-option',
    `--distill: ${name} must be a number${isShare ? ' from 0 to 1' : ''}, not '${text}'.`,
  );
}
