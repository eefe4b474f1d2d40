/** Stores the original file in the injected one, and restores it with the trained values. */
import { concatBytes, fromBase64, plain, toBase64 } from '../../graph/bytes.js';
import type { DType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Model, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { cutTensors, fillTensors, type Hole, patchModel } from '../../graph/patch.js';
import { type Place, tensorsOf } from '../../graph/places.js';
import { decodeModel, encodeModel, inPlace, noFiles } from '../../graph/proto/codec.js';
import { locateTensors } from '../../graph/proto/locate.js';
import { Tensor } from '../../graph/tensor.js';
import { beforeWidening } from '../normalize/widen-bfloat16.js';

const BYTES = 'agd.original';
const HOLES = 'agd.original.holes';
const PLACES = 'agd.original.places';

/**
 * The file of a model, for `embedOriginal`, with zeros in place of large tensors that the injected model takes over as they
 * are from a file: they are cut out again.
 */
export function encodeWithout(held: ReadonlyMap<Value, Tensor>, model: Model): Uint8Array {
  const byName = new Map([...held].map(([{ name }, tensor]) => [name, tensor]));
  const needed = [...model.graph.initializers].filter(([{ name }, tensor]) => byName.get(name) !== tensor);
  const tensors = new Set(needed.map(([, tensor]) => tensor));
  return encodeModel(model, inPlace, tensor => !tensors.has(tensor));
}

/**
 * Stores the original file in the injected model's metadata, without the tensors that the injected model holds
 * itself, and the places of these tensors in it, so that trained values can be written back from the injected file
 * alone. `source` is the model that was injected. Tensors that the original keeps in other files and the injected
 * model does not use are added to its initializers. Throws `invalid-model` if one of `trained` has no place in the
 * file, or shares it with another.
 */
export function embedOriginal(
  injected: Model,
  file: Uint8Array,
  source: Model,
  trained: readonly string[],
): void {
  const original = plain(file);
  const located = locateTensors(original);
  const { initializers } = injected.graph;
  const byName = new Map(
    [...located].flatMap(([place, { name }]) => (name === undefined ? [] : [[name, place]])),
  );
  const sources = [...tensorsOf(source)];
  const byTensor = new Map(sources.map(({ place, tensor }) => [tensor, place]));
  const places = new Map<Place, string>();
  const placeOf = new Map<string, Place>();
  for (const [{ name }, tensor] of initializers) {
    const own = beforeWidening(tensor);
    const place = byName.get(name) ?? byTensor.get(own ?? tensor);
    const stored = place === undefined ? undefined : located.get(place);
    const isSame = stored?.dtype === tensor.dtype || (own && stored?.dtype === 'bfloat16');
    if (place === undefined || !isSame || `${stored.dims}` !== `${tensor.dims}`) continue;
    placeOf.set(name, place);
    // If several names share a place, the trained tensor's name wins.
    if (!places.has(place) || trained.includes(name)) places.set(place, name);
  }
  for (const name of trained)
    if (places.get(placeOf.get(name) ?? '') !== name)
      throw new AgdError(
        'invalid-model',
        `The file has no separate tensor for the trained values of '${name}': leave it out with --freeze.`,
      );
  const others = sources.filter(({ place }) => located.get(place)?.external && !places.has(place));
  const names = others.length ? Names.of(injected) : new Names();
  for (const { place, tensor } of others) {
    const value = new Value(names.fresh((JSON.parse(place) as string[]).slice(1).join('/')));
    initializers.set(value, tensor);
    places.set(place, value.name);
  }
  const { rest, holes } = cutTensors(original, places, located);
  injected.metadata.set(BYTES, toBase64(rest));
  injected.metadata.set(HOLES, JSON.stringify(holes));
  injected.metadata.set(PLACES, JSON.stringify([...places]));
}

/** The original file, and the injected model's tensors by their places in it. */
export type TrainedFile = { bytes: Uint8Array; tensors: Map<Place, Tensor>; placeOf: Map<string, Place> };

/**
 * The original file with the trained values of tensors that are stored in the file; all other bytes are unchanged.
 * Tensors in other files are among `tensors`. What the file has in bfloat16 trains in float32, and is rounded here. With
 * `leavesStored`, `bytes` has zeros in place of tensors that are still in the file that was opened; they are among `tensors`.
 */
export function trainedFile(injected: Model, leavesStored = false): TrainedFile {
  const bytes = injected.metadata.get(BYTES);
  const holes = injected.metadata.get(HOLES);
  if (bytes === undefined || holes === undefined)
    throw new AgdError(
      'invalid-model',
      'The model does not contain its original: it was not injected by agd-onnx.',
    );
  const values = new Map([...injected.graph.initializers].map(([value, tensor]) => [value.name, tensor]));
  const left = readBase64(bytes);
  const cutOut = readHoles(holes, left.length);
  const isNarrow = new Set(
    cutOut.filter(h => 2 * h.length === values.get(h.name)?.byteLength).map(h => h.name),
  );
  const filled = fillTensors(
    left,
    cutOut,
    new Map([...values].map(([name, t]) => [name, isNarrow.has(name) ? asStored(t, 'bfloat16') : t])),
    leavesStored,
  );
  const located = locateTensors(filled);
  const tensors = new Map<Place, Tensor>();
  const placeOf = new Map<string, Place>();
  for (const [place, name] of placesIn(injected, located)) {
    const value = values.get(name);
    if (!value)
      throw new AgdError('invalid-model', `The model lacks the tensor '${name}': inject the original again.`);
    const tensor = asStored(value, located.get(place)?.dtype);
    values.set(name, tensor);
    tensors.set(place, tensor);
    placeOf.set(name, place);
  }
  const cut = new Set(cutOut.map(hole => hole.name));
  const others = new Map(
    [...placeOf].filter(([name, place]) => !cut.has(name) && !located.get(place)?.external),
  );
  const rest = new Map([...others].map(([name, place]) => [place, values.get(name)!]));
  const chunks = rest.size ? patchModel(filled, rest, undefined, located) : [filled];
  return { bytes: chunks.length === 1 ? chunks[0]! : concatBytes(chunks), tensors, placeOf };
}

/** A tensor as a file with this type has it: bfloat16 weights train in float32. */
export const asStored = (tensor: Tensor, dtype: DType | undefined): Tensor =>
  dtype === 'bfloat16' && tensor.dtype === 'float32'
    ? Tensor.ofNumbers(dtype, tensor.dims, tensor.data as Float32Array)
    : tensor;

/**
 * The places of an injected model's tensors. Files of earlier versions do not record them and identify tensors by
 * name.
 */
function placesIn(injected: Model, located: ReturnType<typeof locateTensors>): [Place, string][] {
  const text = injected.metadata.get(PLACES);
  if (text !== undefined) return readPlaces(text, located);
  const held = new Set([...injected.graph.initializers.keys()].map(v => v.name));
  return [...located].flatMap(([place, { name }]): [Place, string][] =>
    name !== undefined && held.has(name) ? [[place, name]] : [],
  );
}

function damaged(entry: string, what: string): AgdError {
  return new AgdError(
    'invalid-model',
    `The metadata entry '${entry}' is damaged: ${what}. Inject the original again.`,
  );
}

function readJson(entry: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw damaged(entry, 'it is not JSON');
  }
}

