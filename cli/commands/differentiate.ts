import { DERIVATIVE_OPTIONS, type DerivativeMode, types } from '../../src/command/startup.js';
import type { Arguments } from '../arguments.js';
import { checkOutputs } from '../files.js';
import type { Options } from '../flags.js';
import { print } from '../ui/terminal.js';

export const model = 'ONNX file';

export const options = {
  ...DERIVATIVE_OPTIONS,
  out: {
    ...{ group: 'Output', commands: [], stage: 'run' },
    type: types.text,
    alias: 'o',
    help: 'Model to write',
    shown: 'MODEL.grad.onnx',
  },
} satisfies Options;

export const examples = [
  ['differentiate model.onnx --of logits --wrt x --mode jacobian -o jacobian.onnx', ''],
] as const;

type Args = Arguments & { of?: string[]; wrt: string[]; mode?: DerivativeMode; out?: string };

export async function handler({ model: path, out: given, ...args }: Args): Promise<void> {
  const { differentiate, openModel, saveModel } = await import('../../src/internal.js');
  const out = given ?? path.replace(/(\.onnx)?$/, '.grad.onnx');
  checkOutputs([out], [path]);
  const { of, wrt, mode, loss, straightThrough, provider, dumpPasses } = args;
  const options = { of, wrt, mode, loss, straightThrough, provider, dumpPasses };
  const { model, directions, results, warnings } = await differentiate(await openModel(path), options);
  for (const text of warnings) print(`warning: ${text}`);
  for (const { of, input } of directions) print(`input   ${input}: direction of ${of}`);
  for (const { of, by, output } of results)
    print(`output  ${output}: of ${by === undefined ? of : `${of} by ${by}`}`);
  await saveModel(model, out);
  print(`wrote ${out}`);
}
