/** TensorFlow.js' racer; the last argument is the backend. AGD is written in its operations. */
import { availableParallelism } from 'node:os';
import * as tf from '@tensorflow/tfjs';
import { MODELS } from './models.mjs';
import { cosines, serve } from './serve.mjs';

const [beta1, beta2, delta] = [0.9, 0.999, 1e-5];

async function useBackend(backend, threads) {
  if (backend === 'wasm') {
    const wasm = await import('@tensorflow/tfjs-backend-wasm');
    wasm.setThreadsCount(Math.min(threads, availableParallelism()));
  }
  tf.enableProdMode();
  if (!(await tf.setBackend(backend))) throw new Error(`Backend ${backend} does not start.`);
}

function parameters({ parameters, read }) {
  const made = Object.entries(parameters).map(([name, spec]) => {
    const value = spec.dtype ? tf.tensor(read(spec), spec.dims) : tf.zeros(spec.dims);
    const isKernel = spec.dtype && spec.dims.length === 4;
    return [name, tf.variable(isKernel ? value.transpose([2, 3, 1, 0]) : value, true, name)];
  });
  return new Map(made);
}

function lossOf({ name, loss, inputs, read }, params) {
  const feeds = Object.entries(inputs).map(([input, spec]) => {
    const data = read(spec);
    const isInteger = spec.dtype === 'int64';
    return [
      input,
      tf.tensor(isInteger ? Int32Array.from(data, Number) : data, spec.dims, isInteger ? 'int32' : 'float32'),
    ];
  });
  const { target, ...x } = Object.fromEntries(feeds);
  const p = Object.assign(key => params.get(key), { has: key => params.has(key) });
  const output = () => MODELS[name](OPERATIONS, p, x);
  if (loss === 'bce-with-logits')
    return () => tf.losses.sigmoidCrossEntropy(target, output().reshape(target.shape));
  return () => {
    const logits = output();
    const classes = tf.oneHot(target.flatten(), logits.shape.at(-1)).cast('float32');
    return classes.mul(tf.logSoftmax(logits)).sum(1).mean().neg();
  };
}

/** The step's change of all parameters, each with moments of its own. */
function agd() {
  const moments = new Map();
  let t = 0;
  return (params, grads, lr = 1e-3) => {
    t++;
    const [root, before] = [Math.sqrt(1 - beta2 ** t), 1 - beta1 ** (t - 1)];
    for (const [name, p] of params)
      tf.tidy(() => {
        if (!moments.has(name))
          moments.set(
            name,
            ['m', 'b'].map(k => tf.variable(tf.zeros(p.shape), false, `${name}/${k}`)),
          );
        const [m, b] = moments.get(name);
        const next = m.mul(beta1).add(grads[name].mul(1 - beta1));
        const corrected = next.div(1 - beta1 ** t);
        const s = t === 1 ? corrected : corrected.sub(m.div(before));
        m.assign(next);
        b.assign(b.mul(beta2).add(s.square().mul(1 - beta2)));
        p.assign(p.sub(corrected.mul(lr * root).div(b.sqrt().maximum(delta * root))));
      });
  };
}

/** Images have their channels last. */
const OPERATIONS = {
  add: tf.add,
  mul: tf.mul,
  relu: tf.relu,
  sigmoid: tf.sigmoid,
  tanh: tf.tanh,
  softmax: tf.softmax,
  reshape: tf.reshape,
  scalar: tf.scalar,
  zeros: tf.zeros,
  permute: tf.transpose,
  transpose: x => tf.transpose(x),
  matmul: (a, b) =>
    a.rank === 3 && b.rank === 2 ? tf.matMul(a.reshape([-1, a.shape[2]]), b) : tf.matMul(a, b),
  gelu: x => x.mul(0.5).mul(tf.erf(x.mul(Math.SQRT1_2)).add(1)),
  image: x => x.transpose([0, 2, 3, 1]),
  flatten: x => x.transpose([0, 3, 1, 2]).reshape([x.shape[0], -1]),
  conv: (x, w, stride, pad) => tf.conv2d(x, w, stride, pad),
  addChannels: tf.add,
  maxPool2: x => tf.maxPool(x, 2, 2, 'valid'),
  averageImage: x => x.mean([1, 2]),
  batchNorm: (x, scale, bias) => normalize(x, [0, 1, 2], scale, bias),
  layerNorm: (x, scale, bias) => normalize(x, [-1], scale, bias),
  embed: (table, ids) => tf.gather(table, ids),
  columns: (x, count) => tf.split(x, count, 1).map(column => column.flatten()),
  concat: tensors => tf.concat(tensors, 1),
  split: (x, count) => tf.split(x, count, -1),
  steps: x => tf.unstack(x, 1),
  stack: tensors => tf.stack(tensors, 1),
  causal: n =>
    tf.tidy(() =>
      tf.linalg
        .bandPart(tf.ones([n, n]), -1, 0)
        .sub(1)
        .mul(1e9),
    ),
};

function normalize(x, axes, scale, bias) {
  const centred = x.sub(x.mean(axes, true));
  return centred.div(centred.square().mean(axes, true).add(1e-5).sqrt()).mul(scale).add(bias);
}

await serve(async (workload, threads) => {
  await useBackend(process.argv[5], threads);
  const update = agd();
  const params = parameters(workload);
  if (!workload.inputs) {
    const grads = Object.fromEntries(
      [...params].map(([name, p]) => [name, tf.tensor(cosines(p.size), p.shape)]),
    );
    const run = async lr => {
      update(params, grads, lr);
      return [(await params.get('p0').data())[0]];
    };
    return { run };
  }
  const loss = lossOf(workload, params);
  return {
    async run(lr) {
      const { value, grads } = tf.variableGrads(loss, [...params.values()]);
      update(params, grads, lr);
      const [result] = await value.data();
      tf.dispose([value, ...Object.values(grads)]);
      return [result];
    },
  };
});
