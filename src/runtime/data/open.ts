/** The one way from files of data to what a model is fed. */
import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import { type ColumnsOption, readColumns } from '../../passes/recipe/columns.js';
import type { Recipe } from '../../passes/recipe/recipe.js';
import { checkAugmented, dataOf, finiteRows, isSplit, sampled, splitBy } from './arrays.js';
import { type BindOptions, bindData, type InputSpec } from './bind.js';
import { notesOnCopies } from './copied-tokens.js';
import type { Data, DataBinding, DataOptions } from './data.js';
import type { Dataset } from './dataset.js';
import { type Encoded, encodeSource } from './encoded.js';
import { gatherBlock } from './gather.js';
import { describeImageInputs } from './images/recipe.js';
import { joinArrays, readAll } from './join.js';
import { loadArrays } from './load.js';
import { watched } from './progress.js';
import { someRows } from './some-rows.js';
import type { Field, Source, Values } from './source.js';
import { expandPaths, formatOf, type OpenSource, openSource } from './sources/open.js';
import { type Split, splitEnd } from './split.js';

/** Opens the files that paths and globs name, which are read one after the other. Throws `io`, `bad-data`, `bad-option`. */
export async function openData(paths: string | readonly string[], options: DataOptions = {}): Promise<Data> {
  const files = await expandPaths([paths].flat() as string[]);
  const name = files.length === 1 ? files[0]! : `${files[0]} and ${files.length - 1} more`;
  const formats = await Promise.all(files.map(formatOf));
  const hasSpec =
    options.columns !== undefined || options.label !== undefined || options.recipe !== undefined;
  if (formats.every(format => format === 'arrays')) {
    const { columns, recipe, skipMissing } = options;
    const { arrays, notes } = finiteRows(await readArrays(files, columns, recipe), name, skipMissing);
    if (!hasSpec) {
      const data = dataOf(arrays, name, options, { notes, columns: new Map() });
      const bind: Data['bind'] = async (inputs, binding = {}) =>
        noted(await data.bind(inputs, binding), inputs, binding);
      return { ...data, bind };
    }
    const { withDimsOf } = await import('./recipe/array-steps.js');
    const own = recipe ? { recipe: withDimsOf(recipe, arrays) } : {};
    return new Table({ source: arraysAsSource(arrays, name), notes }, files, { ...options, ...own });
  }
  const opened = await openTable(files, formats, options);
  return new Table(await withoutMissing(opened, options), files, options);
}

/** The records of the files that paths and globs name, as they are. Throws `io`, and `bad-data` for files of arrays. */
export async function openRecords(paths: string | readonly string[], recipe?: Recipe): Promise<Source> {
  const files = await expandPaths([paths].flat() as string[]);
  const formats = await Promise.all(files.map(formatOf));
  const arrays = files[formats.indexOf('arrays')];
  if (arrays !== undefined)
    throw new AgdError(
      'bad-data',
      `${arrays} holds arrays, not columns: they feed the inputs of their names, as in agd-onnx train MODEL --data ${arrays} --loss cross-entropy.`,
    );
  return (await openTable(files, formats, { recipe })).source;
}

/** The same; rows of arrays are records too. Columns are of the kinds that the recipe has. */
export async function openRows(paths: string | readonly string[], recipe?: Recipe): Promise<Source> {
  const files = await expandPaths([paths].flat() as string[]);
  if (!(await areArrays(files))) return openRecords(files, recipe);
  return arraysAsSource(await readArrays(files, undefined, recipe), files.join(', '));
}

/** The arrays of all files, samples first where a transpose of the columns or the recipe has them on another axis. */
async function readArrays(
  files: readonly string[],
  columns?: ColumnsOption,
  recipe?: Recipe,
): Promise<Map<string, Tensor>> {
  const loaded: { path: string; arrays: Map<string, Tensor> }[] = [];
  for (const path of files) loaded.push({ path, arrays: await loadArrays(path) });
  if (columns || recipe) {
    const { sampleAxes, withSamplesFirst } = await import('./recipe/array-steps.js');
    const axes = sampleAxes(columns, recipe);
    for (const file of loaded) file.arrays = withSamplesFirst(file.arrays, axes);
  }
  return loaded.length === 1 ? loaded[0]!.arrays : joinArrays(loaded);
}

/** Whether all files hold arrays, not records. Throws `io`, `bad-data`. */
export async function areArrays(paths: string | readonly string[]): Promise<boolean> {
  const files = await expandPaths([paths].flat() as string[]);
  return (await Promise.all(files.map(formatOf))).every(format => format === 'arrays');
}

