import { AgdError } from '../../src/command/startup.js';
import { completionScript, SHELLS, type Shell } from '../completion.js';
import { UsageError } from '../failure.js';
import type { Options } from '../flags.js';

export const model = 'bash, zsh or fish';

export const options = {} satisfies Options;

export const examples = [['completion bash', 'for ~/.bashrc: source <(agd-onnx completion bash)']] as const;

export async function handler({ model: shell }: { model?: string }): Promise<void> {
  if (shell === undefined) throw new UsageError('Name a shell: bash, zsh or fish.');
  if (!SHELLS.includes(shell as Shell))
    throw new AgdError(
      'bad-option',
      `There is no completion for '${shell}'; expected one of ${SHELLS.join(', ')}.`,
    );
  process.stdout.write(await completionScript(shell as Shell));
}
