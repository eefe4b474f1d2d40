import type { ArgumentsCamelCase, Argv } from 'yargs';
import { outputPath } from '../options.js';

export const builder = (args: Argv) =>
  args
    .positional('model', {
      type: 'string',
      demandOption: true,
      describe: 'Injected ONNX file, as train --state keeps it',
    })
    .options({
      out: { alias: 'o', type: 'string', describe: 'Model to write [MODEL.trained.onnx]' },
      ema: { type: 'boolean', describe: 'Take the moving average of the weights' },
      'pytorch-state': {
        type: 'string',
        describe: "Write parameters and optimizer state in PyTorch's terms to this .safetensors file instead",
      },
    } as const)
    .example('$0 export model.agd.onnx -o model.trained.onnx', 'the original file with its trained numbers');

type Args = ArgumentsCamelCase<{ model: string; out?: string; ema?: boolean; pytorchState?: string }>;

export async function handler(args: Args): Promise<void> {
  const { exportFile, exportPytorchState, loadModel } = await import('../../src/index.js');
  const model = await loadModel(args.model);
  const state = args.pytorchState;
  const out = state ?? args.out ?? args.model.replace(/(\.agd)?(\.onnx)?$/, '.trained.onnx');
  outputPath(out, args.model);
  if (state === undefined) await exportFile(model, out, { ema: args.ema });
  else await exportPytorchState(model, out);
  console.log(`wrote ${out}`);
}
