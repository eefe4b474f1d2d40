/** Errors of a stream that nobody reads any more: a pager that was left, `| head`, a terminal that was closed. */
const UNREAD = ['EPIPE', 'EIO', 'ERR_STREAM_DESTROYED', 'ECONNRESET'];

/**
 * Lets the program go on where its output cannot be written: what it makes are files. That nobody reads it is no failure;
 * all else is told once, with exit code 1.
 */
export function surviveOutput(): void {
  let told = false;
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (told || UNREAD.includes(error.code ?? '')) return;
    told = true;
    process.exitCode ??= 1;
    const reason = error.code === 'ENOSPC' ? 'no space left on device' : error.message;
    process.stderr.write(`agd-onnx: Cannot write to standard output: ${reason}.\n`);
  });
  process.stderr.on('error', () => {});
}
