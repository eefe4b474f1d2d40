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
    super(message.replace(/\s*[\r\n]\s*/g, ' '), options);
  }
}
