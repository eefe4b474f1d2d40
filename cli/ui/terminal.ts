import { styleText } from 'node:util';

/** Colours a text, or leaves it as it is. */
export type Paint = (style: Parameters<typeof styleText>[0], text: string) => string;

/** Colours for `stream`: off where it is no terminal, under NO_COLOR and TERM=dumb, or as `color` (--no-color) says. */
export function painter(stream: NodeJS.WriteStream, color?: boolean): Paint {
  const on = color ?? (stream.isTTY === true && stream.hasColors());
  // Whether to colour is decided above, for this stream; styleText would ask standard output.
  return (style, text) => (on ? styleText(style, text, { validateStream: false }) : text);
}

/** Text that cannot steer a terminal: control characters, as a file's names may hold them, become `\ufffd`. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, '\ufffd');
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
