import { types } from '../../src/command/startup.js';
import type { Options } from '../flags.js';
import { print, printJson } from '../ui/terminal.js';

export const model = 'ONNX file, or one in the format of ONNX Runtime (.ort)';

const OUTPUT = { group: 'Output', commands: [], stage: 'run' } as const;

export const options = {
  out: {
    ...OUTPUT,
    type: types.text,
    alias: 'o',
    help: 'File to write, a configuration for --include_ops_by_config of a build',
    shown: 'printed',
    conflicts: ['json'],
  },
  types: {
    ...OUTPUT,
    type: types.flag,
    help: 'Add the element types of each operator, for builds with --enable_reduced_operator_type_support',
  },
  json: { ...OUTPUT, type: types.flag, help: 'Print JSON', conflicts: ['types'] },
} satisfies Options;

export const examples = [
  ['operators model.agd.onnx -o required_operators.config', 'what a minimal build has to contain'],
] as const;

type Args = { model: string; out?: string; types?: boolean; json?: boolean };

export async function handler({ model: path, out, types: withTypes, json }: Args): Promise<void> {
  const { modelFile, operatorConfig, requiredOperators, writeFileAtomic } = await import(
    '../../src/internal.js'
  );
  const found = await requiredOperators(await modelFile(path));
  if (json) return printJson(found);
  const lines = operatorConfig(found, withTypes);
  if (out !== undefined) return writeFileAtomic(out, [Buffer.from(`${lines.join('\n')}\n`)]);
  for (const line of lines) print(line);
}
