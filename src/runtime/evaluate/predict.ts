import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Model, Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import { providerOf } from '../../ops/core/provider.js';
import type { Activation } from '../../ops/losses/loss.js';
import { partOfModel } from '../../passes/common/part-of-model.js';
import { natureOf } from '../../passes/differentiate/check-loss.js';
import { readsLastToken } from '../../passes/normalize/keep-all-positions.js';
import type { LossSpec } from '../../passes/options.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { classNames, type Recipe, targetColumn } from '../../passes/recipe/recipe.js';
import { predictionModel } from '../../passes/run/evaluation-model.js';
import { layOut } from '../cpu.js';
import type { Dataset } from '../data/dataset.js';
import { type FitData, isOpen } from '../data/from-values.js';
import { withDevice } from '../devices/choose.js';
import { inputSpecs } from '../input-specs.js';
import { taskOf } from '../metrics/index.js';
import type { TaskSpec } from '../metrics/metric.js';
import { asFeeds, type Feeds, Session } from '../session.js';
import { inputsToDerive, shapesOf } from '../train/model-data.js';
import { dataFor, type ModelRunOptions, plainModel, watchedBatches } from './model-run.js';
import { joinRows } from './prediction-files.js';
import { type Prediction, type PredictionPlan, predictions } from './predictions.js';

export type PredictOptions = ModelRunOptions & {
  /**
   * The outputs to compute, inner values too; the first one is what is predicted. Default: the output that the model was
   * trained on, else the only one of floating-point numbers, else all.
   */
  outputs?: readonly string[];
  /** The loss that the output was trained with, which says how to read it; of an injected model its own if not given. */
  loss?: LossSpec;
  /** Make a head that reads only the last token read all tokens; as in training for a training state. */
  allPositions?: boolean;
  /**
   * Function that converts the output to probabilities, instead of what the loss, the recipe or the operator that writes it tells:
   * softmax or exp of classes, sigmoid of labels, none for the numbers as they are.
   */
  activation?: Activation;
};

/** All predictions of the model, a plain one, an injected one or a training state, or its file. Throws as `bindData` does. */
export async function predict(
  source: Model | string,
  data: FitData,
  options: PredictOptions = {},
): Promise<Prediction> {
  const parts: Prediction[] = [];
  for await (const part of predictBatches(source, data, options)) parts.push(part);
  const [first] = parts as [Prediction];
  const joined = (name: string, tensorOf: (part: Prediction) => Tensor) =>
    joinRows(name, parts.map(tensorOf));
  const { probabilities, classes } = first;
  return {
    ...first,
    samples: parts.reduce((n, { samples }) => n + samples, 0),
    outputs: Object.fromEntries(
      Object.keys(first.outputs).map(name => [name, joined(name, p => p.outputs[name]!)]),
    ),
    ...(probabilities ? { probabilities: joined(first.output, p => p.probabilities!) } : {}),
    ...(classes ? { classes: joined(first.output, p => p.classes!) } : {}),
  };
}

/** The same batch by batch, in the order of the data: for more than memory holds. */
export async function* predictBatches(
  source: Model | string,
  given: FitData,
  run: PredictOptions = {},
): AsyncGenerator<Prediction> {
  const options = await withDevice(run);
  const plain = await plainModel(source, options);
  const data = await dataFor(given, plain.model, options);
  try {
    const { names, spec, classes } = await plan(plain, options);
    const about = {
      job: { bind: options.bind, batchSize: options.batchSize },
      data,
      model: plain.model,
      options: { loss: { kind: 'output', output: names[0]! } as const },
    };
    const { options: derived } = await inputsToDerive(about);
    const shapes = await shapesOf({ ...about, options: { ...about.options, ...derived } });
    const allPositions =
      options.allPositions ?? (plain.allPositions && readsLastToken(partOfModel(plain.model, names).graph));
    const model = await predictionModel(plain.model, names, shapes, {
      ...derived,
      allPositions,
      provider: providerOf(options.device),
    });
    const dataset = await data.bind(
      inputSpecs({ graph: model.graph, inputs: model.graph.inputs }),
      options.bind,
    );
    const session = await Session.create(await layOut(model, options), options);
    try {
      yield* predictions(watchedBatches(dataset, options), {
        names,
        spec,
        classes,
        run: feeds => session.run(only(feeds, session.inputs), names),
        isWhole: isWhole(dataset),
      });
    } finally {
      await session.release();
    }
  } finally {
    if (!isOpen(given)) await data.close();
  }
}