async function openTable(
  files: readonly string[],
  formats: readonly string[],
  { recipe, skipDamaged, progress }: DataOptions,
): Promise<OpenTable> {
  const { openImageFolder, resolveImages } = await import('./sources/images.js');
  if (files.length === 1 && formats[0] === 'folder') {
    const source = await openImageFolder(files[0]!);
    const { ignored } = source;
    const notes = ignored
      ? [`Ignored ${ignored} file${ignored === 1 ? '' : 's'} of ${files[0]} that are not images.`]
      : [];
    return skipDamaged ? withoutDamaged(source, notes) : { source, notes };
  }
  const { kindsOf } = await import('./recipe/apply-recipe.js');
  // The first file tells which columns are paths; each file has those from its own folder.
  const opened = await openSource(files, {
    kinds: recipe && kindsOf(recipe),
    wrap: (source, file, first) => resolveImages(source, file, first && imagesOf(first)),
    progress,
  });
  const { source } = opened;
  try {
    if (skipDamaged && imagesOf(source).length) return await withoutDamaged(source, []);
    return { ...opened, notes: [] };
  } catch (error) {
    await source.close().catch(() => {});
    throw error;
  }
}

/** Throws `missing-data` for a column that is not there. */
async function withoutMissing(
  opened: OpenTable,
  { skipMissing: columns = [], progress }: DataOptions,
): Promise<OpenTable> {
  if (!columns.length) return opened;
  const { source, notes } = opened;
  const { noSuchColumn } = await import('./recipe/plan.js');
  const fields = new Map(source.fields.map(field => [field.name, field]));
  const unknown = columns.find(column => !fields.has(column));
  if (unknown !== undefined) throw noSuchColumn('--skip-missing', unknown, fields, source);
  const pass = watched(source, 'index', progress);
  const rows: number[] = [];
  let first = 0;
  for (const [index, count] of source.blocks.entries()) {
    const { values } = await pass.read(index, columns);
    for (let row = 0; row < count; row++)
      if (columns.every(column => !isMissing(values.get(column)!, row))) rows.push(first + row);
    first += count;
  }
  if (!rows.length)
    throw new AgdError('bad-data', `--skip-missing ${columns.join(', ')} leaves no row of ${source.name}.`);
  if (rows.length === first) return opened;
  const note = `Left out ${first - rows.length} of ${first} rows of ${source.name}, which have no ${columns.join(', or no ')}.`;
  const kept = Uint32Array.from(rows);
  return { ...opened, source: someRows(source, kept), rows: kept, notes: [...notes, note] };
}

/** Whether a row has no value. */
function isMissing(values: Values, row: number): boolean {
  if (values instanceof Tensor) return false;
  const value = values[row];
  return value === null || value === '' || Number.isNaN(value);
}

/** `notes` are lines for the user on what is left out. */
type OpenTable = OpenSource & { notes: readonly string[] };

const imagesOf = ({ fields }: Source) =>
  fields.filter(({ kind }) => kind === 'image').map(({ name }) => name);

async function withoutDamaged(source: Source, notes: readonly string[]): Promise<OpenTable> {
  const { describeDamaged, findDamaged } = await import('./images/damaged.js');
  const found = await findDamaged(source, imagesOf(source));
  const note = describeDamaged(found);
  if (note === undefined) return { source, notes };
  return { source: someRows(source, found.rows), notes: [...notes, note] };
}

/** More different values than this are no classes. */
const MOST_CLASSES = 10_000;

/** Records: their columns feed inputs by a recipe. */
class Table implements Data {
  recipe: Recipe | undefined;
  private readonly options: DataOptions;
  readonly #source: Source;
  #bound: { key: string; encoded: Encoded; notes: readonly string[] } | undefined;
  #split: Promise<Split> | undefined;

  constructor(
    private readonly opened: OpenTable,
    private readonly files: readonly string[],
    options: DataOptions,
  ) {
    this.options = { ...options };
    this.#source = opened.source;
    this.recipe = options.recipe;
  }

  get name(): string {
    return this.#source.name;
  }

  use(recipe: Recipe | undefined): void {
    if (!recipe || this.options.recipe || this.options.columns || this.options.label !== undefined) return;
    this.options.recipe = recipe;
    this.recipe = recipe;
  }

  get isSplit(): boolean {
    return isSplit(this.options);
  }

