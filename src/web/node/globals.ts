/** Globals of Node that the library refers to. */

export const process = {
  platform: 'browser',
  arch: 'wasm',
  argv: [] as string[],
  pid: 1,
  env: {} as Record<string, string | undefined>,
  execArgv: [] as string[],
  /** Nobody can tell: a page may take 4 GB. */
  availableMemory: () => 4 * 2 ** 30,
  memoryUsage: () => ({ rss: 0 }),
  /** Nothing runs beside the page. */
  kill(): never {
    throw Object.assign(new Error('ESRCH'), { code: 'ESRCH' });
  },
};

/** A task of its own, after those that are due. */
export function setImmediate(action: () => void): void {
  const { port1, port2 } = new MessageChannel();
  const run = () => {
    port1.close();
    action();
  };
  port1.addEventListener('message', run, { once: true });
  port1.start();
  port2.postMessage(undefined);
}
