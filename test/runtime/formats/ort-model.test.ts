/** Training steps in the format of ONNX Runtime (.ort). */
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../../src/graph/files.js';
import { inject } from '../../../src/passes/inject.js';
import { readOrtNodes } from '../../../src/runtime/formats/ort-model.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

const QUIET = { logSeverityLevel: 4 } as const;
const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-ort-'));

/** LeNet's training step as an .onnx file, and as the .ort file that the runtime makes of it. */
async function both(): Promise<[onnx: string, ort: string]> {
  const { model } = await inject(
    await loadModel('models/lenet.onnx'),
    { loss: { kind: 'cross-entropy' } },
    sessionShapes,
  );
  const [onnx, ort] = ['onnx', 'ort'].map(format => join(folder, `lenet.agd.${format}`)) as [string, string];
  await saveModel(model, onnx);
  const session = await InferenceSession.create(onnx, {
    ...QUIET,
    optimizedModelFilePath: ort,
    extra: { session: { save_model_format: 'ORT' } },
  });
  await session.release();
  return [onnx, ort];
}

const bytesOf = ({ data }: OrtTensor) => {
  const { buffer, byteOffset, byteLength } = data as Float32Array;
  return Buffer.from(buffer, byteOffset, byteLength);
};

/** All outputs of six steps. */
async function steps(path: string): Promise<Record<string, OrtTensor>[]> {
  const session = await InferenceSession.create(path, QUIET);
  let state = {};
  const all: Record<string, OrtTensor>[] = [];
  for (let i = 0; i < 6; i++) {
    const input = new OrtTensor(
      'float32',
      spread([8, 1, 28, 28], [0, 1], i).data as Float32Array,
      [8, 1, 28, 28],
    );
    const target = new OrtTensor(
      'int64',
      BigInt64Array.from({ length: 8 }, (_, k) => BigInt((k + i) % 10)),
      [8],
    );
    const results = await session.run({ input, target, ...state });
    state = Object.fromEntries(
      Object.entries(results)
        .filter(([name]) => name.endsWith('_new'))
        .map(([name, tensor]) => [name.slice(0, -'_new'.length), tensor]),
    );
    all.push(results);
  }
  await session.release();
  return all;
}

describe('a training step as an .ort file', () => {
  it('trains bit for bit as the ONNX file does', async () => {
    const [onnx, ort] = await both();
    const [expected, found] = [await steps(onnx), await steps(ort)];
    const losses = new Set(expected.map(({ loss }) => loss!.data[0]));
    expect(losses.size).toBe(6);
    for (const [i, outputs] of expected.entries()) {
      expect(Object.keys(found[i]!)).toEqual(Object.keys(outputs));
      for (const [name, tensor] of Object.entries(outputs))
        expect(Buffer.compare(bytesOf(found[i]![name]!), bytesOf(tensor)), name).toBe(0);
    }
  });

  it('is refused where it ends early or has another identifier, whatever it holds', async () => {
    const bytes = readFileSync((await both())[1]);
    expect(readOrtNodes(bytes).length).toBeGreaterThan(100);
    for (const end of [0, 7, 8, 12, 40, 1000])
      expect(() => readOrtNodes(bytes.subarray(0, end))).toThrow('Not a model');
    const other = Uint8Array.from(bytes);
    other[4] = 'X'.charCodeAt(0);
    expect(() => readOrtNodes(other)).toThrow('Not a model');
    const codes = new Set<unknown>();
    for (let i = 0; i < 300; i++) {
      const mutant = Uint8Array.from(bytes);
      for (let k = 0; k < 8; k++) mutant[(i * 7919 + k * 104729) % mutant.length]! ^= 1 << ((i + k) % 8);
      try {
        readOrtNodes(mutant);
      } catch (error) {
        codes.add((error as { code?: string }).code);
      }
    }
    expect([...codes].filter(code => code !== 'not-onnx' && code !== 'unsupported-type')).toEqual([]);
  });
});
