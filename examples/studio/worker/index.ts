/** The worker that holds models and data, and trains. */
import {
  exportFile,
  files,
  loadModel,
  OPTIMIZER_NAMES,
  predict,
  saveAdapters,
  saveModel,
  Tensor,
} from 'agd-onnx/web';
import type { Answer, Api, Project, Request, RunRecord, Settings } from '../protocol.js';
import { maxBuffer, memoryLimit, useRuntime, whyNoWebgpu } from './devices.js';
import { DIGITS, LENET, placeDigits, placeLenet, SIDE } from './digits.js';
import { describeData, describeModel } from './facts.js';
import { dataPaths, type Folders, modelPath, receive } from './files.js';
import { exists, openStorage, RUN, readSession, writeSession } from './storage.js';
import { type Files, planRun, readRecord, STATE, TRAINED, train } from './training.js';

const BASE = `${RUN}/base.onnx`;
/** Passes over the digits after a drawing was added: the model has learned the built-in ones. */
const TEACH = { epochs: 1, lr: 0 };

const signal = { aborted: false };
const post = (answer: Answer) => self.postMessage(answer);

async function project(label = ''): Promise<Project> {
  const { kind, taught } = await readSession();
  if (kind === 'digits') {
    await placeLenet();
    return { kind, model: await describeModel(LENET), data: DIGITS, taught: taught.length };
  }
  return ownProject({}, label);
}

async function ownProject(folders: Partial<Folders>, label = ''): Promise<Project> {
  const [model, data] = [await modelPath(folders.model), await dataPaths(folders.data)];
  return {
    ...{ kind: 'own', taught: 0 },
    ...(model ? { model: await describeModel(model) } : {}),
    ...(data.length ? { data: await describeData(data, model, label) } : {}),
  };
}

async function runFiles(): Promise<Files> {
  const session = await readSession();
  if (session.kind === 'digits') {
    await placeLenet();
    const model = (await exists(BASE)) ? BASE : LENET;
    return { model, ...(await placeDigits(session)) };
  }
  const [model, data] = [await modelPath(), await dataPaths()];
  if (!model) throw new Error('Choose a model first.');
  if (!data.length) throw new Error('Choose data first.');
  return { model, data };
}

/** The settings with what model and data suggest in place of what is not chosen, and the number of samples. */
async function complete(settings: Settings): Promise<{ settings: Settings; samples: number }> {
  const { data } = await project(settings.label);
  const loss = settings.loss || data?.loss || 'cross-entropy';
  const label = settings.label || data?.labels[0] || '';
  return { settings: { ...settings, loss, label }, samples: data?.samples ?? 0 };
}

async function run(given: Settings): Promise<RunRecord> {
  signal.aborted = false;
  const { settings } = await complete(given);
  return train(await runFiles(), settings, given, event => post({ event }), signal);
}

const api: Api = {
  async open() {
    const keeps = await openStorage();
    await useRuntime(self.name);
    const record = await readRecord();
    const noWebgpu = await whyNoWebgpu();
    return {
      ...{ keeps, optimizers: OPTIMIZER_NAMES, project: await project(record?.settings.label) },
      ...(record?.losses.length ? { run: record } : {}),
      ...(noWebgpu === undefined ? {} : { noWebgpu }),
    };
  },
  async add(dropped, label) {
    const { folders, ignored, keep } = await receive(dropped);
    const found = await ownProject(folders, label);
    await keep();
    await files.remove(RUN);
    await writeSession({ kind: 'own', taught: [] });
    return { ...found, ignored };
  },
  async useDigits() {
    await files.remove(RUN);
    await writeSession({ kind: 'digits', taught: [] });
    return project();
  },
  describe: settings => project(settings.label),
  async plan(given) {
    const { settings, samples } = await complete(given);
    const { model } = await runFiles();
    const gpu = settings.device === 'webgpu' ? await maxBuffer() : undefined;
    return planRun(model, settings, samples, memoryLimit(), gpu);
  },
  train: run,
  async pause() {
    signal.aborted = true;
  },
  restart: () => files.remove(RUN),
  async teach(pixels, label, settings) {
    const session = await readSession();
    session.taught.push({ label, pixels: [...pixels] });
    await writeSession(session);
    // The next run begins with what was learned so far.
    const isTrained = await exists(TRAINED);
    if (isTrained) await files.write(BASE, files.read(TRAINED));
    await files.remove(STATE);
    return run({ ...settings, ...(isTrained ? TEACH : {}) });
  },
  async recognize(pixels) {
    const model = [STATE, TRAINED, BASE];
    const found = [];
    for (const path of model) if (await exists(path)) found.push(path);
    const values = Float32Array.from(pixels, value => value / 255);
    const data = { input: Tensor.from('float32', [1, 1, SIDE, SIDE], values) };
    const loss = { kind: 'cross-entropy' } as const;
    const { probabilities } = await predict(found[0] ?? LENET, data, { loss });
    return [...probabilities!.numbers()];
  },
  async download(what) {
    const state = await loadModel(STATE);
    const name = ((await modelPath()) ?? 'lenet.onnx').replace(/^.*\/|\.onnx$/g, '');
    const path = what === 'model' ? `/${name}.trained.onnx` : `/${name}.onnx_adapter`;
    if (what === 'adapters') await saveAdapters(state, path);
    else if (await exists(TRAINED))
      await saveModel(await loadModel(TRAINED), path, { externalData: 'never' });
    else await exportFile(state, path);
    return { name: path.slice(1), bytes: files.read(path) };
  },
};

self.onmessage = async ({ data: { id, call, args } }: MessageEvent<Request>) => {
  try {
    post({ id, value: await (api[call] as (...args: unknown[]) => Promise<unknown>)(...args) });
  } catch (error) {
    post({ id, error: (error as Error).message });
  }
};
