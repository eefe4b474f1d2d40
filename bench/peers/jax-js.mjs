/** jax-js' racer: loss, gradients and AGD in one jitted function. Its WebAssembly backend is what Node has. */
import { defaultDevice, init, jit, lax, nn, numpy as np, valueAndGrad } from '@jax-js/jax';
import { MODELS } from './models.mjs';
import { cosines, serve } from './serve.mjs';

const [beta1, beta2, delta] = [0.9, 0.999, 1e-5];

/** Arrays are consumed by what reads them: here everything may be read again, and is traced only once. */
const keep = value => (Array.isArray(value) ? value.map(keep) : (value?.ref ?? value));
const kept =
  f =>
  (...args) =>
    f(...args.map(keep));

const map = (tree, f) =>
  Object.fromEntries(Object.entries(tree).map(([name, value]) => [name, f(value, name)]));

function normalize(x, axes, scale, bias) {
  const centred = x.ref.sub(np.mean(x.ref, axes, { keepdims: true }));
  const variance = np.mean(np.square(centred.ref), axes, { keepdims: true });
  return centred
    .div(np.sqrt(variance.add(1e-5)))
    .mul(scale)
    .add(bias);
}

const channels = v => v.reshape([1, -1, 1, 1]);

/** Images have their channels first, as in PyTorch. */
const OPERATIONS = map(
  {
    add: (a, b) => a.add(b),
    mul: (a, b) => a.mul(b),
    relu: nn.relu,
    sigmoid: nn.sigmoid,
    tanh: np.tanh,
    softmax: x => nn.softmax(x, -1),
    reshape: (x, shape) => x.reshape([...shape]),
    scalar: value => np.array(value),
    zeros: shape => np.zeros([...shape]),
    permute: (x, axes) => np.transpose(x, [...axes]),
    transpose: x => np.transpose(x),
    matmul: np.matmul,
    gelu: x => nn.gelu(x, { approximate: false }),
    image: x => x,
    flatten: x => x.reshape([x.shape[0], -1]),
    conv: (x, w, stride, pad) =>
      lax.convGeneralDilated(
        x,
        w,
        [stride, stride],
        [
          [pad, pad],
          [pad, pad],
        ],
      ),
    addChannels: (x, b) => x.add(channels(b)),
    maxPool2: x => {
      const [n, c, h, w] = x.shape;
      return np.max(x.reshape([n, c, h / 2, 2, w / 2, 2]), [3, 5]);
    },
    averageImage: x => np.mean(x, [2, 3]),
    batchNorm: (x, scale, bias) => normalize(x, [0, 2, 3], channels(scale), channels(bias)),
    layerNorm: (x, scale, bias) => normalize(x, -1, scale, bias),
    embed: (table, ids) => np.take(table, ids, 0),
    columns: (x, count) => np.split(x, count, 1).map(column => column.reshape([-1])),
    concat: arrays => np.concatenate(arrays, 1),
    split: (x, count) => np.split(x, count, -1),
    steps: (x, count) => np.split(x, count, 1).map(step => step.reshape([x.shape[0], -1])),
    stack: arrays => np.stack(arrays, 1),
    causal: n =>
      np
        .tril(np.ones([n, n]))
        .sub(1)
        .mul(1e9),
  },
  kept,
);

function lossOf({ name, loss }) {
  return (params, { target, ...x }) => {
    const p = Object.assign(key => params[key], { has: key => key in params });
    const output = MODELS[name](OPERATIONS, p, x);
    if (loss === 'bce-with-logits') {
      const z = output.reshape(target.shape);
      return np.mean(nn.softplus(z.ref).sub(z.mul(target)));
    }
    const classes = nn.oneHot(target.reshape([-1]), output.shape.at(-1));
    return np.mean(np.sum(classes.mul(nn.logSoftmax(output, -1)), 1)).neg();
  };
}

function agd(p, g, m, b, { c1, c0, root, rate }) {
  const m1 = m.ref.mul(beta1).add(g.mul(1 - beta1));
  const corrected = m1.ref.div(c1.ref);
  const s = corrected.ref.sub(m.div(c0.ref));
  const b1 = b.mul(beta2).add(np.square(s).mul(1 - beta2));
  const step = corrected.mul(rate.ref).div(np.maximum(np.sqrt(b1.ref), root.ref.mul(delta)));
  return [p.sub(step), m1, b1];
}

/** Values for the update of step `t`: before the first, the moment is zero whatever it is divided by. */
const scalars = (t, lr) => {
  const root = Math.sqrt(1 - beta2 ** t);
  const values = { c1: 1 - beta1 ** t, c0: t === 1 ? 1 : 1 - beta1 ** (t - 1), root, rate: lr * root };
  return map(values, v => np.array(v));
};

function array(read, spec) {
  const data = read(spec);
  if (spec.dtype === 'float32') return np.array(data, { shape: spec.dims });
  return np.array(Int32Array.from(data, Number), { shape: spec.dims, dtype: np.int32 });
}

await serve(async workload => {
  await init('wasm');
  defaultDevice('wasm');
  const { inputs, parameters, read } = workload;
  const size = dims => dims.reduce((n, d) => n * d, 1);
  let params = map(parameters, spec => (inputs ? array(read, spec) : np.zeros(spec.dims)));
  let [m, b] = [1, 2].map(() => map(parameters, ({ dims }) => np.zeros(dims)));
  const data = inputs
    ? map(inputs, spec => array(read, spec))
    : map(parameters, ({ dims }) => np.array(cosines(size(dims)), { shape: dims }));
  const gradients = inputs ? valueAndGrad(lossOf(workload)) : (_, grads) => [np.array(0), grads];
  const step = jit((params, m, b, scalars, data) => {
    const [value, grads] = gradients(map(params, keep), data);
    const updated = map(params, (p, name) => agd(p, grads[name], m[name], b[name], scalars));
    return [value, ...[0, 1, 2].map(i => map(updated, u => u[i]))];
  });
  let t = 0;
  return {
    async run(lr = 1e-3) {
      const [value, ...state] = step(params, m, b, scalars(++t, lr), map(data, keep));
      [params, m, b] = state;
      const [loss] = await value.data();
      return [inputs ? loss : (await params.p0.ref.data())[0]];
    },
  };
});
