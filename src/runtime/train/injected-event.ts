import type { InjectReport } from '../../passes/inject.js';
import type { InjectedEvent } from './events.js';

/** What an injection did, as plain data. */
export function injectedEvent({ parameters, ...report }: InjectReport): Omit<InjectedEvent, 'time'> {
  const plain = parameters.map(({ value: { name, dtype, shape }, trains, why }) => ({
    name,
    ...(dtype === undefined ? {} : { dtype }),
    ...(shape === undefined ? {} : { shape: [...shape] }),
    trains,
    why,
  }));
  return { type: 'injected', parameters: plain, ...report };
}
