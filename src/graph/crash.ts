/** Processes that a fault in native code ended. */
import { AgdError } from './errors.js';

const FAULTS = new Set<unknown>(['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP']);

/** Windows ends a process that faults with such a status. */
const FAULT_STATUS = 0xc0000000;

/** Whether a fault ended a process that exited so. */
export const isFault = (code: number | null, signal: NodeJS.Signals | null): boolean =>
  FAULTS.has(signal) || (code ?? 0) >= FAULT_STATUS;

/** What is to be said of a process that ended before its work was done. */
export function crashError(code: number | null, signal: NodeJS.Signals | null): AgdError {
  const how = signal ?? `exit code ${code}`;
  return new AgdError(
    'runtime',
    isFault(code, signal)
      ? `ONNX Runtime crashed (${how}): an operator meets an attribute or a number that its kernel does not check, such as a division by zero or a size out of range.`
      : signal === 'SIGKILL'
        ? 'The process was killed (SIGKILL), as systems do when memory runs out: try a smaller batch.'
        : `The process ended before its work was done (${how}).`,
  );
}
