/** Models that a benchmark makes for itself. */
import { Graph, Model, Node, Tensor, Value } from '../dist/node/ir.js';
import { cosines } from './peers/serve.mjs';

const random = (dims, scale) => {
  let state = 1;
  const data = Float32Array.from({ length: dims.reduce((n, d) => n * d, 1) }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 31 - 1) * scale;
  });
  return Tensor.from('float32', dims, data);
};

/**
 * A residual chain of `nodes` nodes, `width` wide: layers of MatMul, Add, Tanh and Add, with `plain` nodes more
 * that have no parameter after each.
 */
export function chain(nodes, plain = 0, width = 8) {
  const graph = new Graph('chain');
  let x = new Value('x', { kind: 'tensor', dtype: 'float32', shape: ['batch', width] });
  graph.inputs.push(x);
  for (let i = 0; i < nodes / (4 + plain); i++) {
    const weight = new Value(`layers.${i}.weight`);
    const bias = new Value(`layers.${i}.bias`);
    graph.initializers.set(weight, random([width, width], 0.3));
    graph.initializers.set(bias, random([width], 0.1));
    const [product, sum, active, y] = ['product', 'sum', 'active', 'y'].map(
      name => new Value(`layers.${i}.${name}`),
    );
    graph.append(new Node('MatMul', [x, weight], [product]));
    graph.append(new Node('Add', [product, bias], [sum]));
    graph.append(new Node('Tanh', [sum], [active]));
    graph.append(new Node('Add', [active, x], [y]));
    x = y;
    for (let k = 0; k < plain; k++) {
      const next = new Value(`layers.${i}.plain.${k}`);
      graph.append(new Node(k % 2 ? 'Softsign' : 'Sigmoid', [x], [next]));
      x = next;
    }
  }
  graph.addOutputs(x);
  return modelOf(graph);
}

/** Square layers of 64 MiB each. */
export function wide(megabytes) {
  const width = 4096;
  const graph = new Graph('wide');
  let x = new Value('x', { kind: 'tensor', dtype: 'float32', shape: ['batch', width] });
  graph.inputs.push(x);
  const weights = random([width, width], 0.01);
  for (let i = 0; i < megabytes / 64; i++) {
    const weight = new Value(`layers.${i}.weight`);
    const y = new Value(`layers.${i}.y`);
    graph.initializers.set(weight, weights);
    graph.append(new Node('MatMul', [x, weight], [y]));
    x = y;
  }
  graph.addOutputs(x);
  return modelOf(graph);
}

/** Parameters of these shapes, by name, with constant gradients `d_NAME`; the loss is the input `x` as it is. */
export function updateOnly(shapes) {
  const graph = new Graph('update');
  const x = new Value('x', { kind: 'tensor', dtype: 'float32', shape: [] });
  const loss = new Value('loss');
  graph.inputs.push(x);
  graph.append(new Node('Identity', [x], [loss]));
  graph.addOutputs(loss);
  for (const [name, dims] of Object.entries(shapes)) {
    const size = dims.reduce((n, d) => n * d, 1);
    const [constant, grad] = [new Value(`c_${name}`), new Value(`d_${name}`)];
    graph.initializers.set(new Value(name), Tensor.zeros('float32', dims));
    graph.initializers.set(constant, Tensor.from('float32', dims, cosines(size)));
    graph.append(new Node('Identity', [constant], [grad]));
    graph.addOutputs(grad);
  }
  return modelOf(graph);
}

/** The mean of a matrix product, so that next to nothing has to be handed back. */
export function productOf(size) {
  const graph = new Graph('product');
  const [a, b] = ['a', 'b'].map(
    name => new Value(name, { kind: 'tensor', dtype: 'float32', shape: [size, size] }),
  );
  const [product, mean] = [new Value('product'), new Value('mean')];
  graph.inputs.push(a, b);
  graph.append(new Node('MatMul', [a, b], [product]), new Node('ReduceMean', [product], [mean]));
  graph.addOutputs(mean);
  return modelOf(graph);
}

function modelOf(graph) {
  const model = new Model(graph);
  model.opsetImports = new Map([['', 18]]);
  return model;
}
