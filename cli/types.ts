/** The process that tells types: see `typesApart`. */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

let started: ChildProcess | undefined;

/** The commands that only ask the runtime for types, as a rule. */
const TYPED = new Set(['inspect', 'inject']);

export const asksTypes = ([command = '']: readonly string[]) => TYPED.has(command);

/** Starts it, once, to load the runtime beside what this process does. It ends with this one. */
export function typesProcess(): ChildProcess {
  if (started) return started;
  const child = fork(fileURLToPath(new URL('types-process.js', import.meta.url)), {
    serialization: 'advanced',
    // Held streams would outlive this process.
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  });
  child.unref();
  child.channel?.unref();
  process.once('exit', () => child.kill('SIGKILL'));
  started = child;
  return child;
}
