import { dirname, join } from 'node:path';
import { AgdError, injectOptionsOf, types } from '../../src/command/startup.js';
import type { Model, TrainEvent } from '../../src/internal.js';
import type { Arguments } from '../arguments.js';
import { checkOutputs, makeFolder, withOriginal } from '../files.js';
import type { Options } from '../flags.js';
import { supervisedWhere } from '../supervise.js';
import { typesProcess } from '../types.js';
import { describeStep } from '../ui/describe-step.js';
import { formatBytes, formatCount, formatNames } from '../ui/format.js';
import { print } from '../ui/terminal.js';

export const model = "ONNX file, or the folder of ONNX Runtime's training artifacts";

const OUTPUT = { group: 'Output', commands: [], stage: 'inject' } as const;

export const options = {
  out: {
    ...OUTPUT,
    type: types.text,
    alias: 'o',
    shown: 'MODEL.agd.onnx',
    help: 'File to write; with --split, --plain-state or --steps, the folder',
  },
  calibrate: {
    ...OUTPUT,
    group: 'Data',
    type: types.text,
    help: 'Calibration data: the first samples give the initial ranges of --qat',
  },
  split: {
    ...OUTPUT,
    type: types.flag,
    help: 'Write gradients and update separately: grad.onnx, update.onnx and the initial state.onnx',
    conflicts: ['format', 'plainState', 'steps'],
  },
  plainState: {
    ...OUTPUT,
    type: types.flag,
    help: 'Write the step with its state as plain inputs and outputs: step.onnx and the initial state.onnx',
    conflicts: ['format'],
  },
  steps: {
    ...OUTPUT,
    type: types.count,
    help: 'The same with this many steps in one run',
    conflicts: ['format'],
  },
  format: {
    ...OUTPUT,
    type: types.choice(['step', 'training-info']),
    help: "The step as the graph itself, or as ONNX's training_info beside the inference graph",
    shown: 'step',
    expert: true,
  },
} satisfies Options;

export const examples = [
  ['inject model.onnx --loss cross-entropy -o model.agd.onnx', 'a model with its training step'],
] as const;

type Injected = Omit<Extract<TrainEvent, { type: 'injected' }>, 'time'>;

type Args = Arguments & {
  out?: string;
  calibrate?: string;
  split?: boolean;
  plainState?: boolean;
  steps?: number;
  format?: string;
};

export async function handler(args: Args): Promise<void> {
  const runs = args.calibrate !== undefined || args.pack || args.initialize || args.split;
  if (await supervisedWhere(!!runs, args.model)) return;
  const { inject, injectedEvent, openForInjection, typesApart } = await import(
    '../../src/command/injection.js'
  );
  const isFolder = args.split || args.plainState || args.steps !== undefined;
  const ending = isFolder ? '.agd' : '.agd.onnx';
  const out = args.out ?? args.model.replace(/(\.onnx|\/)?$/, ending);
  if (isFolder && out.endsWith('.onnx'))
    throw new AgdError('bad-option', `--out must name a folder for the files of the step, not ${out}.`);
  const paths = isFolder ? PARTS[args.split ? 'split' : 'plain'].map(name => join(out, name)) : [out];
  checkOutputs(paths, [args.model, args.teacher, args.lossModel, args.params, args.config]);
  const oracle = typesApart(typesProcess());
  const source = await openForInjection(
    args.model,
    await withOriginal(
      { ...injectOptionsOf(args), ...(args.split ? { lossDivisor: true } : {}) },
      args.model,
    ),
    args,
    oracle,
  );
  const { qat, calibrate } = args;
  if (calibrate !== undefined && !qat) throw new AgdError('bad-option', '--calibrate needs --qat.');
  const { options, notes } =
    calibrate === undefined
      ? { options: source.options, notes: [] }
      : await (await all()).withRanges(source.model, source.options, calibrate);
  const { model, report } = await inject(source.model, options, oracle);
  const untried = options.pack
    ? await (await all()).verifyPackedModel({ model: source.model, options })
    : undefined;
  const begun = source.optimizer
    ? (await all()).resumeOptimizer(model, source.optimizer)
    : { model, note: undefined };
  await write(begun.model, paths, args);
  for (const line of describeInjection(injectedEvent(report))) print(line);
  for (const note of notes) print(note);
  if (untried !== undefined)
    print(
      `warning: --pack is not verified without data: ${untried}. Run agd-onnx grad --pack on packed rows.`,
    );
  if (begun.note) print(begun.note);
  print(`wrote ${paths.join(', ')}`);
}

/** What few injections need. */
const all = () => import('../../src/internal.js');

/** Files of a step in parts. */
const PARTS = { plain: ['step.onnx', 'state.onnx'], split: ['grad.onnx', 'update.onnx', 'state.onnx'] };

/** Saves the step in one file, or its parts and their first state in several. */
async function write(model: Model, paths: readonly string[], { split, steps, format }: Args): Promise<void> {
  const { saveModel } = await import('../../src/command/injection.js');
  const parts = async (): Promise<Model[]> => {
    if (paths.length === 1 && format !== 'training-info') return [model];
    const { plainStep, splitStep, trainingInfoForm } = await all();
    if (paths.length === 1) return [trainingInfoForm(model)];
    if (!split) {
      const { step, state } = plainStep(model, steps);
      return [step, state];
    }
    const { gradients, update, state } = await splitStep(model);
    return [gradients, update, state];
  };
  for (const [i, part] of (await parts()).entries()) {
    if (paths.length > 1) await makeFolder(dirname(paths[i]!));
    await saveModel(part, paths[i]!);
  }
}

/** What an injection did, a line each. */
export function describeInjection({
  parameters,
  warnings,
  notes = [],
  nodes,
  bytes,
  description,
}: Injected): string[] {
  const trained = parameters.filter(p => p.trains);
  const frozen = parameters.filter(p => !p.trains);
  return [
    ...warnings.map(text => `warning: ${text}`),
    ...notes,
    `trains   ${formatCount(trained.length, 'tensor')}, ${formatBytes(bytes.parameters)}: ${names(trained)}`,
    `frozen   ${formatCount(frozen.length, 'tensor')}${frozen.length ? `: ${reasons(frozen)}` : ''}`,
    ...describeStep(description),
    `nodes    ${nodes.before} before, ${nodes.after} after`,
    `state    ${formatBytes(bytes.state)} beside the parameters`,
  ];
}

const names = (choices: Injected['parameters']) => formatNames(choices.map(c => c.name));

function reasons(choices: Injected['parameters']): string {
  const groups = new Map<string, Injected['parameters']>();
  for (const choice of choices) groups.set(choice.why, [...(groups.get(choice.why) ?? []), choice]);
  return [...groups].map(([why, group]) => `${names(group)} (${why})`).join('; ');
}
