/** What the page and its worker tell each other. */
import type {
  BestEpoch,
  ColumnSummary,
  Device,
  EndEvent,
  EpochEvent,
  Inspection,
  JudgedSample,
  TrainEvent,
} from 'agd-onnx/web';
import type { Needs } from './page/needs.js';

export type Settings = {
  /** Of the library's losses; empty for the one that suits model and data. */
  loss: string;
  /** Column of the target; empty for the one that is likely. */
  label: string;
  optimizer: string;
  /** 0 for the optimizer's default. */
  lr: number;
  epochs: number;
  batch: number;
  /** Share of the samples kept for validation. */
  split: number;
  trains: 'all' | 'head' | 'lora' | 'match';
  /** Globs of the parameters, or of the layers that take adapters. */
  match: string;
  rank: number;
  /** Whether the results of operators are kept for the backward pass, or computed again. */
  activations: '' | 'recompute';
  /** Of a new head; 0 keeps the model's. */
  classes: number;
  device: Device;
};

export type ModelFacts = Pick<Inspection, 'inputs' | 'outputs' | 'parameters' | 'kind'> & {
  name: string;
  bytes: number;
  /** Operators without a gradient on the way from a parameter to an output. */
  missing: string[];
  /** Why it cannot be trained. */
  problem?: string;
};

export type DataFacts = {
  name: string;
  kind: 'table' | 'arrays';
  samples: number;
  columns: ColumnSummary[];
  /** Arrays by name, with their types. */
  arrays: { name: string; type: string }[];
  /** The likely target, and what else could be it. */
  labels: string[];
  /** Distinct values of the target. */
  classes?: number;
  /** The loss that suits, and why. */
  loss?: string;
  reason?: string;
  /** Why no training can be suggested. */
  problem?: string;
};

export type Project = {
  kind: 'digits' | 'own';
  model?: ModelFacts;
  data?: DataFacts;
  /** Drawings that were added to the digits. */
  taught: number;
  /** Names of files that were just added and are neither model nor data. */
  ignored?: string[];
};

/** A run as far as it went; kept beside its state. */
export type RunRecord = {
  settings: Settings;
  losses: number[];
  epochs: EpochEvent[];
  stepsPerEpoch: number;
  /** Samples that the model trains on. */
  samples: number;
  parameters: number;
  best?: BestEpoch;
  reason?: EndEvent['reason'];
  worst: JudgedSample[];
  notes: string[];
};

export type Opened = {
  project: Project;
  run?: RunRecord;
  /** Whether the browser keeps files after the page is closed. */
  keeps: boolean;
  /** Names of the library's optimizers. */
  optimizers: readonly string[];
  /** Why WebGPU cannot be used here. */
  noWebgpu?: string;
};

/** A file and its place in the folder that was dropped. */
export type Dropped = { path: string; file: File };

/** The functions of the worker. */
export type Api = {
  open(): Promise<Opened>;
  /** `label` stays the target where the data have such a column. */
  add(files: Dropped[], label: string): Promise<Project>;
  useDigits(): Promise<Project>;
  describe(settings: Settings): Promise<Project>;
  /** Undefined where that depends on extents that the model leaves open. */
  plan(settings: Settings): Promise<Needs | undefined>;
  /** Trains until done or paused. */
  train(settings: Settings): Promise<RunRecord>;
  pause(): Promise<void>;
  /** Discards the run. */
  restart(): Promise<void>;
  /** Adds a drawing, and trains on it. */
  teach(pixels: Uint8Array, label: number, settings: Settings): Promise<RunRecord>;
  /** The probability of each digit. */
  recognize(pixels: Uint8Array): Promise<number[]>;
  download(what: 'model' | 'adapters'): Promise<{ name: string; bytes: Uint8Array<ArrayBuffer> }>;
};

export type Request = { id: number; call: keyof Api; args: unknown[] };
export type Answer = { id: number; value: unknown } | { id: number; error: string } | { event: TrainEvent };
