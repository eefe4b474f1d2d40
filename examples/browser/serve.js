/** Serves the page, LeNet as the two halves of a training step, and the digits to learn from. */
import { createReadStream, existsSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  encodeModel,
  inject,
  loadArrays,
  loadModel,
  splitStep,
  webgpuProvider,
} from '../../dist/src/index.js';

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

const FILES = { '/': 'index.html', '/train.js': 'train.js' };
const TYPES = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
};

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://localhost');
  const file = pathname.startsWith('/ort/')
    ? join(here, 'node_modules/onnxruntime-web/dist', pathname.slice(5))
    : FILES[pathname] && join(here, FILES[pathname]);
  // The threads of WebAssembly need a page that is isolated from others.
  response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
  response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
  if (made.has(pathname)) response.end(made.get(pathname));
  else if (file && !pathname.includes('..') && existsSync(file)) {
    response.setHeader('Content-Type', TYPES[extname(file)] ?? 'application/octet-stream');
    createReadStream(file).pipe(response);
  } else response.writeHead(404).end();
});
server.listen(Number(process.env.PORT ?? 8080), () =>
  console.log(`http://localhost:${server.address().port}`),
);
