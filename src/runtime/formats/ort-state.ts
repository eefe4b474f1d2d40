/**
 * What a training step has of a checkpoint of ONNX Runtime's training: parameters and properties, and AdamW's
 * momentums, which are PyTorch's `exp_avg` and `exp_avg_sq`.
 */
import { withInitializers } from '../../graph/clone.js';
import type { Model } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { readOriginal } from '../../passes/file/embed-original.js';
import { readStep } from '../../passes/file/step-metadata.js';
import type { StoredProperty } from '../../passes/options.js';
import {
  type OptimizerGroup,
  type OrtCheckpoint,
  type Property,
  writeOrtCheckpoint,
} from './ort-checkpoint.js';
import { fromPytorch, toPytorch } from './pytorch-state.js';

const MOMENTUMS = [
  ['momentum0', 'exp_avg'],
  ['momentum1', 'exp_avg_sq'],
] as const;

/** The optimizers of these momentums. */
const ADAMS = ['adam', 'adamw'];

/** The name of the one group that ONNX Runtime makes. */
const GROUP = 'group0';

/**
 * The injected model with the momentums and the update count of a checkpoint's optimizer, if its own optimizer keeps the
 * same state; `note` says which. Throws `bad-state` if a parameter has no momentums.
 */
export function resumeOptimizer(
  injected: Model,
  group: OptimizerGroup | undefined,
): { model: Model; note?: string } {
  if (!group?.step) return { model: injected };
  const description = readStep(injected);
  const updates = `${group.step} update${group.step === 1 ? '' : 's'}`;
  if (!ADAMS.includes(description.optimizer.name))
    return {
      model: injected,
      note: `the checkpoint's momentums after ${updates} of AdamW are not used: to resume from them, choose --optimizer adamw`,
    };
  const state = initializers(injected);
  const tensors = new Map<string, Tensor>();
  for (const { name } of description.parameters) {
    const own = group.momentums.get(name);
    tensors.set(name, state.get(name)!).set(`${name}.step`, Tensor.filled('float32', [], group.step));
    for (const [theirs, ours] of MOMENTUMS) {
      const tensor = own?.get(theirs);
      if (tensor) tensors.set(`${name}.${ours}`, tensor);
    }
  }
  const { state: next } = fromPytorch(description, state, tensors);
  return {
    model: withInitializers(injected, name => next.get(name)),
    note: `resumed from the checkpoint, after ${updates} of AdamW`,
  };
}

/** An injected model's state as a checkpoint. Momentums are those of Adam and AdamW; other optimizers', quantized ones and those beside averaged weights are not kept. */
export function toOrtCheckpoint(injected: Model): OrtCheckpoint {
  const description = readStep(injected);
  const { parameters, optimizer, lr, step } = description;
  const names = parameters.map(p => p.name);
  const { trainable = names, frozen = [], properties = {} } = description.checkpoint ?? {};
  const state = initializers(injected);
  const values = new Map([...initializers(readOriginal(injected)), ...state]);
  const taken = (list: readonly string[]) =>
    new Map(list.flatMap(name => (values.has(name) ? [[name, values.get(name)!] as const] : [])));
  const count = state.get(step)!.numbers()[0]!;
  const { stateBits, scheduleFree } = description;
  const isKept = ADAMS.includes(optimizer.name) && !stateBits && !scheduleFree && count > 0;
  const kept = isKept ? toPytorch(description, state) : undefined;
  const momentums = (name: string) =>
    new Map(MOMENTUMS.map(([theirs, ours]) => [theirs as string, kept!.get(`${name}.${ours}`)!]));
  const group = kept && {
    name: GROUP,
    step: count,
    lr: state.get(lr)!.numbers()[0]!,
    momentums: new Map(names.map(name => [name, momentums(name)])),
  };
  return {
    trainable: taken(trainable),
    frozen: taken(frozen),
    optimizers: group ? [group] : [],
    properties: new Map(Object.entries(properties).map(([name, stored]) => [name, readProperty(stored)])),
  };
}

/** Writes an injected model's state as a checkpoint, so that ONNX Runtime's training can go on from it. Throws `io`. */
export async function exportOrtCheckpoint(injected: Model, path: string): Promise<void> {
  await writeOrtCheckpoint(path, toOrtCheckpoint(injected));
}

const initializers = ({ graph }: Model) =>
  new Map([...graph.initializers].map(([value, tensor]) => [value.name, tensor]));

/** Properties as an injected model's description keeps them: int64 is more than a number, and JSON has no NaN. */
export function storeProperties(properties: ReadonlyMap<string, Property>): Record<string, StoredProperty> {
  return Object.fromEntries(
    [...properties].map(([name, property]) => {
      const [kind, value] = Object.entries(property)[0]!;
      return [name, [kind, String(value)] as StoredProperty];
    }),
  );
}

function readProperty([kind, value]: StoredProperty): Property {
  if (kind === 'int') return { int: BigInt(value) };
  return kind === 'float' ? { float: Number(value) } : { string: value };
}
