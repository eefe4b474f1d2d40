/** Runs a command in a process of its own, so that a fault in the runtime's native code is told as any other failure. */
import { fork } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { getHeapStatistics } from 'node:v8';
import { typesProcess } from './types.js';

const WORK = fileURLToPath(new URL('work.js', import.meta.url));

/** Models of more bytes may need more memory than a process gets: injecting a graph takes up to some hundred times its file. */
const LARGE = getHeapStatistics().heap_size_limit / 1000;

async function isLarge(path: string): Promise<boolean> {
  const info = await stat(path).catch(() => undefined);
  return info !== undefined && info.size > LARGE;
}

/** Whether one of the arguments but the output is a large file, so that a process that reads them all would only start another one. */
export async function nameLarge(args: readonly string[]): Promise<boolean> {
  const given = args.filter((_, i) => !/^(-o|--out)$/.test(args[i - 1] ?? ''));
  return (await Promise.all(given.map(isLarge))).includes(true);
}

/** Runs this command in such a process where it `runs` a model, or `model` is large. Returns whether it did; not in that process. */
export async function supervisedWhere(runs: boolean, model: string): Promise<boolean> {
  if (process.argv[1] === WORK) return false;
  if (!runs && !(await isLarge(model))) return false;
  // That process has its own.
  typesProcess().kill('SIGKILL');
  await supervise(process.argv.slice(2));
  return true;
}

const STOPS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Runs a command in a process with this one's streams; this one ends as that does, or with a line where that crashes. */
export async function supervise(args: readonly string[]): Promise<void> {
  const child = fork(WORK, args, {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
  });
  const pass = (signal: NodeJS.Signals) => child.kill(signal);
  for (const signal of STOPS) process.on(signal, pass);
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (...how) => resolve(how));
  });
  for (const signal of STOPS) process.off(signal, pass);
  if (signal || code! > 255) {
    const { crashError, isFault } = await import('../src/command/startup.js');
    if (isFault(code, signal)) throw crashError(code, signal);
  }
  if (signal) process.kill(process.pid, signal);
  else process.exitCode = code ?? 1;
}
