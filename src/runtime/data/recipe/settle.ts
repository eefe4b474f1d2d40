/** The shape that an input's columns give, and whether it is the input's. */
import { AgdError } from '../../../graph/errors.js';
import { showShape } from '../../../graph/ir.js';
import type { ColumnRecipe, InputRecipe, Step, Windows } from '../../../passes/recipe/recipe.js';
import { imageDims } from '../images/recipe.js';
import type { ImageParameters } from '../images/spec.js';
import { LAST_TOKEN } from '../match.js';
import type { Chain } from './chain.js';
import type { PlannedInput, PlannedWindows } from './plan.js';

/** The recipe of an input whose columns are fitted. Throws `bad-shape`. */
export function settleDims(
  { spec, windows }: PlannedInput,
  chains: readonly Chain[],
  source: string,
): InputRecipe {
  const { name, dtype, shape, batchAxis = 0 } = spec;
  const last = chains[0]!.fitted.at(-1)!;
  if (last.step === 'image' && chains.length === 1) return settleImage(spec, chains[0]!, last.options);
  const sample = shape?.filter((_, i) => i !== (batchAxis ?? 0));
  const known = sample?.filter(d => typeof d === 'number');
  const isKnown = sample !== undefined && known!.length === sample.length;
  const product = (extents: readonly number[]) => extents.reduce((n, d) => n * d, 1);
  if (windows && !windows.documents && !isTokens(last))
    return settleRows(spec, windows, chains, isKnown ? product(known!) : undefined, source);
  const widths = chains.map(chain =>
    widthIn(chain, windows, isKnown && chains.length === 1 ? product(known!) : undefined),
  );
  const total = widths.reduce((n, w) => n + w, 0);
  const columns = chains.map(
    ({ column, field, fitted }, i): ColumnRecipe => ({
      column,
      kind: field.kind,
      width: widths[i]!,
      steps: fitted,
    }),
  );
  const array = chains.length === 1 && last.step === 'tensor' ? chains[0]! : undefined;
  // Bound as arrays without a recipe are: axes keep their order, and the type tells images.
  if (array?.dims && (array.dims.length > 1 || total === 1)) {
    const isNew = array.fitted.some(({ step }) => step === 'subtract' || step === 'argmax');
    const own = isNew ? undefined : array.field.dtype;
    return { input: name, dtype: own ?? dtype, dims: [...array.dims], columns };
  }
  const dims = dimsOf(sample, total, chains);
  if (!dims) throw misfit(spec, columns, total, source);
  const cut = windows && { ...stored(windows), ...documentsOf(windows, spec, last, source) };
  return { input: name, dtype, dims, columns, ...(cut ? { windows: cut } : {}) };
}

/** What pads windows of documents: the tokenizer's token, or else the first id, and the ignored class in the target. */
function documentsOf(
  { documents }: PlannedWindows,
  { name, isTarget, range }: PlannedInput['spec'],
  last: Step,
  source: string,
): Pick<Windows, 'documents'> {
  if (!documents) return {};
  if (documents === 'segments') return { documents: { fill: 0, segments: true } };
  if (!isTarget)
    return {
      documents: {
        fill: (last.step === 'tokens' || last.step === 'chat' || last.step === 'list' ? last.pad : 0) ?? 0,
      },
    };
  if (range?.ignored !== undefined) return { documents: { fill: range.ignored } };
  throw new AgdError(
    'bad-option',
    `Target '${name}' of the documents of ${source} has places without a token: name the class that stands there, as --ignore-index -100.`,
  );
}

const stored = ({ length, stride, shift }: PlannedWindows): Windows => ({ length, stride, shift });

/** Windows of rows: time before the numbers of a row, unless only the other order is the input's shape. */
function settleRows(
  spec: PlannedInput['spec'],
  windows: PlannedWindows,
  chains: readonly Chain[],
  wanted: number | undefined,
  source: string,
): InputRecipe {
  const { name, dtype, shape, batchAxis = 0 } = spec;
  const columns = chains.map(
    ({ column, field, fitted, width }): ColumnRecipe => ({ column, kind: field.kind, width, steps: fitted }),
  );
  const width = columns.reduce((n, column) => n + column.width, 0);
  const length = windows.length || Math.max(1, Math.floor((wanted ?? width) / width));
  const sample = shape?.filter((_, i) => i !== (batchAxis ?? 0));
  const dims = dimsOf(sample, length * width, chains);
  if (!dims) throw misfit(spec, columns, length * width, source, length);
  const channelsFirst = dims.length === 2 && dims[0] === width && dims[1] === length && width !== length;
  const isTurned = channelsFirst && width > 1 && length > 1;
  const own = { ...stored({ ...windows, length }), ...(isTurned ? { channelsFirst } : {}) };
  return { input: name, dtype, dims, columns, windows: own };
}

