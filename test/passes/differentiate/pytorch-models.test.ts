/** Derivatives of exported models of many families, against PyTorch in double precision: `models/make.py`. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import { loadModel } from '../../../src/graph/files.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import type { Tensor } from '../../../src/graph/tensor.js';
import { type DerivativeOptions, differentiate } from '../../../src/index.js';
import { readSafetensors } from '../../../src/runtime/data/safetensors.js';
import { Session } from '../../../src/runtime/session.js';

type Tensors = ReadonlyMap<string, Tensor>;

const FOLDER = join(import.meta.dirname, 'models');
const NAMES = readdirSync(FOLDER).flatMap(file => /^(.*)\.onnx$/.exec(file)?.[1] ?? []);

/** Rounding of float32, relative to the largest element; PyTorch's own gradient of normalized-mlp in float32 is 9e-6 off. */
const TOLERANCE = 2e-5;

/** The part of the file for one batch size, by `KIND|NAME`. */
const ofSize = (tensors: Tensors, size: string): Tensors =>
  new Map(
    [...tensors].flatMap(([key, t]) => (key.startsWith(`${size}|`) ? [[key.slice(size.length + 1), t]] : [])),
  );

function expectClose(found: Tensor | undefined, wanted: Tensor, tolerance: number, what: string) {
  expect(found?.dims, what).toEqual(wanted.dims);
  const [a, b] = [found!.numbers(), wanted.numbers()];
  const scale = Math.max(1e-2, ...b.map(Math.abs));
  const error = Math.max(...a.map((x, i) => Math.abs(x - b[i]!))) / scale;
  expect(error, what).toBeLessThan(tolerance);
}

describe.each(NAMES)('%s', name => {
  const load = async () => {
    const { tensors } = await readSafetensors(join(FOLDER, `${name}.safetensors`));
    const sizes = [...new Set([...tensors.keys()].map(key => key.split('|')[0]!))];
    const variables = [...tensors.keys()].flatMap(key => /^2\|gradient\|(.*)/.exec(key)?.[1] ?? []);
    const only = [...tensors.keys()].flatMap(key => /^2\|jacobian\|(.*)/.exec(key)?.[1] ?? [])[0]!;
    return { model: await loadModel(join(FOLDER, `${name}.onnx`)), tensors, sizes, variables, only };
  };

  it.each<NonNullable<DerivativeOptions['mode']>>(['gradient', 'vjp', 'jvp', 'jacobian', 'hvp', 'hessian'])(
    'one file computes the %s of PyTorch for each batch size',
    async mode => {
      const { model, tensors, sizes, variables, only } = await load();
      const first = ['jacobian', 'hessian'].includes(mode);
      const isOfLoss = ['gradient', 'hvp', 'hessian'].includes(mode);
      const kind = tensors.get('2|target')!.dtype === 'int64' ? 'cross-entropy' : 'mse';
      const made = await differentiate(model, {
        ...(isOfLoss ? { loss: { kind } } : { of: ['y'] }),
        wrt: first ? [only] : variables,
        mode,
      });
      checkGraph(made.model.graph);
      const session = await Session.create(decodeModel(encodeModel(made.model)));
      expect(sizes).toHaveLength(2);
      for (const size of sizes) {
        const all = ofSize(tensors, size);
        const feeds = Object.fromEntries([
          ...model.graph.inputs.map(v => [v.name, all.get(`input|${v.name}`)!]),
          ...(isOfLoss ? [['target', all.get('target')!]] : []),
          ...made.directions.map(d => [d.input, all.get(d.of === 'y' ? 'cotangent' : `tangent|${d.of}`)!]),
        ]);
        const found = await session.run(feeds);
        expectClose(
          found[isOfLoss ? 'loss' : 'y'],
          all.get(isOfLoss ? 'loss' : 'y')!,
          TOLERANCE,
          'the value',
        );
        for (const { of, by, output } of made.results) {
          const second = mode === 'hessian' || output.endsWith('_hvp');
          const kind = mode === 'hvp' && !second ? 'gradient' : mode;
          const wanted = all.get(mode === 'jvp' ? mode : `${kind}|${by ?? of}`)!;
          expectClose(found[output], wanted, TOLERANCE, output);
        }
      }
      await session.release();
    },
  );
});
