/** The stable names of what can go wrong by a user's doing; printed with the message, matched by callers. */
export type ErrorCode =
  | 'not-onnx'
  | 'unsupported-version'
  | 'unsupported-type'
  | 'unsupported-op'
  | 'no-gradient'
  | 'no-kernel'
  | 'invalid-model'
  | 'external-data'
  | 'no-such-value'
  | 'nothing-to-train'
  | 'missing-data'
  | 'bad-data'
  | 'bad-shape'
  | 'bad-dtype'
  | 'bad-option'
  | 'bad-state'
  | 'non-finite'
  | 'device'
  | 'runtime'
  | 'io';

/**
 * A mistake that the user can mend: the message is one line that says what failed, where, what was found
 * and what to do. The CLI prints it and exits 1; any other exception is a bug of ours and keeps its stack.
 */
export class AgdError extends Error {
  override readonly name = 'AgdError';

  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    // Names that are quoted may be anything.
    super(oneLine(message), options);
  }
}

/** Controls, separators of lines, and what reverses the order of letters. */
const STEERING = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;

/** Text that cannot steer a terminal: control characters, as a file's names may hold them, become `\ufffd`. */
export function printable(text: string): string {
  return text.replace(STEERING, '\ufffd');
}

/** Longer messages lose their middle: a name in a file has no limit. */
const LONGEST = 2000;

/** Text as one printable line of bounded length; line breaks become spaces. */
export function oneLine(text: string): string {
  const lines = text.split(/[\r\n]+/).map(line => line.trim());
  const line = printable(lines.join(' ').trim());
  return line.length > LONGEST ? `${line.slice(0, LONGEST - 500)} [...] ${line.slice(-490)}` : line;
}
