/**
 * Shows faults of ONNX Runtime that this project works around, each with a model of a node or two: writes the models to a folder
 * and runs each in a process of its own. `node compare/faults/main.mjs [FOLDER]`, after `npm run build`; docs/lab/faults.md
 * tells what is expected.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { saveModel } from '../../dist/src/index.js';
import { Graph, Model, Node, Value } from '../../dist/src/ir.js';
import { toAttrs } from '../../dist/src/ops/core/builder.js';

const FLOAT = 'float32';
const value = (name, shape, dtype = FLOAT) => new Value(name, { kind: 'tensor', dtype, shape });

/** A model of one operator on inputs of these shapes, with so many outputs. */
function model(opType, shapes, attrs = {}, outputs = 1) {
  const graph = new Graph(opType);
  graph.inputs = shapes.map((shape, i) => value(`x${i}`, shape));
  graph.outputs = Array.from({ length: outputs }, (_, i) => new Value(`y${i}`));
  graph.nodes = [new Node(opType, [...graph.inputs], [...graph.outputs], toAttrs(attrs))];
  return Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
}

/** Models by name, with how they are run: compared with the CPU in a layout, or read from the device. */
const FAULTS = {
  'convolution of 6 channels in NHWC': {
    model: model('Conv', [
      [1, 6, 6, 6],
      [4, 6, 3, 3],
    ]),
    layout: 'NHWC',
  },
  'convolution of 6 channels in NCHW': {
    model: model('Conv', [
      [1, 6, 6, 6],
      [4, 6, 3, 3],
    ]),
    layout: 'NCHW',
  },
  'split into 12': { model: model('Split', [[12]], { axis: 0, num_outputs: 12 }, 12), layout: 'NCHW' },
  'max pooling with indices': {
    model: model('MaxPool', [[1, 1, 4, 4]], { kernel_shape: [2, 2], strides: [2, 2] }, 2),
    layout: 'NCHW',
  },
  'transposed convolution over three axes': {
    model: model('ConvTranspose', [
      [1, 2, 3, 3, 3],
      [2, 2, 2, 2, 2],
    ]),
    layout: 'NCHW',
  },
  'reading a buffer of the device': { model: model('Relu', [[4]]), layout: 'NCHW', isKept: true },
};

async function run(name, path) {
  const { default: ort } = await import('onnxruntime-node');
  const { model: made, layout, isKept } = FAULTS[name];
  const feeds = Object.fromEntries(
    made.graph.inputs.map(({ name: input, shape }) => {
      const size = shape.reduce((n, d) => n * d, 1);
      const numbers = Float32Array.from({ length: size }, (_, i) => (((i * 37) % 17) - 8) / 8);
      return [input, new ort.Tensor(FLOAT, numbers, shape)];
    }),
  );
  const on = async (executionProviders, more = {}) => {
    const session = await ort.InferenceSession.create(path, {
      executionProviders,
      logSeverityLevel: 4,
      ...more,
    });
    return Object.values(await session.run(feeds));
  };
  const webgpu = [{ name: 'webgpu', preferredLayout: layout }, 'cpu'];
  const found = await on(webgpu, isKept ? { preferredOutputLocation: 'gpu-buffer' } : {});
  const expected = await on(['cpu']);
  let most = 0;
  for (const [i, tensor] of found.entries()) {
    const data = isKept ? await tensor.getData() : tensor.data;
    for (const [j, x] of [...data].entries())
      most = Math.max(most, Math.abs(Number(x) - Number(expected[i].data[j])));
  }
  console.log(`differs from the CPU by ${most.toPrecision(2)}`);
}

const [given, path] = process.argv.slice(2);
if (path) await run(given, path);
else {
  const folder = given ?? mkdtempSync(join(tmpdir(), 'faults-'));
  mkdirSync(folder, { recursive: true });
  for (const [name, { model: made }] of Object.entries(FAULTS)) {
    const file = join(folder, `${name.replaceAll(' ', '-')}.onnx`);
    await saveModel(made, file);
    const args = [fileURLToPath(import.meta.url), name, file];
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    const lines = `${stderr}\n${stdout}`.split('\n');
    const line = lines.find(text => /^Error:|Error: |differs|terminate/.test(text)) ?? '';
    const end = status === 0 ? '' : ` (${signal ?? `exit code ${status}`})`;
    console.log(`${name}: ${line.replace(/^.*?Error: /, '').slice(0, 240)}${end}`);
  }
  console.log(`models in ${folder}`);
}
