import { cachedHelp } from './cached-help.js';
import { surviveOutput } from './output.js';

surviveOutput();

const args = process.argv.slice(2);
const help = cachedHelp(args, process.stdout.columns);
if (help !== undefined) process.stdout.write(help);
else {
  const { run } = await import('./program.js');
  try {
    await run(args);
  } catch (error) {
    const { report } = await import('./failure.js');
    report(error);
  }
}
