/** What the data feed a model before it has a training step: its shapes and its batch axis come from there. */
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Model, Value } from '../../graph/ir.js';
import { neededInputs } from '../../graph/prune.js';
import { dropUnreadInputs, eliminateDeadNodes } from '../../passes/common/eliminate-dead-nodes.js';
import { hasOwnStep } from '../../passes/import/own-step.js';
import { inputsOfSegments, segmentsInput } from '../../passes/normalize/add-segments.js';
import { type Derived, derivableInputs } from '../../passes/normalize/derivable-inputs.js';
import type { ShapeOracle } from '../../passes/normalize/infer-shapes.js';
import type { InjectOptions } from '../../passes/options.js';
import { normalize } from '../../passes/pipeline.js';
import type { Data } from '../data/data.js';
import { type Dataset, DEFAULT_BATCH_SIZE } from '../data/dataset.js';
import { fileOrder } from '../data/order.js';
import { inputSpecs } from '../input-specs.js';
import { type Feeds, Session, shapesIn } from '../session.js';
import type { TrainJob } from './train-job.js';

export type Source = {
  job: Pick<TrainJob, 'bind' | 'batchSize'>;
  data: Data;
  model: Model;
  options: InjectOptions;
};

/** Largest difference of outputs in another batch, relative to the largest element: kernels add up in another order. */
export const TOLERANCE = 1e-3;
/** Samples on which a free batch axis is verified, in batches of the fixed size: two at least. */
const VERIFIED = 4;

/** The inputs that the loss may depend on, and that are not computed from others. */
async function inputsOf({
  model: { graph },
  options: { loss, deriveInputs = [], pack },
}: Source): Promise<Value[]> {
  const output = graph.nodes.flatMap(node => node.outputs).find(v => v && v.name === loss?.output);
  const needed = neededInputs(graph, output ? [output] : graph.outputs);
  const { globTest } = deriveInputs.length ? await import('../../passes/common/match-names.js') : {};
  const tests = deriveInputs.map(glob => globTest!(glob));
  const fed = needed.filter(({ name }) => !tests.some(test => test(name)));
  if (!pack) return fed;
  const positions = inputsOfSegments(graph);
  return [...fed.filter(v => !positions.includes(v)), segmentsInput(graph)];
}

/** The first samples of the inputs that the loss may depend on; undefined where the data do not have them all. */
export async function modelData(source: Source): Promise<Dataset | undefined> {
  const { job, data, model } = source;
  const { graph } = model;
  const needed = await inputsOf(source);
  const names = new Set(needed.map(v => v.name));
  const known = <T>(given: Readonly<Record<string, T>> = {}) =>
    Object.fromEntries(Object.entries(given).filter(([name]) => names.has(name)));
  const { map, scale, whole = [] } = job.bind ?? {};
  try {
    return await data.preview(inputSpecs({ graph, inputs: needed }), {
      map: known(map),
      scale: typeof scale === 'object' ? known(scale) : undefined,
      whole: whole.filter(name => names.has(name)),
    });
  } catch (error) {
    // What the data lack is told when the step is there, which may not need it.
    if (error instanceof AgdError) return undefined;
    throw error;
  }
}

/** What of a decoder's inputs may be derived, in the order in which that is tried: data rarely have the first. */
const DERIVED: readonly (readonly Derived[])[] = [
  ['an empty cache', 'false', 'zero'],
  ['positions in order', 'zeros'],
  ['ones'],
];

/** Places of documents without a token have some class that is ignored. */
const ANY_CLASS = {
  dtype: 'int64',
  range: { least: -Infinity, most: Infinity, ignored: Number.MIN_SAFE_INTEGER },
} as const;

type DerivedInputs = { options?: { deriveInputs: string[] }; note?: string };

/**
 * The inputs of a decoder that are computed from its tokens as the data do not have them, and a line that says so. None
 * where the data lack others too.
 */
export async function inputsToDerive(source: Source): Promise<DerivedInputs> {
  const { job, data, options, model } = source;
  if (options.deriveInputs || options.gradients || hasOwnStep(model)) return {};
  const known = derivableInputs(model.graph);
  const { map = {} } = job.bind ?? {};
  const needed = await inputsOf(source);
  const wanted = needed.filter(v => known.has(v) && !data.has(map[v.name] ?? v.name));
  if (!wanted.length) return {};
  const { loss } = options;
  const target = (loss && 'target' in loss && loss.target) || 'target';
  const asked = (loss && loss.kind !== 'output') || data.has(target) ? target : undefined;
  // Another array may feed an input that it alone fits, if it is not the target.
  const fits = async (derived: ReadonlySet<Value>) => {
    const fed = inputSpecs({ graph: model.graph, inputs: needed.filter(v => !derived.has(v)) });
    const targets =
      asked === undefined
        ? [undefined]
        : [
            { ...ANY_CLASS, name: asked },
            { name: asked, dtype: 'float32' as const },
          ];
    for (const target of targets) {
      const specs = target ? [...fed, target] : fed;
      try {
        const { columns } = await data.preview(specs, {
          ...job.bind,
          labels: asked === undefined ? [] : [asked],
        });
        return fed.every(({ name }) => columns.some(({ input }) => input === name));
      } catch (error) {
        if (!(error instanceof AgdError)) throw error;
      }
    }
    return false;
  };
  const chosen = new Set<Value>();
  for (const kinds of [[], ...DERIVED]) {
    const more = wanted.filter(v => kinds.includes(known.get(v)!));
    for (const value of more) chosen.add(value);
    if ((more.length || !kinds.length) && (await fits(chosen))) break;
  }
  if (!chosen.size) return {};
  const parts = [...new Set([...chosen].map(v => known.get(v)!))].map(kind => {
    const [first, ...others] = [...chosen].filter(v => known.get(v) === kind);
    return `'${first!.name}'${others.length ? ` and ${others.length} more` : ''} (${kind})`;
  });
  return {
    options: { deriveInputs: [...chosen].map(v => v.name) },
    note: `The data have no array for ${parts.join(', ')}: computed from the tokens.`,
  };
}

