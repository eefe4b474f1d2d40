import { ADAPT_OPTIONS, type AdaptOptions, types } from '../../src/command/startup.js';
import { checkOutputs } from '../files.js';
import type { Options } from '../flags.js';
import { formatNames } from '../ui/format.js';
import { print } from '../ui/terminal.js';

export const model = 'ONNX file';

export const options = {
  ...ADAPT_OPTIONS,
  out: {
    ...{ group: 'Output', commands: [], stage: 'run' },
    type: types.text,
    alias: 'o',
    help: 'Model to write',
    shown: 'MODEL.adapted.onnx',
  },
} satisfies Options;

export const examples = [
  ['adapt model.onnx --classes 5 -o model.adapted.onnx', 'a new last layer for 5 classes'],
] as const;

type Args = AdaptOptions & { model: string; out?: string };

export async function handler({ model: path, out: given, ...args }: Args): Promise<void> {
  const { adapt, openModel, saveModel } = await import('../../src/internal.js');
  const out = given ?? path.replace(/(\.onnx)?$/, '.adapted.onnx');
  checkOutputs([out], [path]);
  const names = [...Object.keys(ADAPT_OPTIONS), 'seed'] as (keyof AdaptOptions)[];
  const chosen: AdaptOptions = Object.fromEntries(names.map(name => [name, args[name]]));
  const { model, report } = await adapt(await openModel(path), chosen);
  const { embedding, heads, parameters, removed, outputs } = report;
  if (embedding)
    print(`embedding  ${embedding.name}: ${embedding.before} rows before, ${embedding.after} after`);
  for (const { name, operator, before, after } of heads)
    print(`head       ${name} (${operator}): ${before} outputs before, ${after} after`);
  print(`new        ${formatNames(parameters)}`);
  if (removed.length) print(`removed    ${removed.join(', ')}`);
  print(`outputs    ${outputs.map(v => `${v.name} ${v.type}`).join(', ')}`);
  await saveModel(model, out);
  print(`wrote ${out}`);
}
