/** The files that are damaged, and what reads them. */
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readConfig } from '../../cli/config.js';
import { loadModel } from '../../src/graph/files.js';
import { decodeModel, encodeModel } from '../../src/graph/proto/codec.js';
import { Tensor } from '../../src/graph/tensor.js';
import { inject } from '../../src/internal.js';
import { originalBytes } from '../../src/passes/file/embed-original.js';
import { readStep } from '../../src/passes/file/step-metadata.js';
import { decodeNpy, encodeNpy } from '../../src/runtime/data/npy.js';
import { decodeNpz, encodeNpz } from '../../src/runtime/data/npz.js';
import { decodeSafetensors, encodeSafetensors } from '../../src/runtime/data/safetensors.js';
import { openForInjection } from '../../src/runtime/formats/open-for-injection.js';
import { decodeCheckpoint, encodeCheckpoint } from '../../src/runtime/formats/ort-checkpoint.js';
import { artifactFolder } from '../passes/import/ort-artifacts.js';
import { mlp, Sketch } from '../sample.js';
import {
  type Arrays,
  npyArrays,
  npzArrays,
  runtimeValues,
  safetensorsArrays,
  sameArrays,
} from './readers.js';

/** A file to damage, and what reads it: a text that says all it found, and the file written anew from that, if any. */
export type Format = { seed: Uint8Array; read: (bytes: Uint8Array) => Promise<Read> | Read };
/** `wrong` is how what was read differs from what another reader finds, where that accepts the file. */
export type Read = { found: string; again?: Uint8Array; wrong?: string };

const show = (tensors: Iterable<readonly [string, Tensor]>) =>
  [...tensors]
    .map(([name, t]) => `${name} ${t.dtype} [${t.dims}] ${Buffer.from(t.bytes).toString('base64')}`)
    .join('\n');

const tensors = new Map<string, Tensor>([
  ['x', Tensor.from('float32', [2, 3], Float32Array.of(1, -2, 3, 4, 5, 6))],
  ['labels', Tensor.from('int64', [4], BigInt64Array.of(1n, 2n, 3n, 4n))],
  ['step', Tensor.from('int64', [], BigInt64Array.of(7n))],
]);