/** Shapes, of which those that nothing tells before a run are those of the first batch. */
export async function shapesOf(source: Source): Promise<ShapeOracle> {
  const data = await modelData(source);
  const size = Math.min(data?.fixedBatch ?? source.job.batchSize ?? DEFAULT_BATCH_SIZE, data?.length ?? 0);
  const first = data && (await data.take(fileOrder(0, size)));
  return shapesIn(() => first?.inputs ?? {});
}

/**
 * The inputs whose fixed batch axis becomes free, and a line on why they do, or why not: where the run asks for another
 * batch size, or the file was exported with one sample, and a run shows that the results are the same sample by sample.
 * Throws `bad-option` where the batch size that is asked for cannot be had.
 */
export async function batchToFree(source: Source): Promise<{ freeBatch?: string[]; note?: string }> {
  const { job, model, options } = source;
  if (options.freeBatch || options.gradients || hasOwnStep(model)) return {};
  const data = await modelData(source);
  const size = data?.fixedBatch;
  if (size === undefined || job.batchSize === size || (size > 1 && job.batchSize === undefined)) return {};
  const sampled = data!.columns.filter(c => c.batchAxis !== null);
  const freeBatch = sampled.map(c => c.input);
  const found = `Input '${freeBatch[0]}' fixes the batch size at ${size}`;
  const why = await (sampled.some(c => c.batchAxis) || data!.length < 2 * size
    ? `there are no two batches of samples along the first axis to compare on.`
    : whyNotFree(source, data!, freeBatch));
  if (why === undefined)
    return {
      freeBatch,
      note: `${found}: made dynamic for training, as the results are the same sample by sample`,
    };
  if (job.batchSize === undefined) return {};
  throw new AgdError(
    'bad-option',
    `${found}, and batches of ${job.batchSize} are not possible: ${why} Export the model with a dynamic batch axis, or leave out --batch-size.`,
  );
}

/** Why the model does not give the same results where the batch axis of these inputs is free; undefined where it does. */
async function whyNotFree(
  source: Source,
  data: Dataset,
  names: readonly string[],
): Promise<string | undefined> {
  const size = data.fixedBatch!;
  const rows = async (from: number, count: number) => (await data.take(fileOrder(from, from + count))).inputs;
  const batches = Math.min(Math.max(2, Math.ceil(VERIFIED / size)), Math.floor(data.length / size));
  try {
    const shapes = await shapesOf(source);
    const [all] = await outputsOf(await inference(source, shapes, names), [await rows(0, batches * size)]);
    const each = await outputsOf(
      await inference(source, shapes),
      await Promise.all(Array.from({ length: batches }, (_, i) => rows(i * size, size))),
    );
    const compared = Object.entries(all!).filter(
      ([name, { dtype, dims }]) =>
        isFloat(dtype) && dims[0] === batches * size && each[0]![name]!.dims[0] === size,
    );
    if (!compared.length) return 'no output has a result for each sample.';
    const other = compared.find(([name, free]) => {
      const fixed = each.flatMap(outputs => outputs[name]!.numbers());
      const most = fixed.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
      const isSame = (x: number, i: number) => Math.abs(x - fixed[i]!) <= TOLERANCE * most;
      return fixed.length !== free.size || !free.numbers().every(isSame);
    });
    return other && `output '${other[0]}' of a sample depends on the others of its batch, or is random.`;
  } catch (error) {
    if (error instanceof AgdError) return error.message;
    throw error;
  }
}

/** What of the options decides how the model computes what the loss reads. */
export type InferenceOptions = Pick<InjectOptions, 'deriveInputs' | 'allPositions' | 'pack'> & {
  loss?: { output?: string };
};

/** The model as far as what the loss may read. */
export async function inference(
  { model, options }: { model: Model; options: InferenceOptions },
  shapes: ShapeOracle,
  freeBatch?: readonly string[],
): Promise<Model> {
  const { deriveInputs, allPositions, pack } = options;
  const { work } = await normalize(model, shapes, { freeBatch, deriveInputs, allPositions, pack });
  const { graph } = work;
  const output = options.loss?.output;
  const inner = graph.nodes.flatMap(n => n.outputs).find(v => v?.name === output);
  if (inner) graph.outputs = [inner];
  eliminateDeadNodes(work);
  dropUnreadInputs(work);
  return work;
}

export async function outputsOf(model: Model, batches: readonly Feeds[]): Promise<Feeds[]> {
  const session = await Session.create(model);
  try {
    const results: Feeds[] = [];
    for (const feeds of batches)
      results.push(await session.run(Object.fromEntries(session.inputs.map(name => [name, feeds[name]!]))));
    return results;
  } finally {
    await session.release();
  }
}
