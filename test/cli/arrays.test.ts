/** Arrays that do not have the shape or the classes that a model takes: the error names options that train on them. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { saveModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import { parseColumns } from '../../src/passes/recipe/columns.js';
import { permute } from '../../src/runtime/data/convert.js';
import { writeNpz } from '../../src/runtime/data/npz.js';
import { evaluate } from '../../src/runtime/evaluate/evaluate-model.js';
import { predict } from '../../src/runtime/evaluate/predict.js';
import { runTrainJob } from '../../src/runtime/train/train-job.js';
import { spread } from '../ops/vjp.js';
import { mlpData, Sketch } from '../sample.js';
import { agdOnnx, workplace } from './run.js';

const ROWS = 48;
let folder: string;
const file = (name: string) => join(folder, name);

/** image[N,3,4,5] of pixels from 0 to 1 -> scores of 3 classes. */
function imageModel() {
  const s = new Sketch();
  const image = s.input('image', ['N', 3, 4, 5]);
  const flat = s.add('Flatten', [image], 'flat');
  return s.model([s.add('Gemm', [flat, s.weight('w', [60, 3]), s.weight('b', [3])], 'logits')]);
}

const pixels = () =>
  Tensor.from(
    'uint8',
    [ROWS, 3, 4, 5],
    Uint8Array.from(spread([ROWS, 3, 4, 5], [0, 255], 3).numbers(), Math.round),
  );

beforeAll(async () => {
  folder = await workplace();
  await saveModel(imageModel(), file('image.onnx'));
});

const TRAIN = ['--loss', 'cross-entropy', '--epochs', '2', '--batch-size', '8'];

/** The options that a message names, as a shell splits them. */
const optionsIn = (message: string) =>
  [...message.matchAll(/(--columns|--label|--skip-missing) (?:'([^']*)'|(\w+))/g)].flatMap(
    ([, flag, quoted, word]) => [flag!, quoted ?? word!],
  );

/** Trains on the data as they are, which fails, then with the options of the message. */
async function mended(model: string, data: Map<string, Tensor>, given: readonly string[] = []) {
  await writeNpz(file('odd.npz'), data);
  const args = ['train', model, '--data', 'odd.npz', ...TRAIN, ...given];
  const refused = agdOnnx(folder, ...args);
  expect(refused.code).toBe(1);
  expect(refused.err.trim()).not.toContain('\n');
  const options = optionsIn(refused.err);
  const run = agdOnnx(folder, ...args, ...options, '-o', 'odd.onnx');
  expect(run).toMatchObject({ code: 0, err: '' });
  return { options, run, message: refused.err };
}

/** The same training on arrays that suit the model. */
async function trained(model: string, data: Map<string, Tensor>) {
  await writeNpz(file('plain.npz'), data);
  const job = {
    model: file(model),
    data: file('plain.npz'),
    output: file('plain.onnx'),
    epochs: 2,
    batchSize: 8,
  };
  await runTrainJob({ ...job, inject: { loss: { kind: 'cross-entropy' } } }, () => {});
}

/** What was trained on odd arrays is what is trained on plain ones, and takes the odd ones. */
async function expectSame() {
  const [odd, plain] = await Promise.all(
    ['odd', 'plain'].map(async name => {
      const [model, data] = [file(`${name}.onnx`), file(`${name}.npz`)];
      const { probabilities } = await predict(model, data, { activation: 'softmax' });
      const { loss } = await evaluate(model, data, { loss: { kind: 'cross-entropy' } });
      return [...probabilities!.numbers(), loss];
    }),
  );
  expect(odd).toEqual(plain);
}

describe('the options that an error names train', () => {
  it.each(['image', 'pictures'])('8-bit images with channels last, named %s', async name => {
    const target = mlpData(ROWS).get('target')!;
    const image = pixels();
    await trained('image.onnx', new Map([...[['image', image] as const], ['target', target]]));
    const last = permute(image, [0, 2, 3, 1]);
    const given = name === 'image' ? [] : ['--map', `image=${name}`];
    const { options } = await mended(
      'image.onnx',
      new Map([
        [name, last],
        ['target', target],
      ]),
      given,
    );
    expect(options).toEqual(['--columns', `image=${name}:transpose(0,3,1,2)`]);
    await expectSame();
  });

  it('one-hot classes', async () => {
    const data = mlpData(ROWS);
    await trained('model.onnx', data);
    const classes = data.get('target')!.numbers();
    const hot = Float32Array.from({ length: 3 * ROWS }, (_, i) =>
      classes[Math.floor(i / 3)] === i % 3 ? 1 : 0,
    );
    const { options } = await mended(
      'model.onnx',
      new Map([...data, ['target', Tensor.from('float32', [ROWS, 3], hot)]]),
    );
    expect(options).toEqual(['--columns', 'target=target:argmax']);
    await expectSame();
  });

  it('labels from 1 on', async () => {
    const data = mlpData(ROWS);
    await trained('model.onnx', data);
    const classes = Int32Array.from(data.get('target')!.numbers(), x => x + 1);
    const { options } = await mended(
      'model.onnx',
      new Map([...data, ['target', Tensor.from('int32', [ROWS], classes)]]),
    );
    expect(options).toEqual(['--columns', 'target=target:subtract(1)']);
    await expectSame();
  });

  it('features along the first axis, with labels of another name', async () => {
    const data = mlpData(ROWS);
    await trained('model.onnx', data);
    const { options } = await mended(
      'model.onnx',
      new Map([
        ['x', permute(data.get('x')!, [1, 0])],
        ['answers', data.get('target')!],
      ]),
    );
    expect(options).toEqual(['--columns', 'x=x:transpose(1,0)', '--label', 'answers']);
    await expectSame();
  });
});

it('rows with NaN are named before the first step, and left out by the option that the error names', async () => {
  const data = mlpData(ROWS);
  const x = Float32Array.from(data.get('x')!.numbers());
  x[2 * 4 + 1] = x[7 * 4] = Number.NaN;
  const { options, message, run } = await mended(
    'model.onnx',
    new Map([...data, ['x', Tensor.from('float32', [ROWS, 4], x)]]),
  );
  expect(message).toContain("Array 'x' of odd.npz is NaN in rows 3, 8 (2 of 48, counted from 1)");
  expect(options).toEqual(['--skip-missing', 'x']);
  expect(run.out).toContain('Left out 2 of 48 rows of odd.npz, in which x is NaN or infinite.');
  const skipped = agdOnnx(
    folder,
    'train',
    'model.onnx',
    '--data',
    'odd.npz',
    ...TRAIN,
    '--on-nonfinite',
    'skip',
  );
  expect(skipped).toMatchObject({ code: 0, err: '' });
});

describe('a transform of arrays', () => {
  it.each([
    ['x=x:transpose(0,2)', /transpose takes the order of all axes/],
    ['x=x:transpose(0,2,1)', /has 3 axes, and the array 2/],
    ['x=x:argmax+standardize', /nothing can follow argmax/],
    ['target=target:argmax', /argmax takes several numbers per row/],
    ['x=x:subtract', /subtract needs by/],
  ])('is refused where it does not apply: %s', async (text, message) => {
    const data = { model: file('model.onnx'), data: file('train.npz'), output: file('no.onnx'), epochs: 1 };
    const columns = parseColumns([text]);
    const run = runTrainJob({ ...data, columns, inject: { loss: { kind: 'cross-entropy' } } }, () => {});
    await expect(run).rejects.toThrow(message);
  });
});
