import { beforeAll, describe, expect, it } from 'vitest';
import { cloneModel } from '../../../src/graph/clone.js';
import type { Model } from '../../../src/graph/ir.js';
import type { LossPart } from '../../../src/passes/file/description.js';
import { originalBytes } from '../../../src/passes/file/embed-original.js';
import { readStep, writeDescription } from '../../../src/passes/file/step-metadata.js';
import { inject } from '../../../src/passes/inject.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { mlp } from '../../sample.js';

let injected: Model;
beforeAll(async () => {
  const loss = { kind: 'cross-entropy' as const };
  injected = (await inject(mlp(), { loss, telemetry: 1, accumulate: 2, ema: 0.9 }, sessionShapes)).model;
});

const described = () => JSON.parse(injected.metadata.get('agd.training')!);

/** The model with another description. */
function withDescription(description: unknown): Model {
  const model = cloneModel(injected);
  model.metadata = new Map([...injected.metadata, ['agd.training', JSON.stringify(description)]]);
  return model;
}

describe('a training step', () => {
  it('is read as it was written', () => {
    expect(readStep(injected)).toEqual(described());
  });

  it.each<[string, unknown]>([
    ['loss', undefined],
    ['loss', null],
    ['loss', { kind: 'mse' }],
    ['loss.name', 'nowhere'],
    ['loss.classWeights', ['1']],
    ['outputs', 'logits'],
    ['outputs', [1]],
    ['exports', {}],
    ['optimizer', 'agd'],
    ['optimizer.name', 'constructor'],
    ['optimizer.name', 'sgdd'],
    ['optimizer.options', null],
    ['optimizer.options', { lr: -1 }],
    ['optimizer.options', { lr: { toString: 1 } }],
    ['optimizer.options', { betas: [{}] }],
    ['lr', 'nowhere'],
    ['lr', 'step'],
    ['step', 'lr'],
    ['step', ['step']],
    ['schedule', { kind: 3 }],
    ['schedule', { kind: 'linear', total: { toString: 1 } }],
    ['accumulation', { batches: 0, counter: 'step' }],
    ['accumulation.counter', 'nowhere'],
    ['ema', '0.9'],
    ['cautious', 1],
    ['scheduleFree', { momentum: 1 }],
    ['stateBits', 5],
    ['telemetry.columns', []],
    ['telemetry.columns', ['a']],
    ['telemetry.name', 'step'],
    ['parameters', {}],
    ['parameters', [null]],
    ['parameters.0.name', 'nowhere'],
    ['parameters.0.name', 'toString'],
    ['parameters.0.state', {}],
    ['parameters.0.state', { exp_avg: 1 }],
    ['parameters.0.ema', 'x'],
    ['statistics', [null]],
    ['statistics', ['__proto__']],
    ['checkpoint', { trainable: [], frozen: [], properties: { a: ['int', 'x'] } }],
  ])('whose %s is %j is refused', (path, value) => {
    const description = described();
    const keys = path.split('.');
    const owner = keys.slice(0, -1).reduce((object, key) => object[key], description);
    owner[keys.at(-1)!] = value;
    expect(() => readStep(withDescription(description))).toThrow(
      expect.objectContaining({
        code: 'invalid-model',
        message: expect.stringMatching(/^The training step of the model is damaged: [^\n]*\. Inject/),
      }),
    );
  });

  it.each([null, 3, 'x', [], {}, true])('described by %j is refused', description => {
    expect(() => readStep(withDescription(description))).toThrow(
      /^The training step of the model is damaged/,
    );
  });

  it('of another form is refused', () => {
    expect(() => readStep(withDescription({ version: 2 }))).toThrow(/format 2/);
  });

  it.each<[string, (model: Model) => void]>([
    ['which is not an initializer', m => m.trainingInfo[0]!.updates.push({ state: 'x', value: 'logits' })],
    ['twice', m => m.trainingInfo[0]!.updates.push(m.trainingInfo[0]!.updates[0]!)],
    [
      'which is not an output',
      m => m.trainingInfo[0]!.updates.splice(0, 1, { state: 'fc1.bias', value: 'x' }),
    ],
    [
      'of another type',
      m => {
        m.trainingInfo[0]!.updates[0]!.value = m.graph.outputs.find(v => v.name === 'loss')!.name;
      },
    ],
    ['nothing updates', m => m.trainingInfo.splice(0)],
  ])('that updates %s is refused', (message, change) => {
    const model = cloneModel(injected);
    model.trainingInfo = injected.trainingInfo.map(info => ({
      ...info,
      updates: info.updates.map(u => ({ ...u })),
    }));
    change(model);
    expect(() => readStep(model)).toThrow(message);
  });

  it.each<[string, (part: LossPart) => void]>([
    ["has no gradient 'none'", part => Object.assign(part.terms[0]!, { value: 'none' })],
    ["has no gradient 'fc1.weight'", part => Object.assign(part.terms[0]!, { value: 'fc1.weight' })],
    ["has no rows 'none'", part => Object.assign(part.terms[0]!, { rows: 'none' })],
    ["nothing updates its state 'none'", part => Object.assign(part.terms[0]!, { sum: 'none' })],
    ["the part 'none' of its loss is not an output", part => Object.assign(part, { divisor: 'none' })],
  ])('with a part of a loss of which it holds that it %s is refused', async (message, change) => {
    const plus = [{ kind: 'mse', output: 'logits', target: 'wanted', mask: 'present' }] as const;
    const loss = { kind: 'cross-entropy', output: 'logits', plus } as const;
    const { model } = await inject(mlp(), { loss, lossDivisor: true }, sessionShapes);
    const description = structuredClone(readStep(model));
    change(description.lossParts![1]!);
    writeDescription(model, description);
    expect(() => readStep(model)).toThrow(message);
  });
});

