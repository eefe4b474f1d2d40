/** A command as a process that `supervise` watches. */
import { report } from './failure.js';
import { surviveOutput } from './output.js';
import { run } from './program.js';

surviveOutput();
if (process.send) {
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));
  process.channel?.unref();
}
try {
  await run(process.argv.slice(2));
} catch (error) {
  report(error);
}
