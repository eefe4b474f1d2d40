import { basename } from 'node:path';
import { AgdError } from '../../src/graph/errors.js';
import type { Device } from '../../src/passes/options.js';
import { type Backward, type Check, loadCase } from './case.js';
import { checkRanks } from './ranks.js';
import { checkTraining } from './training.js';
import { checkVjp } from './vjp.js';

export type Result = {
  name: string;
  passed: boolean;
  checks: number;
  error: number;
  worst: string;
  reason?: string;
  operator?: string;
  backward?: Backward;
};

/** Loads a case and makes all of its checks, or with `ranks` those of training on several ranks; what stops it is the reason of its result. */
export async function runCase(folder: string, device?: Device, ranks?: number): Promise<Result> {
  const name = basename(folder);
  let operator: string | undefined;
  try {
    const c = await loadCase(folder, name);
    operator = c.info.op;
    if (ranks !== undefined && c.info.kind !== 'training')
      throw new AgdError('bad-option', '--ranks is for training cases.');
    const training = () => (ranks === undefined ? checkTraining(c, device) : checkRanks(c, ranks));
    const { checks, backward }: { checks: Check[]; backward?: Backward } =
      c.info.kind === 'training' ? { checks: await training() } : await checkVjp(c, device);
    const worst = checks.reduce((a, b) => (b.error > a.error ? b : a), { what: '', error: 0 });
    const passed = checks.length > 0 && worst.error <= 1;
    const shown = { checks: checks.length, error: worst.error, worst: worst.what };
    return { name, passed, ...shown, operator, backward };
  } catch (error) {
    const reason = error instanceof AgdError ? error.message : String((error as Error).stack ?? error);
    return { name, passed: false, checks: 0, error: Number.POSITIVE_INFINITY, worst: '', reason, operator };
  }
}
