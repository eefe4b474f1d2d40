import { existsSync } from 'node:fs';
import { AgdError, types } from '../../src/command/startup.js';
import type { Arguments } from '../arguments.js';
import { checkOutputs } from '../files.js';
import type { Options } from '../flags.js';
import { describeBest, formatNames } from '../ui/format.js';
import { print } from '../ui/terminal.js';

export const model =
  'Injected ONNX file, such as one saved by train --state; a folder of training artifacts; or any model with --params';

const OUTPUT = { group: 'Output', commands: [], stage: 'run' } as const;

/** What is written instead of a model: one of them, without what decides how the model is written. */
const INSTEAD = ['pytorchState', 'ortCheckpoint', 'peft', 'onnxAdapter'] as const;
const OF_MODEL = ['out', 'params', 'ema', 'bakePreprocessing', 'recipe', 'adapter', 'adaptersOnly'] as const;
const conflictsOf = (own: (typeof INSTEAD)[number]) => [
  ...OF_MODEL,
  ...INSTEAD.filter(other => other !== own),
];

export const options = {
  out: { ...OUTPUT, type: types.text, alias: 'o', help: 'Model to write', shown: 'MODEL.trained.onnx' },
  params: {
    ...OUTPUT,
    type: types.text,
    help: 'Read parameters from this file: .safetensors, .npz, checkpoint',
  },
  best: {
    ...OUTPUT,
    type: types.flag,
    help: 'Use the best epoch of the run, from STATE.checkpoints/, instead of the last step',
    conflicts: ['params', 'adapter'],
  },
  ema: { ...OUTPUT, type: types.flag, help: 'Use the moving average of the weights' },
  bakePreprocessing: {
    ...OUTPUT,
    type: types.flag,
    help: 'Write the preprocessing of the columns into the graph: the model takes raw columns',
  },
  recipe: {
    ...OUTPUT,
    type: types.text,
    help: 'Recipe of the columns (.json, or a model that has one)',
    shown: "the model's own",
  },
  recipeOut: { ...OUTPUT, type: types.text, help: 'Also write the recipe of the columns as JSON' },
  pytorchState: {
    ...OUTPUT,
    type: types.text,
    help: "Write parameters and optimizer state in PyTorch's format to this .safetensors file instead",
    conflicts: conflictsOf('pytorchState'),
  },
  adapter: {
    ...OUTPUT,
    type: types.text,
    help: 'Merge the adapters in this PEFT folder or .onnx_adapter file into a model without a training step',
    conflicts: ['params', 'ema', 'recipe', 'bakePreprocessing'],
  },
  adaptersOnly: {
    ...OUTPUT,
    type: types.flag,
    help: 'Do not merge: leave the weights unchanged and write the adapters as inputs with defaults',
  },
  peft: {
    ...OUTPUT,
    type: types.text,
    help: 'Write the adapters to this PEFT folder instead (adapter_model.safetensors, adapter_config.json)',
    conflicts: conflictsOf('peft'),
  },
  onnxAdapter: {
    ...OUTPUT,
    type: types.text,
    help: 'Write the adapters to this .onnx_adapter file of ONNX Runtime instead',
    conflicts: conflictsOf('onnxAdapter'),
  },
  ortCheckpoint: {
    ...OUTPUT,
    type: types.text,
    help: "Write parameters and AdamW's state as a checkpoint of ONNX Runtime's training instead",
    conflicts: conflictsOf('ortCheckpoint'),
  },
} satisfies Options;

export const examples = [
  ['export model.agd.onnx -o model.trained.onnx', 'the original file with the trained weights'],
] as const;

type Args = Pick<Arguments, 'model' | 'params'> & {
  out?: string;
  best?: boolean;
  ema?: boolean;
  bakePreprocessing?: boolean;
  recipe?: string;
  recipeOut?: string;
  adapter?: string;
  adaptersOnly?: boolean;
  peft?: string;
  onnxAdapter?: string;
  pytorchState?: string;
  ortCheckpoint?: string;
};

export async function handler(args: Args): Promise<void> {
  const library = await import('../../src/internal.js');
  const { exportFrom, exportOrtCheckpoint, exportPytorchState, openModel, loadParameters } = library;
  const { model: given, pytorchState, ortCheckpoint, bakePreprocessing, recipeOut, peft, onnxAdapter } = args;
  const { adapter, adaptersOnly } = args;
  const instead = pytorchState ?? ortCheckpoint ?? peft ?? onnxAdapter;
  const out = instead ?? args.out ?? given.replace(/(\.agd)?(\.onnx|\/)?$/, '.trained.onnx');
  const best =
    args.params !== undefined
      ? undefined
      : await library.bestCheckpoint(await openModel(await library.modelFile(given)), given);
  if (args.best && !best)
    throw new AgdError(
      'bad-option',
      `${given} records no best epoch: a run keeps it that has validation data and --state.`,
    );
  const model = args.best ? best!.file : given;
  checkOutputs([out, recipeOut], [given, args.params, args.recipe]);
  const recipe = args.recipe === undefined ? undefined : await library.loadRecipe(args.recipe);
  const isReplaced = existsSync(out);
  if (pytorchState !== undefined) await exportPytorchState(await openModel(model), out);
  else if (ortCheckpoint !== undefined) await exportOrtCheckpoint(await openModel(model), out);
  else if (peft !== undefined) {
    const folders = await library.writePeft(await openModel(model), out);
    if (folders.length > 1)
      print(
        `PEFT has one method in a folder: load ${folders.join(', then ')}, with merge_and_unload() before each of the others`,
      );
  } else if (onnxAdapter !== undefined) await library.writeOnnxAdapter(await openModel(model), out);
  else {
    const values = args.params === undefined ? undefined : await loadParameters(args.params);
    const { isUntrained, kept } = await exportFrom(model, out, {
      adapter,
      adaptersOnly,
      values,
      ema: args.ema,
      recipe,
      bakePreprocessing,
    });
    if (kept.length)
      print(
        `kept the adapters of ${formatNames(kept)} separate: their weights are quantized, so they cannot be merged`,
      );
    if (isUntrained)
      print(
        `${model} is at step 0: ${out} has the untrained weights${isReplaced ? ' and replaces the file that was there' : ''}`,
      );
  }
  if (best && !best.isLast && !args.best)
    print(
      `${out} has the weights of the last step; for those of the best epoch, ${describeBest(best)}: --best`,
    );
  print(`wrote ${out}`);
  if (recipeOut === undefined) return;
  await library.saveRecipe(recipeOut, recipe ?? (await library.loadRecipe(model)));
  print(`wrote ${recipeOut}`);
}
