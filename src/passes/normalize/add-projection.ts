/** Adds a trained projection between features of a model and those of its teacher, where their widths differ. */
import type { FloatDType } from '../../graph/dtype.js';
import { isFloat } from '../../graph/dtype.js';
import { type Model, Node, Value, type ValueType } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { random } from '../../graph/random.js';
import { Tensor } from '../../graph/tensor.js';
import { toAttrs } from '../../ops/core/builder.js';
import { uniformByFanIn } from '../adapt/initial-values.js';
import { PROJECTION } from './attached.js';

/**
 * The axis that a projection from one shape to another is along: the last one, or axis 1 of [batch, channels, ...]. Undefined
 * if the shapes are equal as far as they are known, differ elsewhere, or are unknown.
 */
export function projectedAxis(from: ValueType | undefined, to: ValueType | undefined): number | undefined {
  if (from?.kind !== 'tensor' || to?.kind !== 'tensor' || !from.shape || !to.shape) return undefined;
  const [own, theirs] = [from.shape, to.shape];
  if (!isFloat(from.dtype) || own.length !== theirs.length) return undefined;
  const isOther = (i: number) =>
    typeof own[i] === 'number' && typeof theirs[i] === 'number' && own[i] !== theirs[i];
  const [axis, ...more] = [...own.keys()].filter(isOther);
  if (axis === undefined || more.length || axis === 0) return undefined;
  return axis === own.length - 1 || (axis === 1 && own.length > 2) ? axis : undefined;
}

/**
 * Adds a linear map without bias along an axis of `x`, of type `from`, to `width` values: a MatMul, or a convolution with
 * kernels of one position. Its weight starts as PyTorch's linear layers do. It is W_h in Jiao et al.: «TinyBERT: Distilling BERT
 * for Natural Language Understanding» (arXiv:1909.10351), and the regressor in Romero et al.: «FitNets» (arXiv:1412.6550).
 */
export function addProjection(
  model: Model,
  x: Value,
  from: ValueType,
  axis: number,
  width: number,
  seed: number,
  stream: number,
): Value {
  const { dtype, shape } = from as { dtype: FloatDType; shape: readonly unknown[] };
  const inputs = Number(shape[axis]);
  const isLast = axis === shape.length - 1;
  const dims = isLast ? [inputs, width] : [width, inputs, ...shape.slice(2).map(() => 1)];
  const names = Names.of(model);
  const weight = new Value(names.fresh(`${PROJECTION}${x.name}.weight`), {
    kind: 'tensor',
    dtype,
    shape: dims,
  });
  const values = uniformByFanIn(inputs * width, inputs, random(seed, stream));
  model.graph.initializers.set(weight, Tensor.ofNumbers(dtype, dims, values));
  const projected = new Value(names.fresh(`${PROJECTION}${x.name}`));
  const node = new Node(isLast ? 'MatMul' : 'Conv', [x, weight], [projected], toAttrs({}));
  node.name = names.fresh(`${PROJECTION}${x.name}`);
  model.graph.append(node);
  return projected;
}