/** Whether the data are one sample, whose rows are what is predicted: the nodes of a graph. */
const isWhole = ({ columns }: Dataset) => columns.every(({ batchAxis }) => batchAxis === null);

const only = (feeds: Feeds, names: readonly string[]): Feeds =>
  asFeeds(Object.fromEntries(Object.entries(feeds).filter(([name]) => names.includes(name))));

/** Throws `no-such-value`, `bad-option` where the activation cannot be that of the output. */
async function plan(
  {
    model,
    loss,
    outputs,
  }: { model: Model; loss?: LossSpec & { output: string }; outputs: readonly string[] },
  options: PredictOptions,
): Promise<PredictionPlan> {
  const { graph } = model;
  const known = new Map([...graph.nodes.flatMap(n => n.outputs), ...graph.outputs].map(v => [v?.name, v]));
  const unknown = options.outputs?.find(name => !known.has(name));
  if (unknown !== undefined)
    throw new AgdError(
      'no-such-value',
      `The model has no output or inner value '${unknown}'; its outputs are ${outputs.map(name => `'${name}'`).join(', ')}.`,
    );
  const isTensor = (name: string) => (known.get(name)?.type?.kind ?? 'tensor') === 'tensor';
  const tensors = outputs.filter(isTensor);
  const strange = options.outputs?.find(name => !isTensor(name)) ?? (tensors.length ? undefined : outputs[0]);
  if (strange !== undefined)
    throw new AgdError(
      'unsupported-type',
      `Output '${strange}' is not a tensor: name an output that is, or an inner value, with --output.`,
    );
  const trained = loss && loss.kind !== 'output' ? loss : undefined;
  const floats = tensors.filter(name => isFloat(known.get(name)?.dtype));
  const chosen = options.loss?.output ?? trained?.output;
  const names = options.outputs ?? (chosen !== undefined ? [chosen] : floats.length === 1 ? floats : tensors);
  const recipe = await readRecipe(model);
  const told = options.loss ?? (trained?.output === names[0] ? trained : undefined);
  const spec = specOf(known.get(names[0])!, told, recipe, options.activation);
  return { names, spec, classes: spec && recipe && classNames(recipe) };
}

/** How the output is read: as asked for, as the loss says, as the recipe's target and the operator before it tell. */
function specOf(
  value: Value,
  loss: LossSpec | undefined,
  recipe: Recipe | undefined,
  activation: Activation | undefined,
): TaskSpec | undefined {
  const known = loss && taskOf(loss);
  const { nature } = natureOf(value) ?? {};
  const step = recipe && targetColumn(recipe)?.steps.at(-1)?.step;
  const isClasses = known?.task === 'classes' || nature === 'probabilities' || nature === 'logarithms';
  if (activation === 'softmax' || activation === 'exp') return { ...known, task: 'classes', activation };
  if (activation === 'sigmoid') return { ...known, task: 'labels', activation };
  if (activation === 'none')
    return known && known.task !== 'values' && isMade(nature) ? { ...known, activation } : undefined;
  if (known) return known.task === 'values' ? undefined : known;
  const width = value.shape?.at(-1);
  if (step === 'class' && width !== 1 && nature !== 'independent probabilities')
    return {
      task: 'classes',
      activation: nature === 'probabilities' ? 'none' : nature === 'logarithms' ? 'exp' : 'softmax',
    };
  if (step === 'class' || step === 'multi-hot')
    return { task: 'labels', activation: nature === 'independent probabilities' ? 'none' : 'sigmoid' };
  if (isClasses) return { task: 'classes', activation: nature === 'logarithms' ? 'exp' : 'none' };
  return nature === 'independent probabilities' ? { task: 'labels', activation: 'none' } : undefined;
}

const isMade = (nature: string | undefined) =>
  nature === 'probabilities' || nature === 'independent probabilities';
