import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import type { Model, Node, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel, inline } from '../../../src/graph/proto/codec.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf, ints, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const WIDTH = 8;
const BATCH = 4;

/** Layers of MatMul, Tanh and Sigmoid; `between` may add what stands after each. */
function chain(layers: number, between: (s: Sketch, x: Value, i: number) => Value = (_, x) => x): Model {
  const s = new Sketch();
  let x = s.input('x', [BATCH, WIDTH]);
  for (let i = 0; i < layers; i++) {
    const product = s.add('MatMul', [x, s.weight(`w${i}`, [WIDTH, WIDTH])], `product${i}`);
    x = between(s, s.add('Sigmoid', [s.add('Tanh', [product], `tanh${i}`)], `y${i}`), i);
  }
  return s.model([x]);
}

const dropout = (s: Sketch, x: Value, i: number) => {
  const ratio = s.weight(`ratio${i}`, floatsOf([0.5], []));
  return s.add('Dropout', [x, ratio], `drop${i}`);
};

/** Each cut is before a Reshape to constant extents, if segments are of whole layers. */
const reshaped = (s: Sketch, x: Value, i: number) => {
  const to = (shape: number[], name: string) =>
    [s.weight(`${name}${i}_shape`, ints(shape)), `${name}${i}`] as const;
  const [flatShape, flat] = to([BATCH * WIDTH], 'flat');
  const [shape, back] = to([BATCH, WIDTH], 'back');
  const twice = s.add('Add', [x, x], `twice${i}`);
  return s.add('Reshape', [s.add('Reshape', [twice, flatShape], flat), shape], back);
};

/** Each of these adds a path past some layers. */
const past = (far: number) => {
  const seen: Value[] = [];
  return (s: Sketch, x: Value, i: number) => {
    seen.push(x);
    return i < far ? x : s.add('Add', [x, seen[i - far]!], `sum${i}`);
  };
};

const options = (checkpointActivations?: boolean | number): InjectOptions => ({
  loss: { kind: 'mse' },
  optimizer: { name: 'sgd', lr: 0.1 },
  checkpointActivations,
});

const injected = async (model: Model, segments?: boolean | number) =>
  (await inject(model, options(segments), sessionShapes)).model;

/** Losses, then all state, of some steps. */
async function train(model: Model, optimize: boolean): Promise<number[][]> {
  const trainer = await Trainer.create(model, { optimize });
  const target = trainer.inputs.find(i => i.name !== 'x')!.name;
  const batch = { x: spread([BATCH, WIDTH], [-1, 1]), [target]: spread([BATCH, WIDTH], [-1, 1], 2) };
  const losses: number[] = [];
  for (let i = 0; i < 3; i++) losses.push((await trainer.step(batch)).loss);
  const state = [...trainer.state.values()].map(t => t.numbers());
  await trainer.release();
  return [losses, ...state];
}

/** The activations of the first forward pass that nodes outside it read: what has to be kept until then. */
function kept({ graph }: Model): string[] {
  const loss = graph.outputs.find(v => v.name.includes('loss'))!;
  const live = new Set<Value>([loss, ...graph.outputs.filter(v => /^(y|sum|drop)\d+$/.test(v.name))]);
  const forward = new Set<Node>();
  for (const node of graph.nodes.toReversed())
    if (node.outputs.some(o => o && live.has(o))) {
      forward.add(node);
      for (const v of node.inputs) if (v) live.add(v);
    }
  const written = new Set([...forward].flatMap(node => node.outputs));
  const readers = graph.nodes.filter(node => !forward.has(node));
  const read = new Set(readers.flatMap(node => node.inputs.filter(v => written.has(v))));
  return [...read].map(v => v!.name);
}

describe('checkpointActivations', () => {
  const models: [string, () => Model][] = [
    ['a chain', () => chain(12)],
    ['dropout, of which the masks are the same', () => chain(9, dropout)],
    ['paths past layers', () => chain(12, past(1))],
    ['paths past segments', () => chain(12, past(5))],
    ['reshapes', () => chain(6, reshaped)],
  ];
  it.each(models)('changes no bit: %s', async (_, make) => {
    const plain = await injected(make());
    for (const segments of [true, 2, 5]) {
      const again = await injected(make(), segments);
      expect(again.graph.nodes.length).toBeGreaterThan(plain.graph.nodes.length);
      for (const optimize of [false, true])
        expect(await train(again, optimize)).toEqual(await train(plain, optimize));
    }
  });

  it('keeps what grows like the square root of the depth', async () => {
    const counts = await Promise.all(
      [12, 48].map(async layers => [
        kept(await injected(chain(layers))).length,
        kept(await injected(chain(layers), true)).length,
      ]),
    );
    const [[shallow, fewer], [deep, few]] = counts as [[number, number], [number, number]];
    expect(deep / shallow).toBeGreaterThan(3.8);
    expect(few / fewer).toBeLessThan(2.5);
    expect(few).toBeLessThan(deep / 3);
  });

  it('is not merged with the first forward pass by the runtime', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'checkpoint-'));
    const optimizedModelFilePath = join(folder, 'optimized.onnx');
    const bytes = encodeModel(await injected(chain(6), 3), inline);
    const session = await InferenceSession.create(bytes, { optimizedModelFilePath, logSeverityLevel: 4 });
    await session.release();
    const { graph } = decodeModel(readFileSync(optimizedModelFilePath));
    rmSync(folder, { recursive: true });
    expect(graph.nodes.filter(node => node.opType === 'Tanh')).toHaveLength(6 + 4);
  });

  it.each([0, 1.5, -1, Number.NaN])('refuses %d segments', async segments => {
    await expect(injected(chain(2), segments)).rejects.toThrow(
      expect.objectContaining({
        code: 'bad-option',
        message: expect.stringMatching(/^checkpointActivations must be (true, false or )?a whole number/),
      }),
    );
  });

  it('is not for gradients that the model has already', async () => {
    const given = { ...options(true), gradients: ['w0=g'] };
    await expect(inject(chain(1), given, sessionShapes)).rejects.toThrow(
      expect.objectContaining({ code: 'bad-option' }),
    );
  });
});
