import { cloneModel } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import { type Model, showShape, type Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import { compatible } from '../differentiate/backward.js';

/**
 * A copy of the model with new values for inputs and initializers by name. Throws `bad-dtype` or `bad-shape` for a
 * value of another type, `no-such-value` for a name that the model lacks.
 */
export function withValues(model: Model, values: ReadonlyMap<string, Tensor>): Model {
  const copy = cloneModel(model);
  const { graph } = copy;
  const own = new Set([...graph.inputs, ...graph.initializers.keys()].filter(v => values.has(v.name)));
  if (!own.size)
    throw new AgdError(
      'no-such-value',
      'None of the parameters given is an input or initializer of the model.',
    );
  for (const value of own) {
    const tensor = values.get(value.name)!;
    const before = graph.initializers.get(value);
    const type = before ? { kind: 'tensor' as const, dtype: before.dtype, shape: before.dims } : value.type;
    const { dtype, dims: shape } = tensor;
    checkType('The value of', { type }, value.name, { dtype, shape });
    value.type = { kind: 'tensor', dtype, shape };
    graph.initializers.set(value, tensor);
  }
  return copy;
}

/** Throws if the value does not have the type required for `name`. */
export function checkType(
  what: string,
  { type }: Pick<Value, 'type'>,
  name: string,
  wanted: Pick<Value, 'dtype' | 'shape'>,
): void {
  if (type?.kind !== 'tensor') return;
  if (type.dtype !== wanted.dtype)
    throw new AgdError('bad-dtype', `${what} '${name}' is ${type.dtype}, not ${wanted.dtype}.`);
  if (!compatible(type.shape, wanted.shape))
    throw new AgdError(
      'bad-shape',
      `${what} '${name}' has shape ${showShape(type.shape)}, not ${showShape(wanted.shape)}.`,
    );
}
