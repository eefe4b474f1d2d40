/** Serves the page, LeNet as the two halves of a training step, and the digits to learn from. */
import { createReadStream, existsSync, readdirSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { pipeline } from 'node:stream';
import { fileURLToPath } from 'node:url';
import {
  encodeModel,
  inject,
  loadArrays,
  loadModel,
  splitStep,
  webgpuProvider,
} from '../../dist/src/internal.js';

const here = fileURLToPath(new URL('.', import.meta.url));
const models = join(here, '../../models');

const { model } = await inject(await loadModel(join(models, 'lenet.onnx')), {
  loss: { kind: 'cross-entropy' },
  // The WebGPU build of onnxruntime-web has no float64.
  scalars: 'float32',
});
const { state, gradients, update } = await splitStep(model);
const made = new Map([
  ['/step.json', JSON.stringify(webgpuProvider(gradients))],
  ['/state.onnx', encodeModel(state)],
  ['/grad.onnx', encodeModel(gradients)],
  ['/update.onnx', encodeModel(update)],
]);
for (const set of ['train', 'test'])
  for (const [name, tensor] of await loadArrays(join(models, `mnist/${set}.npz`)))
    made.set(`/${set}.${name}`, tensor.bytes);

const runtime = join(here, 'node_modules/onnxruntime-web/dist');
/** All that is served from disk: a path that is not among these names no file. */
const files = new Map([
  ['/', join(here, 'index.html')],
  ['/train.js', join(here, 'train.js')],
  ...(existsSync(runtime) ? readdirSync(runtime) : []).map(name => [`/ort/${name}`, join(runtime, name)]),
]);
const types = new Map([
  ['.html', 'text/html'],
  ['.js', 'text/javascript'],
  ['.mjs', 'text/javascript'],
  ['.wasm', 'application/wasm'],
]);

const server = createServer((request, response) => {
  const pathname = request.url.replace(/[?#].*/s, '');
  const file = files.get(pathname);
  // The threads of WebAssembly need a page that is isolated from others.
  response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
  response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
  if (made.has(pathname)) response.end(made.get(pathname));
  else if (file) {
    response.setHeader('Content-Type', types.get(extname(file)) ?? 'application/octet-stream');
    // A file that cannot be read, or a reader who has gone, ends this answer and not the server.
    pipeline(createReadStream(file), response, error => error && response.destroy());
  } else response.writeHead(404).end();
});
// Only this machine is served.
server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () =>
  console.log(`http://localhost:${server.address().port}`),
);