function readBase64(text: string): Uint8Array {
  try {
    return fromBase64(text);
  } catch {
    throw damaged(BYTES, 'it is not Base64');
  }
}

/** Throws `invalid-model` if these are not places in file order, in a file of which `length` bytes are left. */
function readHoles(text: string, length: number): Hole[] {
  const holes = readJson(HOLES, text);
  const isCount = (x: unknown) => Number.isSafeInteger(x) && (x as number) >= 0;
  const isHole = (x: Partial<Hole> | null) =>
    typeof x?.name === 'string' && isCount(x.offset) && isCount(x.length);
  if (!Array.isArray(holes) || !holes.every(isHole)) throw damaged(HOLES, 'it is not a list of places');
  let [filled, end] = [0, 0];
  for (const hole of holes as Hole[]) {
    if (hole.offset < end || hole.offset - filled > length)
      throw damaged(HOLES, `tensor '${hole.name}' has no place at byte ${hole.offset}`);
    filled += hole.length;
    end = hole.offset + hole.length;
  }
  return holes;
}

/** Throws `invalid-model` if these are not pairs of a place in the file and a name. */
function readPlaces(text: string, located: ReadonlyMap<Place, unknown>): [Place, string][] {
  const places = readJson(PLACES, text);
  const isPair = (x: unknown) =>
    Array.isArray(x) && x.length === 2 && x.every(part => typeof part === 'string');
  if (!Array.isArray(places) || !places.every(isPair))
    throw damaged(PLACES, 'it is not a list of places and names');
  const lost = (places as [Place, string][]).find(([place]) => !located.has(place));
  if (lost) throw damaged(PLACES, `the original has no place for '${lost[1]}'`);
  return places;
}

/** The original file with the current values, except for tensors in other files. */
export function originalBytes(injected: Model): Uint8Array {
  return trainedFile(injected).bytes;
}

/** The original model with the current values, including tensors in external files. */
export function readOriginal(injected: Model, leavesStored = true): Model {
  const { bytes, tensors } = trainedFile(injected, leavesStored);
  const model = decodeModel(bytes, '.', noFiles);
  for (const { place, replace } of [...tensorsOf(model)]) {
    const tensor = tensors.get(place);
    // Numbers of an attribute are not a tensor of their own.
    if (tensor?.stored && !replace && leavesStored) return readOriginal(injected, false);
    if (tensor) replace?.(tensor);
  }
  return model;
}
