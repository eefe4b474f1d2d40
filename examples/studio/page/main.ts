/** The page: what is chosen goes to the worker, what happens there is shown. */
import type { TrainEvent } from 'agd-onnx/web';
import type { Dropped, Project, RunRecord, Settings } from '../protocol.js';
import { emptyRecord } from '../record.js';
import { drawCurve, short } from './charts.js';
import { connect } from './client.js';
import { byId, save } from './dom.js';
import { onTeach, showBars, startDrawing } from './drawing.js';
import { classesOf, showFacts } from './facts.js';
import { onFiles } from './files.js';
import { describeNeeds } from './needs.js';
import { report, reportData } from './report.js';
import { metricsOf, shownEpoch, showResults } from './results.js';
import {
  defaults,
  fillForm,
  fillLabels,
  fillOptimizers,
  fromAddress,
  inAddress,
  inPageTerms,
  readForm,
  showField,
  showFields,
  toAddress,
} from './settings.js';
import { counted } from './words.js';

const curve = document.querySelector<SVGSVGElement>('#curve svg')!;
const form = byId<HTMLFormElement>('settings');
const progress = byId<HTMLProgressElement>('progress');

let project: Project = { kind: 'digits', taught: 0 };
let run: RunRecord | undefined;
let [isRunning, isReady] = [false, false];

let device: Settings['device'] = 'cpu';
let { api: worker, close } = connect(device, follow);
const drawing = startDrawing(recognize);

/** Shows what a click leads to, and its error in one line. */
async function attempt(action: () => Promise<void>): Promise<void> {
  byId('error').textContent = '';
  try {
    await action();
  } catch (error) {
    byId('error').textContent = inPageTerms((error as Error).message);
  }
  showState();
}

const announce = (text: string) => {
  byId('announcement').textContent = text;
};

function steps(): number {
  return run ? run.stepsPerEpoch * Math.max(run.settings.epochs, run.epochs.length) : 0;
}

function showState(): void {
  const isPaused = !!run?.losses.length && run.losses.length < run.stepsPerEpoch * readForm().epochs;
  const isComplete = !!project.model && !project.model.problem && !!project.data;
  byId<HTMLButtonElement>('train').disabled =
    !isReady || isRunning || !isComplete || (!!run?.losses.length && !isPaused);
  byId('train').textContent = isPaused ? 'Resume' : 'Train';
  const active = document.activeElement as HTMLElement | null;
  byId('train').hidden = isRunning;
  byId('pause').hidden = !isRunning;
  byId('restart').hidden = isRunning || !run;
  // Focus stays among the buttons.
  if (active?.hidden) byId(isRunning ? 'pause' : isPaused ? 'train' : 'restart').focus();
  byId<HTMLFieldSetElement>('fixed').disabled = isRunning || !!run;
  byId<HTMLInputElement>('epochs').disabled = isRunning;
  byId('drawing').hidden = project.kind !== 'digits';
  showField('split', project.kind !== 'digits');
  byId('downloads').hidden = isRunning || !run?.losses.length;
  byId('download-adapters').hidden = run?.settings.trains !== 'lora';
  for (const button of byId('teach').querySelectorAll('button')) button.disabled = isRunning || !isReady;
  progress.hidden = !isRunning;
  byId('status').textContent = statusText(isPaused, isComplete);
  byId('hint').textContent = hint();
  const caption = curve.parentElement!.querySelector<HTMLElement>('figcaption')!;
  caption.hidden = !!run?.losses.length;
  curve.toggleAttribute('hidden', !run?.losses.length);
  if (run?.losses.length) drawCurve(curve, run, steps());
}

