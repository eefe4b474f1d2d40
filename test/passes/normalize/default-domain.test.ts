import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { allGraphs, type Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { gradientModel } from '../../../src/passes/differentiate.js';
import { trainingInfoForm } from '../../../src/passes/file/write-training-info.js';
import { inject } from '../../../src/passes/inject.js';
import { exportFile } from '../../../src/runtime/export.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { mlp, mlpData } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;

/** The sample model as a file whose node `Tanh` is of 'ai.onnx', with these imports of operator sets. */
function spelled(opsets: readonly [domain: string, version: number][]): Uint8Array {
  const model = mlp();
  model.graph.nodes[1]!.extra = { domain: 'ai.onnx' };
  const file = decodeModel(encodeModel(model));
  file.opsetImports = new Map(opsets.map(([domain, version]) => [domain.replace(/^ai.onnx$/, ''), version]));
  const imports = opsets.map(([domain, version]) => ({ domain, version }));
  file.extra = { rest: undefined, metadata: [], opsets: imports };
  return encodeModel(file);
}

const domains = (model: Model) =>
  new Set(
    [...allGraphs(model.graph)].flatMap(g =>
      g.nodes.map(n => String(n.extra && (n.extra as { domain?: string }).domain)),
    ),
  );

const spellings: [string, readonly [string, number][]][] = [
  ['of nodes', [['', 17]]],
  ['of the import and a node', [['ai.onnx', 17]]],
  [
    'beside the short one',
    [
      ['', 18],
      ['ai.onnx', 18],
      ['com.microsoft', 1],
    ],
  ],
];

it.each(spellings)("the spelling 'ai.onnx' %s trains, and goes back into the file", async (_, opsets) => {
  const bytes = spelled(opsets);
  expect(Buffer.from(bytes).includes('ai.onnx')).toBe(true);
  const model = decodeModel(bytes);
  const { model: injected } = await inject(model, { loss: LOSS, original: bytes }, sessionShapes);
  const written = decodeModel(encodeModel(injected));
  expect([...domains(written)]).toEqual(['undefined']);
  const trainer = await Trainer.create(written);
  await trainer.step(Object.fromEntries(mlpData(8)));
  const path = join(mkdtempSync(join(tmpdir(), 'agd-onnx-test-')), 'trained.onnx');
  await exportFile(trainer.snapshot(), path);
  await trainer.release();
  const trained = readFileSync(path);
  expect(trained.length).toBe(bytes.length);
  expect(domains(decodeModel(trained))).toContain('ai.onnx');
});

it("writes other forms of the step without the spelling 'ai.onnx'", async () => {
  const bytes = spelled([
    ['', 18],
    ['ai.onnx', 18],
  ]);
  const model = decodeModel(bytes);
  const { model: injected } = await inject(model, { loss: LOSS, original: bytes }, sessionShapes);
  const others = [
    trainingInfoForm(injected),
    (await gradientModel(model, { loss: LOSS }, sessionShapes)).model,
  ];
  for (const other of others) expect(Buffer.from(encodeModel(other)).includes('\x07ai.onnx')).toBe(false);
});
