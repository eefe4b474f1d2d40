/** From the settings of the page to a training run, from files to files. */
import {
  AgdError,
  adapt,
  files,
  type LossKind,
  loadModel,
  type MemoryChange,
  planMemory,
  runTrainJob,
  saveModel,
  type TrainEvent,
} from 'agd-onnx/web';
import type { Needs } from '../page/needs.js';
import type { RunRecord, Settings } from '../protocol.js';
import { emptyRecord } from '../record.js';
import { exists, RUN, readJson, writeJson } from './storage.js';

export const STATE = `${RUN}/state.agd.onnx`;
export const TRAINED = `${RUN}/trained.onnx`;
const HEADED = `${RUN}/headed.onnx`;
const RECORD = `${RUN}/record.json`;

/** Samples with the largest loss to show. */
const SAMPLES = 12;

export type Files = { model: string; data: string[]; validation?: string };

export const readRecord = () => readJson<RunRecord>(RECORD);

/** Trains until all epochs are done or `signal` asks to stop; goes on from the state of the run, where there is one. */
export async function train(
  { model: path, data, validation }: Files,
  settings: Settings,
  /** As they were chosen, for the record. */
  given: Settings,
  emit: (event: TrainEvent) => void,
  signal: { aborted: boolean },
): Promise<RunRecord> {
  const { lr, epochs, batch, split, label, device } = settings;
  const record = emptyRecord({ ...given, label });
  await files.mkdir(RUN);
  if (!(await exists(STATE))) await writeJson(RECORD, record);
  const head = settings.classes ? await withHead(path, settings.classes) : undefined;
  const follow = (event: TrainEvent) => {
    note(record, event);
    // After the state, so that the record is never ahead of it.
    if (event.type === 'saved' && event.what === 'state') void writeJson(RECORD, record);
    emit(event);
  };
  const job = {
    model: head?.path ?? path,
    inject: injectOptions(settings, head?.parameters),
    ...{ data, epochs, batchSize: batch, state: STATE, output: TRAINED, device },
    ...(validation === undefined ? (split ? { valSplit: split } : {}) : { validation }),
    ...(validation !== undefined || split ? { worstSamples: SAMPLES } : {}),
    ...(lr ? { lr } : {}),
    ...(label ? { label } : {}),
  };
  await runTrainJob(job, follow, signal);
  await writeJson(RECORD, record);
  return record;
}

/** What the run would take in memory; undefined where that depends on extents that the model leaves open. */
export async function planRun(
  path: string,
  settings: Settings,
  samples: number,
  limit: number,
  maxBuffer: number | undefined,
): Promise<Needs | undefined> {
  await files.mkdir(RUN);
  const head = settings.classes ? await withHead(path, settings.classes) : undefined;
  const batchSize = Math.min(settings.batch, samples || settings.batch);
  const options = { ...injectOptions(settings, head?.parameters), batchSize, limit, maxBuffer };
  try {
    const plan = await planMemory(await loadModel(head?.path ?? path), options);
    const { total, activations, largest, fits, advice } = plan;
    const parameters = plan.weights + plan.state;
    const gpu = maxBuffer === undefined ? {} : { maxBuffer };
    const better = advice && { advice: { total: advice.total, settings: asSettings(advice.change) } };
    return { total, parameters, activations, limit, largest, fits, ...gpu, ...better };
  } catch (error) {
    // What is wrong with the run, its start tells.
    if (error instanceof AgdError) return undefined;
    throw error;
  }
}

const asSettings = ({ batchSize, checkpointActivations, lora }: MemoryChange): Partial<Settings> => ({
  ...(batchSize === undefined ? {} : { batch: batchSize }),
  ...(checkpointActivations ? { activations: 'recompute' } : {}),
  ...(lora ? { trains: 'lora', match: '*', rank: lora[0]!.r } : {}),
});

const injectOptions = (settings: Settings, head: readonly string[] = []) => ({
  loss: { kind: settings.loss as LossKind },
  optimizer: { name: settings.optimizer as 'agd' },
  ...(settings.activations ? { checkpointActivations: true as const } : {}),
  ...choice(settings, head),
});

/** The model with a new head, and the names of the parameters that are new. */
async function withHead(path: string, classes: number) {
  const { model, report } = await adapt(await loadModel(path), { classes });
  await saveModel(model, HEADED);
  return { path: HEADED, parameters: report.parameters };
}

function choice({ trains, match, rank }: Settings, head: readonly string[]) {
  const globs = match.split(/[\s,]+/).filter(Boolean);
  if (trains === 'head') return { freeze: ['backbone'] };
  if (trains === 'match') return { freeze: ['*'], train: [...globs, ...head] };
  if (trains === 'lora') return { lora: [{ match: globs.length ? globs : ['*'], r: rank }] };
  return {};
}

function note(record: RunRecord, event: TrainEvent): void {
  switch (event.type) {
    case 'start':
      record.stepsPerEpoch = event.stepsPerEpoch;
      record.samples = event.samples;
      record.parameters = event.parameters?.elements ?? 0;
      record.losses = [...(event.history?.losses ?? [])];
      record.epochs = [...(event.history?.epochs ?? [])];
      break;
    case 'step':
      record.losses.push(event.loss);
      break;
    case 'epoch':
      record.epochs.push(event);
      break;
    case 'note':
      record.notes.push(event.text);
      break;
    case 'end':
      record.reason = event.reason;
      record.worst = event.worst ?? [];
      if (event.best) record.best = event.best;
  }
}