function statusText(isPaused: boolean, isComplete: boolean): string {
  if (!isReady) return 'Loading…';
  if (!run?.losses.length) {
    if (isRunning) return 'Preparing…';
    if (project.model?.problem) return `The model cannot be trained: ${inPageTerms(project.model.problem)}`;
    return isComplete
      ? 'Ready.'
      : `Choose ${project.model ? 'data' : project.data ? 'a model' : 'a model and data'}.`;
  }
  const { losses, epochs, stepsPerEpoch } = run;
  const loss = `loss ${losses.at(-1)!.toFixed(4)}`;
  if (isRunning) {
    const epoch = Math.min(run.settings.epochs, 1 + Math.floor((losses.length - 1) / stepsPerEpoch));
    return `Epoch ${epoch} of ${run.settings.epochs}, step ${losses.length} of ${steps()}: ${loss}`;
  }
  const epoch = shownEpoch(run);
  const accuracy = epoch && metricsOf(epoch).find(([name]) => name === 'accuracy')?.[1];
  const result = accuracy ? `validation accuracy ${accuracy}` : loss;
  return `${isPaused ? 'Paused' : 'Trained'} after ${counted(losses.length, 'step')}, ${counted(epochs.length, 'epoch')}: ${result}`;
}

/** What model and data suggest. */
function hint(): string {
  const { model, data, kind } = project;
  if (run) return 'Raise the epochs to train longer, or start over to change the other settings.';
  if (kind === 'digits' || !model || !data) return '';
  if (model.missing.length)
    return `No gradient for ${model.missing.join(', ')}: train the head only, or LoRA after it.`;
  const [has, needs] = [classesOf(model), data.classes];
  const { classes } = readForm();
  if (has && classes)
    return `A new head for ${counted(classes, 'class', 'classes')} replaces the ${has} outputs.`;
  if (has && needs && has !== needs)
    return `The data have ${needs} classes, the model has ${has} outputs: a new head for ${needs} fits.`;
  if (data.loss) return `Suggested loss: ${data.loss} (${data.reason}).`;
  return data.problem && !classes ? inPageTerms(data.problem) : '';
}

/** Takes over what the worker found. */
function showProject(found: Project): void {
  project = found;
  showFacts(found);
  fillLabels(found.data?.labels ?? []);
  showState();
}

/** After other files: settings that suit them, unless the address says otherwise. */
function suit(found: Project): void {
  run = undefined;
  showResults(emptyRecord(readForm()));
  byId('needs').textContent = '';
  showProject(found);
  const settings = fromAddress(defaults(found.kind));
  // The first one is the likely one, which is chosen where none is.
  if (!found.data?.labels.slice(1).includes(settings.label)) settings.label = '';
  const [has, needs] = [classesOf(found.model), found.data?.classes];
  if (found.kind === 'own' && has && needs && has !== needs && has > 1 && !inAddress('classes'))
    settings.classes = needs;
  fillForm(settings, defaults(found.kind));
  byId<HTMLDetailsElement>('options').open = found.kind === 'own';
  showState();
}

let isDrawn = false;
/** Events come faster than the page is painted. */
function redraw(): void {
  if (isDrawn) return;
  isDrawn = true;
  requestAnimationFrame(() => {
    isDrawn = false;
    progress.value = run && steps() ? run.losses.length / steps() : 0;
    showState();
  });
}

function follow(event: TrainEvent): void {
  if (!run || !isRunning) return;
  if (event.type === 'start') {
    run.stepsPerEpoch = event.stepsPerEpoch;
    run.losses = [...(event.history?.losses ?? [])];
    run.epochs = [...(event.history?.epochs ?? [])];
  } else if (event.type === 'step') run.losses.push(event.loss);
  else if (event.type === 'epoch') {
    run.epochs.push(event);
    showResults(run);
    const values = metricsOf(event).map(([name, value]) => `${name} ${value}`);
    announce(
      `Epoch ${event.epoch}: training loss ${short(event.trainLoss)}${values.length ? `; ${values.join(', ')}` : ''}`,
    );
  } else if (event.type === 'saved') {
    // The state is new: so is what the model takes the drawing for.
    recognize();
  }
  redraw();
}

/** The files are in the browser's storage, where the next worker finds them. */
async function useDevice(wanted: Settings['device']): Promise<void> {
  if (wanted === device) return;
  close();
  device = wanted;
  ({ api: worker, close } = connect(device, follow));
  await worker.open();
}

/** Shows what the run takes. Throws where that is more than there is. */
async function checkMemory(settings: Settings): Promise<void> {
  const needs = await worker.plan(settings);
  const text = needs ? describeNeeds(needs) : '';
  if (needs && !needs.fits) throw new Error(text);
  byId('needs').textContent = text;
}

