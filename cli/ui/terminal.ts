import { styleText } from 'node:util';
import { printable } from '../../src/command/startup.js';

/** Colours a text, or leaves it as it is; characters in it that would steer the terminal are replaced. */
export type Paint = (style: Parameters<typeof styleText>[0], text: string) => string;

/** Colours for `stream`: off where it is no terminal, under NO_COLOR and TERM=dumb, or as `color` (--no-color) says. */
export function painter(stream: NodeJS.WriteStream, color?: boolean): Paint {
  const on = color ?? (stream.isTTY === true && stream.hasColors());
  // Whether to colour is decided above, for this stream; styleText would ask standard output.
  return (style, text) => {
    const safe = printable(text);
    return on ? styleText(style, safe, { validateStream: false }) : safe;
  };
}

/** Prints a line. Names in it may come from a file: characters that would steer the terminal are replaced. */
export function print(line: string): void {
  console.log(printable(line));
}

/** Prints a line of warning to standard error. */
export function warn(line: string): void {
  process.stderr.write(`agd-onnx: ${printable(line)}\n`);
}

/** Prints text that is made of painted parts, tables and our own words only. */
export function printPainted(text: string): void {
  console.log(text);
}

/** A value as JSON; control characters that JSON lets through are escaped. */
export function jsonText(value: unknown, indent?: number): string {
  const escaped = (c: string) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return JSON.stringify(value, undefined, indent).replace(/[\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g, escaped);
}

/** Prints a value as JSON. */
export function printJson(value: unknown): void {
  console.log(jsonText(value, 2));
}

/** Hides the cursor until the returned function is called, the process exits, or SIGINT or SIGTERM comes. */
export function hideCursor(stream: NodeJS.WriteStream): () => void {
  const signals = ['SIGINT', 'SIGTERM'] as const;
  const show = () => {
    process.off('exit', show);
    for (const signal of signals) process.off(signal, interrupt);
    stream.write('\x1b[?25h');
  };
  const interrupt = (signal: NodeJS.Signals) => {
    show();
    // To listen takes away the signal's own effect; where nobody else handles it, it is given back.
    if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
  };
  process.on('exit', show);
  for (const signal of signals) process.on(signal, interrupt);
  stream.write('\x1b[?25l');
  return show;
}
