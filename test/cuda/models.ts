/** What the placement of nodes is tested on: models of the project's own, and folders of cases beside it. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { loadModel } from '../../src/graph/files.js';
import { allGraphs, type Model } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import type { InjectOptions } from '../../src/passes/options.js';
import { readSafetensors } from '../../src/runtime/data/safetensors.js';
import { spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';
import { smallModels } from './small-models.js';

export type Subject = {
  name: string;
  options: InjectOptions;
  /** The model, with a batch that is free or has this many samples; undefined if it has no batch. */
  make: (batch: 'free' | 'fixed') => Promise<Model | undefined>;
};

/** A table of embeddings and two layers, with parameters of the type given. */
export function tableMlp(dtype: 'float32' | 'float16'): Model {
  const s = new Sketch();
  const weight = (name: string, dims: number[]) => {
    const numbers = spread(dims, [-0.5, 0.5], name.length).numbers();
    return s.weight(name, Tensor.ofNumbers(dtype, dims, numbers));
  };
  const rows = s.add('Gather', [weight('table', [50, 4]), s.input('ids', ['batch'], 'int64')], 'rows');
  const hidden = s.add('Gemm', [rows, weight('fc1.weight', [4, 8]), weight('fc1.bias', [8])], 'h');
  const active = s.add('Tanh', [hidden], 'a');
  return s.model([s.add('Gemm', [active, weight('fc2.weight', [8, 3]), weight('fc2.bias', [3])], 'logits')]);
}

/** The models that come with the project. */
export function ownModels(): Subject[] {
  const landscapes = readdirSync('models/landscapes').filter(name => name.endsWith('.onnx'));
  return [
    {
      name: 'models/lenet',
      options: { loss: { kind: 'cross-entropy' } },
      make: async batch => {
        const model = await loadModel('models/lenet.onnx');
        return batch === 'free' ? model : fixed(model, new Map([['batch', 8]]));
      },
    },
    ...landscapes.map(
      (file): Subject => ({
        name: `models/${basename(file, '.onnx')}`,
        options: { loss: { kind: 'output', output: 'f' } },
        make: async batch => (batch === 'free' ? undefined : loadModel(join('models/landscapes', file))),
      }),
    ),
  ];
}

/** Small models of the kinds that are trained. */
export function kinds(): Subject[] {
  return smallModels.map(({ name, options, make }) => ({
    name,
    options,
    make: async batch => (batch === 'free' ? make() : fixed(await make(), FIXED)),
  }));
}

const FIXED = new Map([
  ['batch', 4],
  ['length', 6],
]);

/** The cases of training in a folder, if it is there: each has a model, its loss, and data. */
export function casesIn(folder: string): Subject[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter(name => existsSync(join(folder, name, 'case.json')))
    .sort()
    .map(name => {
      const path = join(folder, name);
      const { loss, batchNorm } = JSON.parse(readFileSync(join(path, 'case.json'), 'utf8'));
      return { name, options: { loss, batchNorm }, make: batch => caseModel(path, batch) };
    });
}

async function caseModel(folder: string, batch: 'free' | 'fixed'): Promise<Model> {
  const model = await loadModel(join(folder, 'model.onnx'));
  if (batch === 'free') return model;
  const { tensors } = await readSafetensors(join(folder, 'case.safetensors'));
  const extents = new Map<string, number>();
  for (const { name, shape } of model.graph.inputs)
    for (const [axis, d] of (shape ?? []).entries())
      if (typeof d === 'string') extents.set(d, tensors.get(`input:${name}`)!.dims[axis + 1]!);
  return fixed(model, extents);
}

/** The model with numbers in the place of these extents. */
function fixed(model: Model, extents: ReadonlyMap<string, number>): Model {
  for (const { inputs, outputs, nodes } of allGraphs(model.graph))
    for (const v of [...inputs, ...outputs, ...nodes.flatMap(n => n.outputs)])
      if (v?.type?.kind === 'tensor' && v.type.shape)
        v.type = {
          ...v.type,
          shape: v.type.shape.map(d => (typeof d === 'string' ? (extents.get(d) ?? d) : d)),
        };
  return model;
}
