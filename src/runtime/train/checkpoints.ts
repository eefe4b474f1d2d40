/**
 * The versions of a run's state that are kept: the best ones by the monitored value, and the last ones. They are in memory
 * until the state is saved, then in a folder beside it, `STATE.checkpoints/`. The state lists the files that belong to it, so
 * its rename is the one moment at which a new set takes the place of the old: files are written before it, and removed after
 * it.
 */
import { existsSync } from 'node:fs';
import { mkdir, readdir, rmdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { loadModel } from '../../graph/files.js';
import type { Model } from '../../graph/ir.js';
import { saveState } from '../../graph/state-file.js';
import type { BestEpoch } from './events.js';
import type { Direction } from './monitor.js';
import { type KeptCheckpoint, readRun } from './run-state.js';

type Kept = KeptCheckpoint & { source: Model | string };

export type Retention = {
  /** How many of the best epochs to keep. */
  best: number;
  /** How many of the last saved versions to keep. */
  last: number;
  better: Direction;
};

export const checkpointFolder = (state: string) => `${state}.checkpoints`;

/** The best epoch of a run, with its file beside the state, and whether the state has the same weights. */
export type BestCheckpoint = BestEpoch & { file: string; isLast: boolean };

/** That of the run in `model`, which was read from `state`; undefined where the state does not record one. */
export async function bestCheckpoint(model: Model, state: string): Promise<BestCheckpoint | undefined> {
  const { best, checkpoints = [], history } = (await readRun(model)) ?? {};
  const kept = checkpoints.find(({ epoch }) => epoch !== undefined && epoch === best?.epoch);
  if (!kept || typeof best?.metric !== 'string' || typeof best.value !== 'number') return undefined;
  const file = join(checkpointFolder(state), kept.file);
  return { ...best, file, isLast: kept.step === history!.losses.length };
}

const fileOf = (step: number) => `step-${String(step).padStart(8, '0')}.agd.onnx`;
/** What a version may leave in the folder: its file, the data of a large one, and what a kill leaves of either. */
const OWN = /^\.?step-\d{8,}\.agd\.onnx(\.[0-9a-f]{12}\.data|\.\d+-[0-9a-f]{12}\.tmp)*$/;

export class Checkpoints {
  #kept: Kept[] = [];

  constructor(private readonly retention: Retention) {}

  /** Those of a state that a run is resumed from, as far as their files exist. Returns the names of files that do not. */
  restore(list: readonly KeptCheckpoint[], state: string): string[] {
    const found = list.map(one => ({ ...one, source: join(checkpointFolder(state), one.file) }));
    this.#kept = found.filter(({ source }) => existsSync(source));
    return found.filter(one => !this.#kept.includes(one)).map(({ source }) => source);
  }

  /** What is kept, in the order of steps. */
  get list(): KeptCheckpoint[] {
    return this.#kept.map(({ source, ...one }) => one);
  }

  /** A version of the state after `step` steps: with `epoch` and `value` one to compare, with `isLast` one that was saved. */
  add(model: Model, step: number, given: { epoch?: number; value?: number; isLast?: true }): void {
    const { source = model, ...before } = this.#kept.find(one => one.step === step) ?? {};
    const others = this.#kept.filter(one => one.step !== step);
    this.#kept = [...others, { ...before, ...given, file: fileOf(step), step, source }];
    this.#kept.sort((a, b) => a.step - b.step);
    const { best, last } = this.retention;
    const chosen = new Set([
      ...this.#ranked().slice(0, best),
      ...(last ? this.#kept.filter(({ isLast }) => isLast).slice(-last) : []),
    ]);
    this.#kept = this.#kept.filter(one => chosen.has(one));
  }

  /** Whether it is known which version is the best. */
  get keepsBest(): boolean {
    return this.retention.best > 0;
  }

  /** Compares versions by other values of their epochs, as where another metric is monitored than before. */
  revalue(value: (epoch: number) => number | undefined): void {
    this.#kept = this.#kept.map(one => ({
      ...one,
      value: one.epoch === undefined ? undefined : (value(one.epoch) ?? one.value),
    }));
  }

  bestEpoch(metric: string): BestEpoch | undefined {
    const [first] = this.#ranked();
    return first && { epoch: first.epoch!, metric, value: first.value! };
  }

  async bestModel(): Promise<Model | undefined> {
    const source = this.#ranked()[0]?.source;
    return typeof source === 'string' ? loadModel(source) : source;
  }

  /** Writes what is in memory beside `state`, which is to be saved next with the list that this leaves. Returns the new files. */
  async write(state: string): Promise<string[]> {
    const folder = checkpointFolder(state);
    const written: string[] = [];
    for (const one of this.#kept) {
      const path = join(folder, one.file);
      if (one.source === path) continue;
      const model = typeof one.source === 'string' ? await loadModel(one.source) : one.source;
      await mkdir(folder, { recursive: true });
      try {
        await saveState(model, path);
      } catch (error) {
        // An empty folder would be all that is left of a full disk.
        await rmdir(folder).catch(() => {});
        throw error;
      }
      one.source = path;
      written.push(path);
    }
    return written;
  }

  /** Removes what `state`, which has been saved, does not list. */
  async prune(state: string): Promise<void> {
    const folder = checkpointFolder(state);
    const files = await readdir(folder).catch(() => []);
    const isKept = (name: string) =>
      this.#kept.some(({ file }) => name === file || (name.startsWith(`${file}.`) && name.endsWith('.data')));
    // The file of a version goes before the data that it names.
    const others = files.filter(name => OWN.test(name) && !isKept(name)).sort();
    for (const name of others) await unlink(join(folder, name)).catch(() => {});
    if (files.length && !this.#kept.length) await rmdir(folder).catch(() => {});
  }

  /** Best first; of equal ones the earliest. */
  #ranked(): Kept[] {
    const sign = this.retention.better === 'higher' ? -1 : 1;
    return this.#kept
      .filter(({ value }) => value !== undefined && !Number.isNaN(value))
      .sort((a, b) => sign * (a.value! - b.value!) || a.step - b.step);
  }
}