/** Runs until done or paused. */
async function training(settings: Settings, start: () => Promise<RunRecord>): Promise<void> {
  const before = run;
  run = { ...(before ?? emptyRecord(settings)), settings };
  isRunning = true;
  showState();
  try {
    await useDevice(settings.device);
    run = await start();
    fillForm(run.settings);
    showResults(run);
  } catch (error) {
    // What was done before an error of the start is still there; otherwise nothing is.
    if (!run.losses.length) run = before;
    throw error;
  } finally {
    isRunning = false;
    showState();
    announce(byId('status').textContent ?? '');
    recognize();
  }
}

let asked = false;
let isAsking = false;
/** One question at a time, the last drawing counts. */
async function recognize(): Promise<void> {
  asked = true;
  if (isAsking || !isReady || project.kind !== 'digits') return;
  isAsking = true;
  try {
    while (asked) {
      asked = false;
      const pixels = drawing.pixels();
      showBars(pixels && (await worker.recognize(pixels)));
    }
  } catch {
    showBars(undefined);
  } finally {
    isAsking = false;
  }
}

const settingsChanged = () => {
  showFields();
  toAddress(readForm(), defaults(project.kind));
  showState();
};

form.onsubmit = event => {
  event.preventDefault();
  const settings = readForm();
  const isNew = !run;
  void attempt(() =>
    training(settings, async () => {
      if (isNew) await checkMemory(settings);
      return worker.train(settings);
    }),
  );
};
form.oninput = event => {
  settingsChanged();
  if ((event.target as HTMLInputElement).name === 'label')
    void attempt(async () => showProject(await worker.describe(readForm())));
};
// A field that is not valid is shown, so that the browser can say what is wrong with it.
form.addEventListener('invalid', () => byId('options').setAttribute('open', ''), true);
byId('pause').onclick = () => void worker.pause();
byId('restart').onclick = () =>
  void attempt(async () => {
    await worker.restart();
    suit(project);
    recognize();
  });
onFiles((files: Dropped[]) => {
  if (isRunning)
    return void attempt(async () => Promise.reject(new Error('Pause the run before choosing other files.')));
  void attempt(async () => {
    byId('status').textContent = `Reading ${counted(files.length, 'file')}…`;
    suit(await worker.add(files, readForm().label));
  });
});
byId('use-digits').onclick = () => void attempt(async () => suit(await worker.useDigits()));
byId('clear').onclick = () => {
  drawing.clear();
  showBars(undefined);
};
onTeach(digit => {
  const pixels = drawing.pixels();
  if (!pixels) return void attempt(async () => Promise.reject(new Error('Draw a digit first.')));
  const settings = readForm();
  run = undefined;
  void attempt(async () => {
    await training({ ...settings, epochs: 1 }, () => worker.teach(pixels, digit, settings));
    project.taught++;
    showFacts(project);
  });
});
for (const what of ['model', 'adapters'] as const)
  byId(`download-${what}`).onclick = () =>
    void attempt(async () => {
      const { name, bytes } = await worker.download(what);
      save(name, bytes, 'application/octet-stream');
    });
byId('download-report').onclick = () => save('report.html', report(project, run!, curve), 'text/html');
byId('download-json').onclick = () => save('report.json', reportData(project, run!), 'application/json');
new ResizeObserver(() => redraw()).observe(curve.parentElement!);

fillForm(fromAddress(defaults('digits')));
void attempt(async () => {
  const opened = await worker.open();
  isReady = true;
  fillOptimizers(opened.optimizers);
  run = opened.run;
  const webgpu = form.querySelector<HTMLOptionElement>('option[value=webgpu]')!;
  webgpu.disabled = opened.noWebgpu !== undefined;
  if (opened.noWebgpu) webgpu.textContent = `WebGPU (${opened.noWebgpu})`;
  if (run) {
    showProject(opened.project);
    fillForm(run.settings);
    showResults(run);
  } else suit(opened.project);
  if (!opened.keeps) announce('This browser keeps nothing after the page is closed.');
});