describe('the places of cut tensors', () => {
  const hole = { name: 'fc1.weight', offset: 10, length: 128 };
  it.each<[unknown, RegExp]>([
    ['{', /not JSON/],
    [null, /not a list/],
    [3, /not a list/],
    [{}, /not a list/],
    [[null], /not a list/],
    [[{ ...hole, name: 1 }], /not a list/],
    [[{ ...hole, offset: -1 }], /not a list/],
    [[{ ...hole, length: 1.5 }], /not a list/],
    [[{ ...hole, offset: 1e9 }], /'fc1.weight' has no place at byte 1000000000/],
    [[hole, hole], /'fc1.weight' has no place/],
    [[{ ...hole, name: 'constructor' }], /No value given for tensor 'constructor'/],
    [[{ ...hole, length: 4 }], /takes 4 bytes/],
  ])('%j are refused', (holes, message) => {
    const model = cloneModel(injected);
    const text = holes === '{' ? holes : JSON.stringify(holes);
    model.metadata = new Map([...injected.metadata, ['agd.original.holes', text]]);
    expect(() => originalBytes(model)).toThrow(message);
  });
});

it.each<[string, RegExp]>([
  ['{', /not JSON/],
  ['{}', /not a list/],
  ['[["a"]]', /not a list/],
  ['[["a",1]]', /not a list/],
  ['[["a","fc1.weight"]]', /no place for 'fc1.weight'/],
])('places %s of tensors in the original are refused', (places, message) => {
  const model = cloneModel(injected);
  model.metadata = new Map([...injected.metadata, ['agd.original.places', places]]);
  expect(() => originalBytes(model)).toThrow(message);
});

it('an original that is not Base64 is refused', () => {
  const model = cloneModel(injected);
  model.metadata = new Map([...injected.metadata, ['agd.original', '*']]);
  expect(() => originalBytes(model)).toThrow(/not Base64/);
});

it('an original with a place for a tensor that is gone is refused', () => {
  const model = cloneModel(injected);
  const places = injected.metadata.get('agd.original.places')!.replace('"fc1.bias"]', '"gone"]');
  model.metadata = new Map([...injected.metadata, ['agd.original.places', places]]);
  expect(() => originalBytes(model)).toThrow("The model lacks the tensor 'gone': inject the original again.");
});
