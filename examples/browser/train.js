/** Trains in the page: two sessions, a loop, and nothing else. */
import * as ort from './ort/ort.webgpu.bundle.min.mjs';

const BATCH = 64;
const query = new URLSearchParams(location.search);
const device = query.get('device') ?? (navigator.gpu ? 'webgpu' : 'wasm');
const element = id => document.getElementById(id);
const bytes = async path => new Uint8Array(await (await fetch(path)).arrayBuffer());

const provider = await (await fetch('step.json')).json();
const open = async (name, executionProvider) =>
  ort.InferenceSession.create(await bytes(`${name}.onnx`), { executionProviders: [executionProvider] });
const chosen = device === 'webgpu' ? provider : device;
const first = await open('state', 'wasm');
const grad = await open('grad', chosen);
const update = await open(
  'update',
  device === 'webgpu' ? { ...provider, forceCpuNodeNames: undefined } : device,
);

const run = (session, values) =>
  session.run(Object.fromEntries(session.inputNames.map(name => [name, values[name]])));

let state = await run(first, {});

/** One training step; gives the loss. */
async function step(batch) {
  const gradients = await run(grad, { ...state, ...batch });
  const next = { ...gradients, ...(await run(update, { ...state, ...gradients })) };
  state = Object.fromEntries(
    Object.entries(state).map(([name, value]) => [name, next[`${name}_new`] ?? value]),
  );
  return gradients.loss.data[0];
}

const dataset = async name => ({ x: await bytes(`${name}.x`), y: await bytes(`${name}.y`) });
const [train, test] = [await dataset('train'), await dataset('test')];

/** Images are bytes, labels too; `at` says which. */
function batchOf({ x, y }, at) {
  const pixels = new Float32Array(at.length * 784);
  for (const [i, k] of at.entries()) for (let p = 0; p < 784; p++) pixels[784 * i + p] = x[784 * k + p] / 255;
  return {
    input: new ort.Tensor('float32', pixels, [at.length, 1, 28, 28]),
    target: new ort.Tensor(
      'int64',
      BigInt64Array.from(at, k => BigInt(y[k])),
      [at.length],
    ),
  };
}

async function classify(batch) {
  const { logits } = await run(grad, { ...state, ...batch });
  const rows = logits.dims[0];
  return Array.from({ length: rows }, (_, i) => {
    const row = logits.data.subarray(10 * i, 10 * i + 10);
    return row.indexOf(Math.max(...row));
  });
}

async function accuracy() {
  let right = 0;
  for (let k = 0; k + BATCH <= test.y.length; k += BATCH) {
    const at = Array.from({ length: BATCH }, (_, i) => k + i);
    const classes = await classify(batchOf(test, at));
    right += classes.filter((c, i) => c === test.y[k + i]).length;
  }
  return right / (test.y.length - (test.y.length % BATCH));
}

// ---- the page ----

const losses = [];
let trains = false;
const curve = element('curve').getContext('2d');

function drawCurve() {
  const { width, height } = curve.canvas;
  curve.clearRect(0, 0, width, height);
  curve.beginPath();
  for (const [i, loss] of losses.entries())
    curve.lineTo(
      (i / Math.max(losses.length - 1, 1)) * width,
      height - 4 - (Math.min(loss, 2.4) / 2.4) * (height - 8),
    );
  curve.stroke();
}

/** Ends after `last` steps where it is given. */
async function loop(last = Number.POSITIVE_INFINITY) {
  const start = performance.now();
  const before = losses.length;
  while (trains && losses.length < last) {
    losses.push(
      await step(
        batchOf(
          train,
          Array.from({ length: BATCH }, () => Math.floor(Math.random() * train.y.length)),
        ),
      ),
    );
    const perStep = (performance.now() - start) / (losses.length - before);
    element('status').textContent =
      `step ${losses.length}, loss ${losses.at(-1).toFixed(3)}, ${perStep.toFixed(0)} ms a step`;
    drawCurve();
    await new Promise(requestAnimationFrame);
  }
  element('accuracy').textContent = `${(100 * (await accuracy())).toFixed(1)} % of 960 unseen digits`;
}

element('train').onclick = async () => {
  trains = !trains;
  element('train').textContent = trains ? 'Stop' : 'Train';
  if (trains) await loop();
};

/** The parameters as a .safetensors file, which `agd-onnx export --params` puts into the model. */
element('save').onclick = () => {
  const header = {};
  const parts = [];
  let offset = 0;
  for (const [name, { dims, data }] of Object.entries(state)) {
    if (!update.inputNames.includes(`${name}_grad`)) continue;
    header[name] = { dtype: 'F32', shape: dims, data_offsets: [offset, offset + data.byteLength] };
    offset += data.byteLength;
    parts.push(data);
  }
  const json = JSON.stringify(header);
  const text = new TextEncoder().encode(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = new BigUint64Array([BigInt(text.length)]);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([length, text, ...parts]));
  link.download = 'lenet.safetensors';
  link.click();
};

const pad = element('pad');
const ink = pad.getContext('2d', { willReadFrequently: true });
const clear = () => {
  ink.fillStyle = '#000';
  ink.fillRect(0, 0, pad.width, pad.height);
};
clear();
ink.strokeStyle = '#fff';
ink.lineWidth = 18;
ink.lineCap = 'round';
pad.onpointerdown = ({ offsetX, offsetY }) => {
  clear();
  ink.beginPath();
  ink.moveTo(offsetX, offsetY);
};
pad.onpointermove = ({ buttons, offsetX, offsetY }) => {
  if (!buttons) return;
  ink.lineTo(offsetX, offsetY);
  ink.stroke();
};
pad.onpointerup = async () => {
  const small = new OffscreenCanvas(28, 28).getContext('2d');
  small.drawImage(pad, 0, 0, 28, 28);
  const { data } = small.getImageData(0, 0, 28, 28);
  const x = Uint8Array.from({ length: 784 }, (_, i) => data[4 * i]);
  const [digit] = await classify(batchOf({ x, y: new Uint8Array(1) }, [0]));
  element('digit').textContent = digit;
};

element('status').textContent = `ready, on ${device}`;
element('train').disabled = false;
if (query.has('steps')) {
  trains = true;
  await loop(Number(query.get('steps')));
  trains = false;
  document.title = 'done';
}
