/**
 * The workloads' models for JavaScript peers, written once in the operations `o` that a peer offers. `p` gives a
 * parameter by PyTorch's name; kernels of convolutions are as the peer has them, everything else as PyTorch.
 */
const sequence = (o, p, x, layers) =>
  layers.reduce((y, layer, i) => linear(o, p, i ? o.relu(y) : y, layer), x);

const linear = (o, p, x, name) => {
  const y = o.matmul(x, o.transpose(p(`${name}.weight`)));
  return p.has(`${name}.bias`) ? o.add(y, p(`${name}.bias`)) : y;
};

const mlp = (o, p, { x }) => sequence(o, p, x, ['0', '2', '4']);

function lenet(o, p, { x }) {
  const conv = (y, name, pad) =>
    o.maxPool2(o.relu(o.addChannels(o.conv(y, p(`${name}.weight`), 1, pad), p(`${name}.bias`))));
  return sequence(o, p, o.flatten(conv(conv(o.image(x), 'conv1', 2), 'conv2', 0)), ['fc1', 'fc2', 'fc3']);
}

function resnet20(o, p, { x }) {
  const norm = (y, name) => o.batchNorm(y, p(`${name}.weight`), p(`${name}.bias`));
  const conv = (y, name, stride, pad) => o.conv(y, p(`${name}.weight`), stride, pad);
  let y = o.relu(norm(conv(o.image(x), '0', 1, 1), '1'));
  for (let i = 3; i < 12; i++) {
    const stride = i === 6 || i === 9 ? 2 : 1;
    const inner = o.relu(norm(conv(y, `${i}.c1`, stride, 1), `${i}.b1`));
    const short = stride === 1 ? y : norm(conv(y, `${i}.short.0`, stride, 0), `${i}.short.1`);
    y = o.relu(o.add(norm(conv(inner, `${i}.c2`, 1, 1), `${i}.b2`), short));
  }
  return linear(o, p, o.averageImage(y), '14');
}

function lstm(o, p, { x }) {
  const [batch, steps] = [20, 35];
  let inputs = o.steps(o.embed(p('e.weight'), x), steps);
  for (const layer of [0, 1]) {
    const [wi, wh] = ['ih', 'hh'].map(k => o.transpose(p(`r.weight_${k}_l${layer}`)));
    const bias = o.add(p(`r.bias_ih_l${layer}`), p(`r.bias_hh_l${layer}`));
    let h = o.zeros([batch, 200]);
    let c = o.zeros([batch, 200]);
    inputs = inputs.map(input => {
      const gates = o.add(o.add(o.matmul(input, wi), o.matmul(h, wh)), bias);
      const [i, f, g, out] = o.split(gates, 4);
      c = o.add(o.mul(o.sigmoid(f), c), o.mul(o.sigmoid(i), o.tanh(g)));
      h = o.mul(o.sigmoid(out), o.tanh(c));
      return h;
    });
  }
  return linear(o, p, o.reshape(o.stack(inputs), [batch * steps, 200]), 'o');
}

const languageModel =
  before =>
  (o, p, { x }) => {
    const [batch, steps, width, heads] = [16, 128, 128, 4];
    const norm = (y, name) => o.layerNorm(y, p(`${name}.weight`), p(`${name}.bias`));
    const split = y => o.permute(o.reshape(y, [batch, steps, heads, width / heads]), [0, 2, 1, 3]);
    const attend = (y, b) => {
      const [q, k, v] = o.split(linear(o, p, y, `${b}.qkv`), 3).map(split);
      const scores = o.mul(o.matmul(q, o.permute(k, [0, 1, 3, 2])), o.scalar((width / heads) ** -0.5));
      const read = o.matmul(o.softmax(o.add(scores, o.causal(steps))), v);
      return linear(o, p, o.reshape(o.permute(read, [0, 2, 1, 3]), [batch * steps, width]), `${b}.p`);
    };
    const inner = (y, b) => linear(o, p, (before ? o.gelu : o.relu)(linear(o, p, y, `${b}.m.0`)), `${b}.m.2`);
    let y = o.reshape(o.add(o.embed(p('w.weight'), x), p('p')), [batch * steps, width]);
    for (const b of ['b.0', 'b.1', 'b.2', 'b.3'])
      if (before) {
        y = o.add(y, attend(norm(y, `${b}.n1`), b));
        y = o.add(y, inner(norm(y, `${b}.n2`), b));
      } else {
        y = norm(o.add(y, attend(y, b)), `${b}.n1`);
        y = norm(o.add(y, inner(y, b)), `${b}.n2`);
      }
    return linear(o, p, norm(y, 'n'), 'o');
  };

function dcn(o, p, { x, x1 }) {
  const columns = o.columns(x, 26).map((ids, i) => o.embed(p(`e.${i}.weight`), ids));
  const x0 = o.concat([...columns, x1]);
  let cross = x0;
  for (const i of [0, 1, 2])
    cross = o.add(o.add(o.mul(x0, o.matmul(cross, p(`w.${i}`))), p(`c.${i}`)), cross);
  const deep = o.relu(sequence(o, p, x0, ['m.0', 'm.2']));
  return linear(o, p, o.concat([cross, deep]), 'o');
}

/** By the workload's name: `(o, p, inputs) => output`, the classes' logits of every sample in a matrix. */
export const MODELS = {
  'mlp-32': mlp,
  'mlp-128': mlp,
  lenet,
  resnet20,
  lstm,
  dcn,
  transformer: languageModel(false),
  gpt: languageModel(true),
};
