/**
 * The memory that a page of headless Chromium takes to train LoRA adapters of a GPT of about 100 million parameters on
 * WebAssembly: `npm run build && node bench/page-memory.mjs [--batch N] [--length N] [--layers N] [--lora R]`. Prints what planMemory
 * expects, and what was seen: the heap of WebAssembly, which never shrinks, and the largest size of the process of the page.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { planMemory, saveModel, Tensor } from '../dist/node/index.js';
import { Graph, Model, Node, Value } from '../dist/node/ir.js';
import { openPage } from '../dist/test/conformance/browser.js';

const { values: flags } = parseArgs({
  options: Object.fromEntries(
    Object.entries({ batch: '1', length: '128', layers: '12', lora: '8', steps: '4' }).map(
      ([name, value]) => [name, { type: 'string', default: value }],
    ),
  ),
});
const [batch, length, layers, r, steps] = ['batch', 'length', 'layers', 'lora', 'steps'].map(name =>
  Number(flags[name]),
);
const [width, heads, vocabulary] = [768, 12, 8192];

/** Tokens in, logits of the next ones out: a decoder of GPT-2's width with a head of its own. */
function gpt() {
  const graph = new Graph('gpt');
  let seed = 1;
  const weight = (name, dims, scale = 0.02) => {
    const data = new Float32Array(dims.reduce((n, d) => n * d, 1));
    for (let i = 0; i < data.length; i++) {
      seed = (seed * 48271) % 2147483647;
      data[i] = (seed / 1073741823.5 - 1) * scale;
    }
    return constant(name, Tensor.from('float32', dims, data));
  };
  const constant = (name, tensor) => {
    const value = new Value(name, { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims });
    graph.initializers.set(value, tensor);
    return value;
  };
  const ints = (name, list) =>
    constant(name, Tensor.from('int64', [list.length], BigInt64Array.from(list, BigInt)));
  let count = 0;
  const add = (opType, inputs, attrs = {}) => {
    const y = new Value(`v${count++}`);
    graph.append(new Node(opType, inputs, [y], new Map(Object.entries(attrs))));
    return y;
  };
  const int = value => ({ type: 'int', value: BigInt(value) });
  const intList = list => ({ type: 'ints', value: list.map(BigInt) });
  const ids = new Value('input_ids', { kind: 'tensor', dtype: 'int64', shape: ['batch', length] });
  graph.inputs = [ids];
  const linear = (x, name, inner, outer) =>
    add('Add', [
      add('MatMul', [x, weight(`${name}.weight`, [inner, outer])]),
      weight(`${name}.bias`, [outer]),
    ]);
  const norm = (x, name) =>
    add(
      'LayerNormalization',
      [x, constant(`${name}.weight`, Tensor.filled('float32', [width], 1)), weight(`${name}.bias`, [width])],
      { axis: int(-1) },
    );
  const split = ints('split', [0, length, heads, width / heads]);
  const join = ints('join', [0, length, width]);
  const mask = Tensor.from(
    'float32',
    [length, length],
    Float32Array.from({ length: length * length }, (_, i) =>
      i % length > Math.floor(i / length) ? -1e9 : 0,
    ),
  );
  const causal = constant('mask', mask);
  const scale = constant('scale', Tensor.filled('float32', [], (width / heads) ** -0.5));
  let x = add('Add', [
    add('Gather', [weight('embedding', [vocabulary, width]), ids]),
    weight('positions', [length, width]),
  ]);
  for (let i = 0; i < layers; i++) {
    const h = norm(x, `h${i}.ln1`);
    const [q, k, v] = ['q', 'k', 'v'].map(name =>
      add('Transpose', [add('Reshape', [linear(h, `h${i}.${name}`, width, width), split])], {
        perm: intList([0, 2, name === 'k' ? 3 : 1, name === 'k' ? 1 : 3]),
      }),
    );
    const scores = add('Add', [add('Mul', [add('MatMul', [q, k]), scale]), causal]);
    const mixed = add('MatMul', [add('Softmax', [scores], { axis: int(-1) }), v]);
    x = add('Add', [
      x,
      linear(
        add('Reshape', [add('Transpose', [mixed], { perm: intList([0, 2, 1, 3]) }), join]),
        `h${i}.o`,
        width,
        width,
      ),
    ]);
    const m = linear(norm(x, `h${i}.ln2`), `h${i}.up`, width, 4 * width);
    const gelu = add('Mul', [m, add('Sigmoid', [m])]);
    x = add('Add', [x, linear(gelu, `h${i}.down`, 4 * width, width)]);
  }
  const logits = new Value('logits', {
    kind: 'tensor',
    dtype: 'float32',
    shape: ['batch', length, vocabulary],
  });
  graph.append(new Node('MatMul', [norm(x, 'ln'), weight('head.weight', [width, vocabulary])], [logits]));
  graph.outputs = [logits];
  const model = new Model(graph);
  model.opsetImports = new Map([['', 18]]);
  return model;
}