export async function formats(): Promise<Record<string, Format>> {
  const model = mlp();
  const { model: injected } = await inject(model, { loss: { kind: 'cross-entropy' } });
  const readModel = (bytes: Uint8Array): Read => {
    const found = decodeModel(bytes);
    const again = encodeModel(found);
    const { graph } = found;
    const nodes = graph.nodes.map(
      n => `${n.label} ${n.inputs.map(v => v?.name)} ${n.outputs.map(v => v?.name)}`,
    );
    const stored = [...graph.initializers].map(([v, t]) => [v.name, t] as const);
    return { found: [...nodes, show(stored)].join('\n'), again };
  };
  const folder = await mkdtemp(join(tmpdir(), 'agd-fuzz-'));
  const other = (arrays: Iterable<readonly [string, Tensor]>, read: () => Arrays | undefined) =>
    sameArrays(new Map(arrays), read());

  const config = (ending: string, text: string): Format => ({
    seed: Buffer.from(text),
    read: async bytes => {
      const path = join(folder, `config.${ending}`);
      await writeFile(path, bytes);
      return { found: JSON.stringify(await readConfig(path, 'inject', {})) };
    },
  });
  const options = {
    loss: { kind: 'cross-entropy', labelSmoothing: 0.1 },
    optimizer: { name: 'adamw', lr: 0.01, betas: [0.9, 0.95] },
    freeze: ['conv*', 'bn*'],
    accumulate: 2,
  };
  const yaml =
    'loss: &loss\n  kind: cross-entropy\n  labelSmoothing: 0.1\noptimizer: {name: adamw, lr: 1e-2}\nfreeze:\n  - "conv*"\n  - bn*\naccumulate: 2\n';

  const external = join(folder, 'external.onnx');
  const stores = [...model.graph.initializers.values()];
  const data = Buffer.concat(stores.map(t => t.bytes));
  const offsetOf = (tensor: Tensor) =>
    stores.slice(0, stores.indexOf(tensor)).reduce((sum, { byteLength }) => sum + byteLength, 0);
  const location = 'external.onnx.data';
  const outside = encodeModel(model, tensor => ({
    folder,
    location,
    offset: offsetOf(tensor),
    length: tensor.byteLength,
  }));
  await writeFile(external, outside);
  await writeFile(join(folder, location), data);
  /** A model whose file, or whose data file, is damaged. */
  const inFiles = (name: string, seed: Uint8Array, model: () => Promise<string>): Format => ({
    seed,
    read: async bytes => {
      await writeFile(join(folder, name), bytes);
      const { graph } = await loadModel(await model());
      return { found: show([...graph.initializers].map(([v, t]) => [v.name, t] as const)) };
    },
  });

  const artifacts = await artifactFolder();
  /** Training artifacts of which one file is damaged. */
  const artifact = async (name: string): Promise<Format> => {
    const path = join(artifacts, name);
    const seed = await readFile(path);
    return {
      seed,
      read: async bytes => {
        await writeFile(path, bytes);
        try {
          const { model, options } = await openForInjection(artifacts, {});
          const stored = [...model.graph.initializers].map(([v, t]) => [v.name, t] as const);
          return { found: `${show(stored)}\n${show(options.values ?? [])}` };
        } finally {
          await writeFile(path, seed);
        }
      },
    };
  };

  const momentum = new Map([['momentum0', tensors.get('x')!]]);
  const checkpoint = {
    trainable: new Map([['x', tensors.get('x')!]]),
    frozen: new Map([['labels', tensors.get('labels')!]]),
    optimizers: [{ name: 'group0', step: 3, lr: 0.5, momentums: new Map([['x', momentum]]) }],
    properties: new Map([['epoch', { int: 5n }]]),
  };
  return {
    onnx: { seed: encodeModel(model), read: readModel },
    injected: {
      seed: encodeModel(injected),
      read: bytes => {
        const found = decodeModel(bytes);
        return {
          found: JSON.stringify(readStep(found)) + Buffer.from(originalBytes(found)).toString('base64'),
        };
      },
    },
    values: {
      seed: encodeModel(stored()),
      read: async bytes => {
        const found = decodeModel(bytes);
        const arrays = new Map([...found.graph.initializers].map(([v, t]) => [v.name, t]));
        return {
          found: show(arrays),
          again: encodeModel(found),
          wrong: sameArrays(arrays, await runtimeValues(bytes)),
        };
      },
    },
    external: inFiles('damaged.onnx', outside, async () => join(folder, 'damaged.onnx')),
    'external data': inFiles(location, data, async () => external),
    artifacts: await artifact('training_model.onnx'),
    'artifacts, checkpoint': await artifact('checkpoint'),
    'config.json': config('json', JSON.stringify(options, undefined, 1)),
    'config.yaml': config('yaml', yaml),
    npy: {
      seed: encodeNpy(tensors.get('x')!),
      read: bytes => {
        const array = decodeNpy(bytes, 'x.npy');
        return {
          found: show([['x', array]]),
          again: encodeNpy(array),
          wrong: other([['', array]], () => npyArrays(bytes)),
        };
      },
    },
    npz: {
      seed: encodeNpz(tensors),
      read: bytes => {
        const arrays = decodeNpz(bytes, 'x.npz');
        return {
          found: show(arrays),
          again: encodeNpz(arrays),
          wrong: other(arrays, () => npzArrays(bytes)),
        };
      },
    },
    safetensors: {
      seed: encodeSafetensors(tensors, { format: 'pt' }),
      read: bytes => {
        const { tensors: found, metadata } = decodeSafetensors(bytes, 'x.safetensors');
        return {
          found: show([...found].sort()),
          again: encodeSafetensors(found, metadata),
          wrong: other(found, () => safetensorsArrays(bytes)),
        };
      },
    },
    checkpoint: {
      seed: encodeCheckpoint(checkpoint),
      read: async bytes => {
        const found = await decodeCheckpoint(bytes, 'checkpoint');
        return { found: show([...found.trainable, ...found.frozen].sort()), again: encodeCheckpoint(found) };
      },
    },
  };
}

/** Outputs that are stored, of several types: the runtime gives out what it has read. */
function stored() {
  const s = new Sketch();
  const values = [...tensors].map(([name, tensor]) => s.weight(name, tensor));
  values.push(s.weight('half', Tensor.from('float16', [2, 2], Uint16Array.of(0x3c00, 0xbc00, 0, 0x7bff))));
  values.push(s.weight('double', Tensor.from('float64', [2], Float64Array.of(0.1, -1e300))));
  values.push(s.weight('flags', Tensor.from('bool', [3], Uint8Array.of(1, 0, 1))));
  values.push(s.weight('bytes', Tensor.from('int8', [4], Int8Array.of(-128, 0, 1, 127))));
  for (const value of values) value.type = { kind: 'tensor', dtype: value.dtype!, shape: value.shape };
  return s.model(values);
}
