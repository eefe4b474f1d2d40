/** Names that every JavaScript object answers to are names like others, wherever a model or its data have them. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { decodeModel, encodeModel } from '../src/graph/proto/codec.js';
import { Tensor } from '../src/graph/tensor.js';
import { inject } from '../src/passes/inject.js';
import { inspect } from '../src/passes/inspect.js';
import { bindData } from '../src/runtime/data/bind.js';
import { decodeNpz, encodeNpz } from '../src/runtime/data/npz.js';
import { decodeSafetensors, encodeSafetensors } from '../src/runtime/data/safetensors.js';
import { gradients } from '../src/runtime/gradients.js';
import { Session, sessionShapes } from '../src/runtime/session.js';
import { Trainer } from '../src/runtime/train/trainer.js';
import { spread } from './ops/vjp.js';
import { Sketch } from './sample.js';

const NAMES = ['constructor', 'toString', 'hasOwnProperty', '__defineGetter__', 'valueOf'];

/** x -> relu(x w + b), under other names; so is a symbolic extent. */
function model([x, w, b, y]: readonly string[], inner = '__proto__') {
  const s = new Sketch();
  const input = s.input(x!, ['toString', 2]);
  const product = s.add('MatMul', [input, s.weight(w!, spread([2, 3], [-1, 1], 1))], inner);
  return s.model([
    s.add('Relu', [s.add('Add', [product, s.weight(b!, spread([3], [-1, 1], 2))], 'isPrototypeOf')], y!),
  ]);
}
const arrays = (x: string) =>
  new Map([
    [x, Tensor.from('float32', [4, 2], Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8))],
    ['target', Tensor.from('float32', [4, 3], new Float32Array(12))],
  ]);

describe('names that objects inherit', () => {
  it.each(NAMES)('%s trains as another name does', async first => {
    const others = NAMES.filter(name => name !== first);
    const run = async (names: readonly string[]) => {
      const options = { loss: { kind: 'mse' as const } };
      const { model: injected } = await inject(model(names), options, sessionShapes);
      const trainer = await Trainer.create(decodeModel(encodeModel(injected)));
      const data = bindData(arrays(names[0]!), trainer.inputs);
      const losses: number[] = [];
      for await (const { inputs } of data.batches({ batchSize: 2 }))
        losses.push((await trainer.step(inputs)).loss);
      const { loss } = await trainer.evaluate(data.batches());
      await trainer.release();
      const found = await gradients(model(names), options, Object.fromEntries(arrays(names[0]!)));
      return [losses, loss, found.gradients.get(names[1]!)!.numbers()];
    };
    expect(await run([first, ...others])).toEqual(await run(['x', 'w', 'b', 'y']));
  });

  it.each(NAMES)('%s is missed where it is not fed', async name => {
    const session = await Session.create(model([name, 'w', 'b', 'y']));
    await expect(session.run({})).rejects.toThrow(/is missing in 'feeds'/);
    await session.release();
    await expect(gradients(model([name, 'w', 'b', 'y']), { loss: { kind: 'mse' } }, {})).rejects.toThrow(
      name,
    );
  });

  it.each([...NAMES, '__proto__'])('%s is an operator without a rule', async opType => {
    const s = new Sketch();
    const x = s.input('x', [2]);
    const y = s.add(opType, [x, s.weight('w', [2])], 'y');
    const found = await inspect(s.model([y]), {}, sessionShapes);
    expect(found.operators[0]!.gradient).toBe('missing');
  });

  it('__proto__ is refused for what the runtime is fed', async () => {
    const session = await Session.create(model(['__proto__', 'w', 'b', 'y'], 'product'));
    await expect(session.run({})).rejects.toThrow(/'__proto__': rename it/);
    await session.release();
  });

  it('name arrays', () => {
    const named = new Map([...NAMES, '__proto__'].map((name, i) => [name, Tensor.ints([i])]));
    const show = (map: ReadonlyMap<string, Tensor>) =>
      [...map].map(([name, t]) => [name, t.numbers()[0]]).sort();
    expect(show(decodeNpz(encodeNpz(named), 'x.npz'))).toEqual(show(named));
    expect(show(decodeSafetensors(encodeSafetensors(named)).tensors)).toEqual(show(named));
  });
});

/** A table by operator type that is an ordinary object would have an entry for `constructor`. */
it('no table of operators is an ordinary object', () => {
  const folder = join(import.meta.dirname, '../src');
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(f => f.endsWith('.ts'));
  const texts = files.map(file => readFileSync(join(folder, file), 'utf8'));
  const used = texts.flatMap(text =>
    [...text.matchAll(/(\w+)\[(?:\w+\.)*(?:opType|domain|overload)\]/g)].map(m => m[1]!),
  );
  const safe = texts.flatMap(text => [...text.matchAll(/const (\w+) = record[<(]/g)].map(m => m[1]!));
  expect(used.length).toBeGreaterThan(5);
  expect(used.filter(name => !safe.includes(name))).toEqual([]);
});