const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-page-memory-'));
const model = gpt();
const parameters = [...model.graph.initializers.values()].reduce(
  (n, t) => n + (t.dtype === 'float32' ? t.dims.reduce((a, b) => a * b, 1) : 0),
  0,
);
await saveModel(model, join(folder, 'gpt.onnx'));
const lora = r ? [{ match: '*', r }] : undefined;
const plan = await planMemory(model, {
  loss: { kind: 'cross-entropy' },
  ...(lora ? { lora } : {}),
  batchSize: batch,
});
const page = await openPage('cpu', { models: folder });
await page.tab.addInitScript(() => {
  const { Memory } = WebAssembly;
  const memories = [];
  WebAssembly.Memory = new Proxy(Memory, {
    construct(of, given) {
      memories.push(new of(...given));
      return memories.at(-1);
    },
  });
  const { instantiate } = WebAssembly;
  WebAssembly.instantiate = async (...given) => {
    const made = await instantiate(...given);
    const { exports = {} } = made.instance ?? made;
    memories.push(...Object.values(exports).filter(value => value instanceof Memory));
    return made;
  };
  globalThis.wasmBytes = () => Math.max(0, ...memories.map(memory => memory.buffer.byteLength));
});
await page.tab.reload();
await page.tab.waitForFunction(() => 'inPage' in globalThis);
const system = await page.tab.context().browser().newBrowserCDPSession();
/** The largest size that the page's process has had, in bytes. */
const peak = async () => {
  const { processInfo } = await system.send('SystemInfo.getProcessInfo');
  const sizes = processInfo
    .filter(p => p.type === 'renderer')
    .map(({ id }) => Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${id}/status`, 'utf8'))[1]) * 1024);
  return Math.max(...sizes);
};
const GB = bytes => `${(bytes / 2 ** 30).toFixed(2)} GB`;
page.tab.on('console', message => console.log('page:', message.text()));
page.tab.on('crash', () => console.log('the page crashed'));
const before = await peak();
const started = performance.now();
const found = await page.tab
  .evaluate(
    async ({ batch, length, lora, steps, vocabulary }) => {
      const { inPage } = globalThis;
      await inPage.files.write('/gpt.onnx', await (await fetch('/models/gpt.onnx')).blob());
      const samples = batch * steps;
      const tokens = ahead =>
        inPage.Tensor.from(
          'int64',
          [samples, length],
          BigInt64Array.from({ length: samples * length }, (_, i) =>
            BigInt((((i % length) + ahead) * 31 + 7) % vocabulary),
          ),
        );
      const { history } = await inPage.fit(
        '/gpt.onnx',
        { input_ids: tokens(0), target: tokens(1) },
        {
          loss: 'cross-entropy',
          batchSize: batch,
          epochs: 1,
          ...(lora ? { lora } : {}),
          onEvent: event =>
            console.log(
              event.type,
              event.loss ?? '',
              (globalThis.wasmBytes() / 2 ** 30).toFixed(2),
              (performance.memory?.usedJSHeapSize / 2 ** 30).toFixed(2),
            ),
        },
      );
      return { losses: history.losses };
    },
    { batch, length, lora, steps, vocabulary },
  )
  .catch(error => ({ error: String(error).slice(0, 600) }));
const MB = Object.fromEntries(
  ['weights', 'state', 'activations', 'total'].map(name => [name, Math.round(plan[name] / 2 ** 20)]),
);
console.log('expected, MB', MB);
console.log({
  parameters,
  ...found,
  seconds: Math.round((performance.now() - started) / 1000),
  before: GB(before),
  process: GB(await peak()),
  heap: GB(await page.tab.evaluate(() => globalThis.wasmBytes?.() ?? 0)),
});
await page.close();
rmSync(folder, { recursive: true });
