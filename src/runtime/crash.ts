/** Crashes of child processes in native code. */
import { AgdError } from '../graph/errors.js';

const FAULTS = new Set<unknown>(['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP']);

/** Exit statuses of processes that crash on Windows start here. */
const FAULT_STATUS = 0xc0000000;

/** Whether a process with this exit status or signal crashed. */
export const isFault = (code: number | null, signal: NodeJS.Signals | null): boolean =>
  FAULTS.has(signal) || (code ?? 0) >= FAULT_STATUS;

/** V8 aborts too. */
const HEAP =
  ' If "JavaScript heap out of memory" stands above, the model needs more of it: NODE_OPTIONS=--max-old-space-size=16384 sets its limit in MB.';

/** The message for a process that ended before it finished its work. */
export function crashError(code: number | null, signal: NodeJS.Signals | null): AgdError {
  const how = signal ?? `exit code ${code}`;
  return new AgdError(
    'runtime',
    isFault(code, signal)
      ? `ONNX Runtime crashed (${how}): a kernel was given a value that it does not check, such as a divisor of zero or a size out of range.${signal === 'SIGABRT' ? HEAP : ''}`
      : signal === 'SIGKILL'
        ? 'The process was killed (SIGKILL), as systems do when memory runs out: try a smaller batch.'
        : `The process ended before its work was done (${how}).`,
  );
}
