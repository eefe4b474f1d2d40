import { AgdError } from '../graph/errors.js';
import type { Model } from '../graph/ir.js';
import { cutTensors, fillTensors, type Hole } from '../graph/patch.js';
import { decodeModel } from '../graph/proto.js';

const BYTES = 'agd.original';
const HOLES = 'agd.original.holes';

/**
 * Keeps the original file in the injected model's metadata, less the tensors that the injected model holds
 * itself under the same name: from the injected file alone, the trained values can go back into it.
 */
export function embedOriginal(injected: Model, original: Uint8Array): void {
  const held = new Set([...injected.graph.initializers.keys()].map(v => v.name));
  const { rest, holes } = cutTensors(original, held);
  injected.metadata.set(BYTES, Buffer.from(rest).toString('base64'));
  injected.metadata.set(HOLES, JSON.stringify(holes));
}

/** The original file, with the values that the injected model holds now; all other bytes are as they were. */
export function originalBytes(injected: Model): Uint8Array {
  const bytes = injected.metadata.get(BYTES);
  const holes = injected.metadata.get(HOLES);
  if (bytes === undefined || holes === undefined)
    throw new AgdError(
      'invalid-model',
      'The model does not hold the one it was made from: it was not injected by agd-onnx.',
    );
  const values = new Map([...injected.graph.initializers].map(([value, tensor]) => [value.name, tensor]));
  return fillTensors(Buffer.from(bytes, 'base64'), JSON.parse(holes) as Hole[], values);
}

/** The original model, with the values that the injected model holds now, those in external files included. */
export function readOriginal(injected: Model): Model {
  const model = decodeModel(originalBytes(injected));
  const held = new Map([...injected.graph.initializers].map(([value, tensor]) => [value.name, tensor]));
  for (const value of model.graph.initializers.keys()) {
    const tensor = held.get(value.name);
    if (tensor) model.graph.initializers.set(value, tensor);
  }
  return model;
}