const isTokens = ({ step }: Step) => step === 'tokens' || step === 'characters' || step === 'bytes';

/** The shape of images, or masks, follows from the input and the options. */
function settleImage(
  spec: PlannedInput['spec'],
  { column, field, fitted }: Chain,
  options: ImageParameters,
): InputRecipe {
  const { name, dtype } = spec;
  const dims = imageDims(spec, options);
  const width = dims.reduce((n, d) => n * d, 1);
  return { input: name, dtype, dims, columns: [{ column, kind: field.kind, width, steps: fitted }] };
}

/** Texts without a length take the input's. */
function widthIn(chain: Chain, windows: PlannedWindows | undefined, wanted: number | undefined): number {
  const last = chain.fitted.at(-1)!;
  if (windows) {
    // Running text has no length of its own.
    if (isTokens(last)) Object.assign(last, { length: null });
    return windows.length;
  }
  const isOpen =
    (last.step === 'tokens' || last.step === 'characters' || last.step === 'bytes') && last.length === null;
  if (!isOpen) return chain.width;
  if (wanted !== undefined) return wanted;
  throw new AgdError(
    'bad-option',
    `--columns ${chain.input}=${chain.column}: ${last.step} needs a length, as in ${last.step === 'tokens' ? 'tokenizer(FILE,length=128)' : `${last.step}(length=128)`}.`,
  );
}

/** The shape of a sample of `total` numbers; one extent that is open follows from the others. */
function dimsOf(
  sample: readonly (number | string | null)[] | undefined,
  total: number,
  [first]: readonly Chain[],
): number[] | undefined {
  const own = first?.dims;
  if (!sample) return own ? [...own] : total === 1 ? [] : [total];
  const open = sample.filter(d => typeof d !== 'number').length;
  const known = sample.reduce<number>((n, d) => (typeof d === 'number' ? n * d : n), 1);
  if (open === 0) return known === total ? (sample as number[]) : undefined;
  if (open === 1 && known > 0 && total % known === 0)
    return sample.map(d => (typeof d === 'number' ? d : total / known));
  return own && own.length === sample.length ? [...own] : undefined;
}

/** What makes several numbers of a value. Of a column that is text for a few values only, the first of them. */
function madeOf(last: Step): string {
  if (last.step === 'multi-hot') return ' (multi-hot)';
  if (last.step !== 'one-hot') return '';
  const texts = last.table.filter(key => Number.isNaN(Number(key)));
  const isMostlyNumbers = last.table.length > 4 && texts.length * 2 < last.table.length;
  return texts.length && isMostlyNumbers ? ` (one-hot, as '${texts[0]}' is no number)` : ' (one-hot)';
}

/** More columns than this are not told one by one. */
const FEW = 16;

function misfit(
  { name, shape, isTarget, ofLastToken }: PlannedInput['spec'],
  columns: readonly ColumnRecipe[],
  total: number,
  source: string,
  length?: number,
): AgdError {
  const gives = columns
    .slice(0, FEW)
    .map(({ column, width, steps }) => `${column} ${width}${madeOf(steps.at(-1)!)}`);
  const more = columns.length > FEW ? ` and ${columns.length - FEW} more columns` : '';
  const sample = showShape(shape?.slice(1));
  const advice = ofLastToken
    ? `T${LAST_TOKEN.slice(1)}`
    : `Choose columns and transforms with --columns '${name}=COLUMN:TRANSFORM,…'.`;
  return new AgdError(
    'bad-shape',
    `${isTarget ? 'Target' : 'Input'} '${name}' takes ${sample} per sample, but the columns of ${source} give ${total}: ${length === undefined ? '' : `windows of ${length} rows with `}${gives.join(', ')}${more}. ${advice}`,
  );
}
