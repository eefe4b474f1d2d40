/** A command as a process that `supervise` watches. */
import { report } from './failure.js';
import { surviveOutput } from './output.js';
import { asksTypes, typesProcess } from './types.js';

surviveOutput();
if (process.send) {
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));
  process.channel?.unref();
}
const args = process.argv.slice(2);
if (asksTypes(args)) typesProcess();
try {
  await (await import('./program.js')).run(args);
} catch (error) {
  report(error);
}