  get #rows(): number {
    return this.#source.blocks.reduce((n, rows) => n + rows, 0);
  }

  async bind(inputs: readonly InputSpec[], binding: DataBinding = {}): Promise<Dataset> {
    const data = await this.#whole(inputs, binding);
    const split = await this.#splitOf(inputs, binding, data);
    const train = split ? data.subset(split.train) : data;
    return sampled(
      train,
      this.options,
      binding,
      () => this.#weights(),
      async () => {
        const classes = await this.#classes(inputs, binding);
        return classes && split ? Int32Array.from(split.train, row => classes[row]!) : classes;
      },
    );
  }

  async validation(inputs: readonly InputSpec[], binding: DataBinding = {}): Promise<Dataset | undefined> {
    if (!isSplit(this.options)) return undefined;
    const data = await this.#whole(inputs, binding);
    return data.subset((await this.#splitOf(inputs, binding, data))!.validation);
  }

  /** The first samples, of a recipe that sees all rows: what widths and tables it has does not follow from a few. */
  async preview(inputs: readonly InputSpec[], binding: DataBinding = {}): Promise<Dataset> {
    const { recipe } = await this.#fit(inputs, binding);
    const first = await firstRows(this.#source);
    const encoded = await encodeSource({ source: first }, { recipe, inputs: inputs.map(i => i.name) });
    return bindData(
      'arrays' in encoded ? encoded.arrays : encoded.samples,
      inputs,
      boundBy(recipe, binding, this.name),
    );
  }

  has(name: string): boolean {
    const { columns = {}, recipe } = this.options;
    const isField = this.#source.fields.some(field => field.name === name);
    const asked = [...readColumns(columns).values()].flat().flatMap(({ transforms = [] }) => transforms);
    const isMade = asked.some(({ options: { mask, types } }) => mask === name || types === name);
    const isFed = isField || isMade || Object.hasOwn(columns, name);
    return isFed || !!recipe?.inputs.some(({ input }) => input === name);
  }

  /** Of the files: their sizes, and their first and last megabyte. */
  async fingerprint(): Promise<number> {
    let sum = crc32(
      JSON.stringify(
        [this.options.columns, this.options.label, this.options.skipMissing].filter(x => x !== undefined),
      ),
    );
    for (const path of this.files) sum = await fileChecksum(path, sum);
    return sum;
  }

  async close(): Promise<void> {
    const bound = this.#bound?.encoded;
    if (bound && 'close' in bound) await bound.close();
    await this.#source.close();
  }

  /** All samples. Encoded once for the same inputs. */
  async #whole(inputs: readonly InputSpec[], binding: DataBinding): Promise<Dataset> {
    const key = JSON.stringify([inputs.map(({ name, dtype, shape }) => [name, dtype, shape]), binding]);
    if (this.#bound?.key !== key) {
      const { recipe, notes } = await this.#fit(inputs, binding, await this.#fittedRows(inputs, binding));
      const before = this.#bound?.encoded;
      if (before && 'close' in before) await before.close();
      const { shuffleBuffer, augment, progress } = this.options;
      const hasImages = recipe.inputs.some(({ columns }) => columns[0]!.steps.at(-1)!.step === 'image');
      checkAugmented(augment, this.name, hasImages);
      const spec = { recipe, inputs: inputs.map(i => i.name), ...(augment ? { augment } : {}) };
      const encoded = await encodeSource(this.opened, spec, { shuffleBuffer, progress });
      this.recipe = recipe;
      const images = this.options.recipe ? [] : describeImageInputs(recipe);
      this.#bound = {
        key,
        encoded,
        notes: [...this.opened.notes, ...notes, ...images, ...(encoded.notes ?? [])],
      };
    }
    const { encoded, notes } = this.#bound;
    const recipe = this.recipe!;
    const data = 'arrays' in encoded ? encoded.arrays : encoded.samples;
    const bound = bindData(data, inputs, boundBy(recipe, binding, this.name)).with({
      notes,
      shuffleBuffer: this.options.shuffleBuffer,
    });
    return noted(bound, inputs, binding);
  }

  /** The recipe for these inputs, fitted on these rows or all; as it was given where one was. */
  async #fit(inputs: readonly InputSpec[], binding: DataBinding, rows?: Uint32Array) {
    const { recipe } = this.options;
    if (recipe) return { recipe, notes: [] };
    const { fitRecipe } = await import('./recipe/fit-recipe.js');
    const source = watched(this.#source, 'fit', this.options.progress);
    // What was fitted on all rows is not what is fitted on some.
    const fitted = isSplit(this.options) ? undefined : this.recipe;
    const [spec, wanted] = [this.#spec(binding), recipeInputs(inputs, binding)];
    const found = await fitRecipe(source, spec, wanted, { fitted, rows });
    if (!isSplit(this.options)) this.recipe = found.recipe;
    if (!fitted) return found;
    // What was decided before is told too.
    const { planColumns, showPlan } = await import('./recipe/plan.js');
    const plan = planColumns(source, spec, wanted);
    return { recipe: found.recipe, notes: showPlan(plan, new Map(plan.inputs.map(part => [part, []]))) };
  }

  /** `--map` names columns too. */
  #spec({ map = {} }: DataBinding) {
    const { columns, label } = this.options;
    const mapped = Object.fromEntries(Object.entries(map).map(([input, column]) => [input, [column]]));
    const all = { ...mapped, ...columns };
    return {
      ...(Object.keys(all).length ? { columns: all } : {}),
      ...(label === undefined ? {} : { label }),
    };
  }

  /** Samples for training and validation; `data` are all of them, where they are windows. */
  async #splitOf(
    inputs: readonly InputSpec[],
    binding: DataBinding,
    data?: Dataset,
  ): Promise<Split | undefined> {
    const { valSplit } = this.options;
    if (!isSplit(this.options)) return undefined;
    const overlap = overlapOf(this.recipe);
    if (data && overlap !== undefined) {
      if (overlap === 'none') return splitBy(this.options, data.length, undefined);
      if (valSplit === undefined) throw noFoldsOfWindows(this.name);
      return splitEnd(data.length, valSplit, overlap);
    }
    this.#split ??= this.#classes(inputs, binding).then(classes =>
      splitBy(this.options, this.#rows, classes),
    );
    return this.#split;
  }

  /** The rows that the recipe is fitted on; undefined for all. */
  async #fittedRows(inputs: readonly InputSpec[], binding: DataBinding): Promise<Uint32Array | undefined> {
    const { valSplit, recipe } = this.options;
    if (!isSplit(this.options) || recipe) return undefined;
    const { hasRowWindows, planColumns } = await import('./recipe/plan.js');
    const plan = planColumns(this.#source, this.#spec(binding), recipeInputs(inputs, binding));
    if (!plan.inputs.some(({ windows }) => windows)) return (await this.#splitOf(inputs, binding))!.train;
    if (plan.inputs.some(({ windows }) => windows?.documents)) return undefined;
    if (valSplit === undefined) throw noFoldsOfWindows(this.name);
    // Running text has few rows, each of many windows: its tables are those of all of it.
    return hasRowWindows(plan) ? splitEnd(this.#rows, valSplit).train : undefined;
  }

  /** The class of each row, numbered as they come, where the target's column has few different values. */
  async #classes(inputs: readonly InputSpec[], binding: DataBinding): Promise<Int32Array | undefined> {
    const field = await this.#classField(inputs, binding);
    if (!field) return undefined;
    const numbers = new Map<unknown, number>();
    const classes = new Int32Array(this.#rows);
    let row = 0;
    const source = watched(this.#source, 'fit', this.options.progress);
    for (const block of source.blocks.keys()) {
      const { values } = await source.read(block, [field.name]);
      for (const value of values.get(field.name) as ArrayLike<unknown> & Iterable<unknown>) {
        let number = numbers.get(value);
        if (number === undefined) {
          number = numbers.size;
          numbers.set(value, number);
          if (number >= MOST_CLASSES) return undefined;
        }
        classes[row++] = number;
      }
    }
    return classes;
  }

  /** The column of the target, where it may hold classes. */
  async #classField(inputs: readonly InputSpec[], binding: DataBinding) {
    const fields = new Map(this.#source.fields.map(field => [field.name, field]));
    const { recipe } = this.options;
    const target = inputs.find(({ name }) => name === binding.labels?.[0]);
    let found: { fields: readonly (Field | undefined)[]; windows?: unknown } | undefined;
    if (recipe) {
      const { columns, windows } = recipe.inputs.find(({ input }) => input === target?.name) ?? {
        columns: [],
      };
      found = { fields: columns.map(({ column }) => fields.get(column)), windows };
    } else {
      const { planColumns } = await import('./recipe/plan.js');
      const plan = planColumns(this.#source, this.#spec(binding), recipeInputs(inputs, binding));
      const own = plan.inputs.find(({ spec }) => spec.isTarget);
      found = own && { fields: own.columns.map(({ field }) => field), windows: own.windows };
    }
    const [field, ...others] = found?.fields ?? [];
    if (!field || others.length || found!.windows || !['text', 'bool', 'integer'].includes(field.kind))
      return undefined;
    return field.kind === 'integer' && isFloat(target!.dtype) ? undefined : field;
  }

  async #weights(): Promise<Float64Array> {
    const { sampleWeights } = this.options;
    const field = this.#source.fields.find(({ name }) => name === sampleWeights);
    if (!field || !['number', 'integer', 'bool'].includes(field.kind))
      throw new AgdError(
        'missing-data',
        `${this.name} has no column '${sampleWeights}' of numbers for --sample-weights.`,
      );
    const { values } = await readAll(this.#source, [field.name]);
    return Float64Array.from(values.get(field.name) as ArrayLike<number>, Number);
  }
}

const noFoldsOfWindows = (name: string) =>
  new AgdError(
    'bad-option',
    `--folds: samples of ${name} are windows that overlap, so a fold would share values with the others. --val-split keeps the last windows for validation.`,
  );

/** How many windows after one have places in common with it; none of documents; undefined where samples are rows. */
function overlapOf(recipe: Recipe | undefined): number | 'none' | undefined {
  const windows = recipe?.inputs.flatMap(input => input.windows ?? []) ?? [];
  if (windows.some(({ documents }) => documents)) return 'none';
  const span = Math.max(...windows.map(({ shift, length }) => shift + length));
  return windows.length ? Math.ceil(span / windows[0]!.stride) - 1 : undefined;
}

const noted = (data: Dataset, inputs: readonly InputSpec[], { labels }: DataBinding) =>
  data.with({ notes: notesOnCopies(data, inputs, labels) });

const recipeInputs = (inputs: readonly InputSpec[], { labels = [] }: DataBinding) =>
  inputs.map(input => ({ ...input, isTarget: input.name === labels[0] }));

/** Arrays of a recipe have the names of their inputs. */
function boundBy(recipe: Recipe, { map: _, ...binding }: DataBinding, source: string): BindOptions {
  const columns = recipe.inputs
    .filter(({ columns }) => columns.length === 1)
    .map(({ input, columns: [only] }) => [input, only!] as const);
  return { ...binding, source, columns: new Map(columns) };
}

const PREVIEW_ROWS = 256;

/** The first rows of the first block. */
async function firstRows(source: Source): Promise<Source> {
  const block = source.blocks.findIndex(rows => rows > 0);
  const rows = Math.min(PREVIEW_ROWS, source.blocks[block] ?? 0);
  const numbers = Uint32Array.from({ length: rows }, (_, i) => i);
  return {
    ...source,
    blocks: [rows],
    read: async (_, fields) => gatherBlock(await source.read(block, fields), numbers),
    close: async () => {},
  };
}

/** Arrays as records of tensors, for which columns are named. Throws `bad-shape` where they differ in rows. */
function arraysAsSource(arrays: ReadonlyMap<string, Tensor>, name: string): Source {
  const rows = [...arrays.values()].find(({ dims }) => dims.length)?.dims[0] ?? 0;
  const sampled = [...arrays].filter(([, { dims }]) => dims[0] === rows);
  return {
    name,
    fields: sampled.map(([field, { dtype, dims }]) => ({
      name: field,
      kind: 'tensor',
      dtype,
      dims: dims.slice(1),
    })),
    blocks: [rows],
    read: async (_, fields) => ({
      rows,
      values: new Map<string, Values>(sampled.filter(([field]) => !fields || fields.includes(field))),
    }),
    close: async () => {},
  };
}

const EDGE = 2 ** 20;

/** Of large files the size, the first and the last megabyte: reading all of it would take as long as an epoch. */
async function fileChecksum(path: string, sum: number): Promise<number> {
  const info = await stat(path).catch(() => undefined);
  if (info?.isDirectory()) return folderChecksum(path, sum);
  // A pipe whose other end is closed cannot be opened again: opening it waits for a writer.
  if (info && !info.isFile()) return crc32(path, sum);
  const handle = await open(path).catch(() => undefined);
  if (!info || !handle) return sum;
  try {
    let found = crc32(`${info.size} `, sum);
    for (const position of [0, Math.max(0, info.size - EDGE)]) {
      const { bytesRead, buffer } = await handle.read(new Uint8Array(EDGE), 0, EDGE, position);
      found = crc32(buffer.subarray(0, bytesRead), found);
    }
    return found;
  } finally {
    await handle.close();
  }
}

/** Of the names and lengths of the files. */
async function folderChecksum(folder: string, sum: number): Promise<number> {
  const entries = await readdir(folder, { recursive: true });
  let found = sum;
  for (const name of entries.sort()) {
    const { size } = await stat(join(folder, name));
    found = crc32(`${name} ${size} `, found);
  }
  return found;
}
