import type { ArgumentsCamelCase, Argv } from 'yargs';
import { checkOutputs } from '../options.js';

export const builder = (args: Argv) =>
  args
    .positional('model', {
      type: 'string',
      demandOption: true,
      describe:
        'Injected ONNX file, as train --state keeps it; a folder of training artifacts; or any with --params',
    })
    .options({
      out: { alias: 'o', type: 'string', describe: 'Model to write [MODEL.trained.onnx]' },
      params: {
        type: 'string',
        describe: 'Take parameters from this file: .safetensors, .npz, checkpoint',
      },
      ema: { type: 'boolean', describe: 'Take the moving average of the weights' },
      'pytorch-state': {
        type: 'string',
        describe: "Write parameters and optimizer state in PyTorch's terms to this .safetensors file instead",
      },
    } as const)
    .conflicts('pytorch-state', ['out', 'params', 'ema'])
    .example('$0 export model.agd.onnx -o model.trained.onnx', 'the original file with its trained numbers');

type Args = ArgumentsCamelCase<{
  model: string;
  out?: string;
  params?: string;
  ema?: boolean;
  pytorchState?: string;
}>;

export async function handler(args: Args): Promise<void> {
  const { exportFrom, exportPytorchState, loadModel, loadParameters } = await import('../../src/index.js');
  const state = args.pytorchState;
  const out = state ?? args.out ?? args.model.replace(/(\.agd)?(\.onnx|\/)?$/, '.trained.onnx');
  checkOutputs([out], [args.model, args.params]);
  if (state !== undefined) await exportPytorchState(await loadModel(args.model), out);
  else {
    const values = args.params === undefined ? undefined : await loadParameters(args.params);
    await exportFrom(args.model, out, { values, ema: args.ema });
  }
  console.log(`wrote ${out}`);
}
