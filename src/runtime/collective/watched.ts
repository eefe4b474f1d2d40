/** Notices ranks that are lost, hung or slow: the other ranks would wait for them forever. */
import { AgdError } from '../../graph/errors.js';
import type { Collective } from './collective.js';

export type WatchOptions = {
  /** Seconds after which an operation counts as hung. */
  timeout: number;
  /** Called once for an operation that takes half as long; rank 0 only gets it in a run of several ranks. */
  warn?: (message: string) => void;
};

/** Seconds: timers of Node have 31 bits for milliseconds, and fire at once beyond. */
const LONGEST = 2 ** 31 / 1000 - 1;

/**
 * The collective with a watchdog: an operation that takes longer than the timeout aborts the run, and throws `collective`.
 * Engines learn of a killed process by themselves, but not of a stopped one, nor of a cable that is pulled.
 */
export function watched(collective: Collective, options: WatchOptions): Collective {
  const { rank, size, host } = collective;
  let failure: AgdError | undefined;

  async function watch<T>(operation: string, run: () => Promise<T>): Promise<T> {
    if (failure) throw failure;
    const { warn } = options;
    const timeout = Math.min(options.timeout, LONGEST);
    const waited = (seconds: number) => `has waited ${seconds} s for the other ranks in ${operation}`;
    const self = `rank ${rank} of ${size} (${host})`;
    const timers: NodeJS.Timeout[] = [];
    const late = new Promise<never>((_, reject) => {
      if (warn && rank === 0)
        timers.push(
          setTimeout(
            () => warn(`${self} ${waited(timeout / 2)}; the run ends after ${timeout} s`),
            (timeout / 2) * 1000,
          ),
        );
      const stop = () => {
        const reason = `${waited(timeout)}: one of them is lost, hung or unreachable. Resume from the last saved state, or set a longer --timeout`;
        failure = new AgdError('collective', `${self} ${reason}.`);
        reject(failure);
        collective.abort(reason);
      };
      timers.push(setTimeout(stop, timeout * 1000));
    });
    try {
      return await Promise.race([run(), late]);
    } finally {
      for (const timer of timers) clearTimeout(timer);
    }
  }

  return new Proxy(collective, {
    get(target, key) {
      const value = Reflect.get(target, key, target);
      if (typeof value !== 'function') return value;
      if (key === 'abort') return value.bind(target);
      // Engines close with this thread blocked, in which no timer fires.
      if (key === 'close')
        return async () => {
          await watch('close', () => target.barrier());
          await target.close(options.timeout);
        };
      return (...args: unknown[]) => watch(String(key), () => value.apply(target, args));
    },
  });
}
