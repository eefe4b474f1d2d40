/**
 * The stable codes of user errors, with their meaning and remedy: printed with the message, matched by callers, and
 * listed in docs/reference/errors.md.
 */
export const ERROR_CODES = {
  'not-onnx': ['The file is not an ONNX model, or it is damaged.', 'Export or download it again.'],
  'unsupported-version': [
    'The file is of a format version that this release does not read.',
    'Export it again in the version that the message names.',
  ],
  'unsupported-type': [
    'A tensor has a type that the file format or this operation does not support.',
    'Convert the tensor, or choose the format that the message names.',
  ],
  'unsupported-op': [
    'An operator, or this form of it, cannot be converted.',
    'Export the model with a newer operator set.',
  ],
  'no-gradient': [
    'An operator between a parameter and the loss has no gradient.',
    'Freeze what feeds it with `--freeze`, or define its gradient with `--extend`.',
  ],
  'no-kernel': [
    'ONNX Runtime has no kernel for an operator with these types on this device.',
    'Use `--device cpu`, or another element type.',
  ],
  'invalid-model': [
    'The model contradicts itself, or its training step is damaged.',
    'Export the model again, or inject the original again.',
  ],
  'external-data': [
    'A file that holds tensors of the model is missing, too short, or outside its folder.',
    'Put the data file beside the model.',
  ],
  'no-such-value': [
    'A name matches no input, output, parameter or inner value.',
    'Use one of the names in the message; `agd-onnx inspect` lists them.',
  ],
  'nothing-to-train': [
    'No parameter is left to train.',
    'Check `--train`, `--freeze` and what the loss reads.',
  ],
  'missing-data': [
    'An input of the model, or a parameter, has no array.',
    'Name the array with `--map INPUT=ARRAY`, or add it to the file.',
  ],
  'bad-data': ['The data cannot be read, or cannot be right.', 'Correct the array that the message names.'],
  'bad-shape': [
    'An array does not have the shape that is needed.',
    'Reshape the array that the message names.',
  ],
  'bad-dtype': [
    'An array does not have the element type that is needed.',
    'Convert the array that the message names.',
  ],
  'bad-option': [
    'An option is unknown, out of its range, or does not apply here.',
    'See `agd-onnx COMMAND --help-all`.',
  ],
  'bad-state': [
    'A saved training state does not fit the model, or is damaged.',
    'Resume from the state of the same model and options.',
  ],
  'non-finite': [
    'A loss, gradient or parameter became NaN or infinite.',
    'Lower the learning rate, clip gradients, or leave out such batches with `--on-nonfinite skip`.',
  ],
  device: [
    'The execution provider cannot be used: the message names what is missing.',
    'Install it as the message says, or use `--device cpu`.',
  ],
  'out-of-memory': [
    'The memory of the device is full.',
    'Use a smaller `--batch-size`, with `--accumulate` if updates are to stay the same, or `--memory`.',
  ],
  runtime: [
    'ONNX Runtime stopped with an error; the message is its own.',
    'Check the data and the operator that it names.',
  ],
  collective: [
    'The processes of a distributed run cannot exchange data.',
    'Check that all of them run, on machines that reach each other, with the MPI library of their launcher.',
  ],
  io: ['A file cannot be read or written.', 'Check the path, its permissions and the free space.'],
} as const satisfies Record<string, readonly [meaning: string, remedy: string]>;

export type ErrorCode = keyof typeof ERROR_CODES;

/**
 * An error that the user can fix: the message is one line that states what failed, where, what was found and what to
 * do. The CLI prints it and exits 1; any other exception is a bug of this project and keeps its stack.
 */
export class AgdError extends Error {
  override readonly name = 'AgdError';

  /** Longer advice, such as code to write, which the command line prints below the message. */
  declare readonly details?: string;

  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions & { details?: string },
  ) {
    // Quoted names may contain any characters.
    super(oneLine(message), options);
    if (options?.details !== undefined) this.details = options.details.split('\n').map(printable).join('\n');
  }
}

/** Control characters, line separators, and characters that change the direction of text. */
const STEERING = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;

/** Text that is safe to print on a terminal: control characters, which names in a file may contain, become `\ufffd`. */
export function printable(text: string): string {
  return text.replace(STEERING, '\ufffd');
}

/** Longer messages are cut in the middle, as names in a file can have any length. */
const LONGEST = 2000;

/** Text as one printable line of bounded length; line breaks become spaces. */
export function oneLine(text: string): string {
  const lines = text.split(/[\r\n]+/).map(line => line.trim());
  const line = printable(lines.join(' ').trim());
  return line.length > LONGEST ? `${line.slice(0, LONGEST - 500)} [...] ${line.slice(-490)}` : line;
}
