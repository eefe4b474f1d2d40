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
    void tell(`Cannot write to standard output: ${reason}.`);
  });
  process.stderr.on('error', () => {});
}

/** Loaded only here: help is instant. */
async function tell(message: string): Promise<void> {
  const [{ report }, { AgdError }] = await Promise.all([
    import('./failure.js'),
    import('../src/command/startup.js'),
  ]);
  report(new AgdError('io', message));
}
