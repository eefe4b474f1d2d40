import { cachedHelp } from './cached-help.js';
import { surviveOutput } from './output.js';

surviveOutput();

/** The commands that run a model in the process that reads the arguments; `train` and `demo` have one for that. */
const SUPERVISED = new Set(['operators', 'grad', 'evaluate', 'predict']);

/** Those that only ask the runtime for types, as a rule. */
const TYPED = new Set(['inspect', 'inject']);

const args = process.argv.slice(2);
const help = cachedHelp(args, process.stdout.columns);
if (help !== undefined) process.stdout.write(help);
else {
  try {
    if (SUPERVISED.has(args[0] ?? '')) await (await import('./supervise.js')).supervise(args);
    else {
      if (TYPED.has(args[0] ?? '')) (await import('./types.js')).typesProcess();
      await (await import('./program.js')).run(args);
    }
  } catch (error) {
    const { abortLaunch, report } = await import('./failure.js');
    report(error);
    await abortLaunch();
  }
}
