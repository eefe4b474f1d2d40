/** What is decided from values does not depend on where they lie. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadModel } from '../../../src/graph/files.js';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inspect } from '../../../src/index.js';
import { type Form, writeAs } from '../../conformance/forms.js';
import { Sketch } from '../../sample.js';

/** Fresh scales that two layers share, a mask, zeros to start from, and a head that is an embedding transposed. */
function model() {
  const s = new Sketch();
  const fill = (dims: number[], value: number) => Tensor.filled('float32', dims, value);
  const table = s.weight('table', [6, 4]);
  const values = s.graph.initializers.get(table)!.numbers();
  const turned = Float32Array.from({ length: 24 }, (_, i) => values[(i % 6) * 4 + Math.floor(i / 6)]!);
  const scale = s.weight('scale', fill([4], 1));
  const bias = s.weight('bias', fill([4], 0));
  const mask = s.weight('mask', Tensor.from('float32', [2, 2], Float32Array.of(0, -1e9, 0, 0)));
  let x = s.add('Gather', [table, s.input('ids', ['batch', 2], 'int64')], 'looked');
  for (const name of ['a', 'b']) {
    const weight = s.weight(`${name}.weight`, [4, 4]);
    x = s.add('LayerNormalization', [s.add('MatMul', [x, weight], `${name}_m`), scale, bias], `${name}_n`);
  }
  const masked = s.add('Add', [s.add('MatMul', [x, s.weight('pair', [4, 2])], 'scores'), mask], 'masked');
  const out = s.add(
    'Add',
    [s.add('MatMul', [masked, s.weight('back', [2, 4])], 'mixed'), s.weight('start', fill([1, 2, 4], 0))],
    'sum',
  );
  return s.model([s.add('MatMul', [out, s.weight('head', Tensor.from('float32', [4, 6], turned))], 'y')]);
}

it('the same tensors train for the same reasons in every storage form', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'agd-external-'));
  const bytes = encodeModel(model());
  const choice = async (form: Form) => {
    const path = join(folder, `${form}.onnx`);
    await writeAs(form, bytes, path);
    const { parameters, operators } = await inspect(await loadModel(path));
    return { parameters: parameters.map(p => [p.name, p.trains, p.why]).sort(), operators };
  };
  const inline = await choice('raw');
  const names = inline.parameters.filter(([, trains]) => trains).map(([name]) => name);
  expect(names).toEqual(expect.arrayContaining(['scale', 'scale_1', 'bias', 'bias_1', 'table']));
  expect(names).not.toEqual(expect.arrayContaining(['mask']));
  expect(names).not.toContain('head');
  for (const form of ['typed', 'loose', 'one file', 'a file each', 'same bytes'] as const)
    expect(await choice(form)).toEqual(inline);
  await rm(folder, { recursive: true });
});
