import type { ArgumentsCamelCase, Argv } from 'yargs';
import { outputPath } from '../options.js';

export const builder = (args: Argv) =>
  args
    .positional('model', {
      type: 'string',
      demandOption: true,
      describe: 'Injected ONNX file, as train --state keeps it',
    })
    .option('out', { alias: 'o', type: 'string', describe: 'Model to write [MODEL.trained.onnx]' })
    .example('$0 export model.agd.onnx -o model.trained.onnx', 'the original file with its trained numbers');

export async function handler(args: ArgumentsCamelCase<{ model: string; out?: string }>): Promise<void> {
  const { exportFile, loadModel } = await import('../../src/index.js');
  const out = outputPath(args.out ?? args.model.replace(/(\.agd)?(\.onnx)?$/, '.trained.onnx'), args.model);
  await exportFile(await loadModel(args.model), out);
  console.log(`wrote ${out}`);
}
