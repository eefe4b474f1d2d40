import { cloneModel } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import { readAdapters } from './adapter-record.js';
import { readScales } from './scale-record.js';

/**
 * A copy of the model with these values as defaults of the inputs, or contents of the initializers, of their names, as ONNX
 * Runtime feeds an adapter to a session. `file` and `adapters`, the names of the model's own, are for
 * messages. Throws `no-such-value`, `bad-dtype` or `bad-shape` for an adapter of another model.
 */
export function setAdapterValues(
  source: Model,
  values: ReadonlyMap<string, Tensor>,
  file: string,
  adapters: readonly string[],
): Model {
  const model = cloneModel(source);
  const { graph } = model;
  const known = new Map([...graph.initializers.keys(), ...graph.inputs].map(v => [v.name, v]));
  const refuse = (code: 'no-such-value' | 'bad-dtype' | 'bad-shape', what: string) =>
    new AgdError(code, `${file} is an adapter of another model: ${what}.`);
  for (const [name, tensor] of values) {
    const value = known.get(name);
    if (!value) throw refuse('no-such-value', `it has values for '${name}', but ${listed(adapters)}`);
    const before = graph.initializers.get(value);
    const dtype = before?.dtype ?? value.dtype;
    const dims = before?.dims ?? value.shape;
    if (dtype !== undefined && dtype !== tensor.dtype)
      throw refuse('bad-dtype', `its '${name}' is ${tensor.dtype}, which the model takes as ${dtype}`);
    const fits =
      !dims || (dims.length === tensor.dims.length && dims.every((d, i) => !isOther(d, tensor.dims[i]!)));
    if (!fits)
      throw refuse(
        'bad-shape',
        `its '${name}' is of shape [${tensor.dims}], which the model takes as [${dims}]`,
      );
    graph.initializers.set(value, tensor);
  }
  return model;
}

const isOther = (wanted: number | string | null, found: number) =>
  typeof wanted === 'number' && wanted !== found;

function listed(names: readonly string[]): string {
  if (!names.length)
    return 'the model has no adapters: use the file that export --adapters-only wrote beside it';
  const more = names.length > 8 ? ` and ${names.length - 8} more` : '';
  return `the model's are ${names
    .slice(0, 8)
    .map(name => `'${name}'`)
    .join(', ')}${more}`;
}

/** Whether a model's adapters change what it computes: new ones do not until they were trained. */
export function adaptersChange(model: Model): boolean {
  const stored = new Map([...model.graph.initializers].map(([v, tensor]) => [v.name, tensor]));
  const differs = (name: string, from: number) =>
    stored
      .get(name)
      ?.numbers()
      .some(x => x !== from) ?? false;
  return (
    readAdapters(model).some(({ a, b }) => differs(a, 0) && differs(b, 0)) ||
    readScales(model).some(({ scale }) => differs(scale, 1))
  );
}
