import { existsSync } from 'node:fs';
import type { ArgumentsCamelCase, Argv } from 'yargs';
import { checkOutputs } from '../options.js';
import { print } from '../ui/terminal.js';

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
      'ort-checkpoint': {
        type: 'string',
        describe: "Write parameters and AdamW's state as a checkpoint of ONNX Runtime's training instead",
      },
    } as const)
    .conflicts({
      'pytorch-state': ['out', 'params', 'ema', 'ort-checkpoint'],
      'ort-checkpoint': ['out', 'params', 'ema'],
    })
    .example('$0 export model.agd.onnx -o model.trained.onnx', 'the original file with its trained numbers');

type Args = ArgumentsCamelCase<{
  model: string;
  out?: string;
  params?: string;
  ema?: boolean;
  pytorchState?: string;
  ortCheckpoint?: string;
}>;

export async function handler(args: Args): Promise<void> {
  const { exportFrom, exportOrtCheckpoint, exportPytorchState, loadModel, loadParameters } = await import(
    '../../src/index.js'
  );
  const { model, pytorchState, ortCheckpoint } = args;
  const out =
    pytorchState ?? ortCheckpoint ?? args.out ?? model.replace(/(\.agd)?(\.onnx|\/)?$/, '.trained.onnx');
  checkOutputs([out], [model, args.params]);
  const isReplaced = existsSync(out);
  if (pytorchState !== undefined) await exportPytorchState(await loadModel(model), out);
  else if (ortCheckpoint !== undefined) await exportOrtCheckpoint(await loadModel(model), out);
  else {
    const values = args.params === undefined ? undefined : await loadParameters(args.params);
    const { isUntrained } = await exportFrom(model, out, { values, ema: args.ema });
    if (isUntrained)
      print(
        `${model} is at step 0: ${out} holds the weights as they were before training${isReplaced ? ', in place of the file that was there' : ''}`,
      );
  }
  print(`wrote ${out}`);
}
