import { cachedHelp } from './cached-help.js';
import { surviveOutput } from './output.js';

surviveOutput();

/** The commands that run a model in the process that reads the arguments; `train` and `demo` have one for that. */
const SUPERVISED = new Set(['operators', 'grad', 'evaluate', 'predict']);

const args = process.argv.slice(2);
const help = cachedHelp(args, process.stdout.columns);
if (help !== undefined) process.stdout.write(help);
else {
  try {
    const { nameLarge, supervise } = await import('./supervise.js');
    const { asksTypes, typesProcess } = await import('./types.js');
    const typed = asksTypes(args);
    if (SUPERVISED.has(args[0] ?? '') || (typed && (await nameLarge(args)))) await supervise(args);
    else {
      if (typed) typesProcess();
      await (await import('./program.js')).run(args);
    }
  } catch (error) {
    const { abortLaunch, report } = await import('./failure.js');
    report(error);
    await abortLaunch();
  }
}
