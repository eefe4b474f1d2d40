/**
 * agd-onnx for programs that read, build and rewrite models: the graph, its bytes, the builder of nodes, and passes.
 */
import type { Model } from './graph/ir.js';
import { decodeModel as decode, encodeModel as encode } from './graph/proto/codec.js';
import { completeOperators } from './ops/index.js';
import { OTHERS } from './ops/on-demand.js';
import { backward as differentiate } from './passes/differentiate/backward.js';

export { cloneModel } from './graph/clone.js';
export type { DType, FloatDType } from './graph/dtype.js';
export { AgdError, type ErrorCode } from './graph/errors.js';
export { loadModel, saveModel } from './graph/files.js';
export {
  type Attr,
  allGraphs,
  type Dim,
  FunctionDef,
  Graph,
  Model,
  Node,
  type Shape,
  type TensorType,
  Value,
  type ValueType,
} from './graph/ir.js';
export { Names } from './graph/names.js';
export { Tensor } from './graph/tensor.js';
export {
  type AttrInit,
  Builder,
  type EmitOptions,
  float,
  floats,
  type Scope,
  toAttrs,
} from './ops/core/builder.js';
export { Expr } from './ops/core/expr.js';
export { dropUnreadInputs, eliminateDeadNodes } from './passes/common/eliminate-dead-nodes.js';
export type { BackwardOptions } from './passes/differentiate/backward.js';
export { foldShapes } from './passes/normalize/fold-shapes.js';
export { inferShapes, type ShapeOracle } from './passes/normalize/infer-shapes.js';
export { inlineFunctions } from './passes/normalize/inline-functions.js';
export { upgradeOpset } from './passes/normalize/upgrade-opset.js';

/**
 * Decodes a model and keeps every field. Tensors are views of `bytes`; external ones are in files of `folder`. Throws
 * `not-onnx`, `unsupported-version`, `unsupported-type`, `invalid-model` or `external-data`.
 */
export const decodeModel = (bytes: Uint8Array, folder?: string): Model => decode(bytes, folder);

/** The model as one file. Throws `external-data` if that would exceed 2 GiB. */
export const encodeModel = (model: Model): Uint8Array => encode(model);

/**
 * Appends to `g.graph` the nodes that compute, from the cotangents of some of its values, the cotangents of `wrt`:
 * reverse-mode differentiation, restricted to the nodes between the two. Returns one expression per value of `wrt`,
 * undefined if no gradient arrives. Throws `no-gradient` for an operator in between without a rule.
 */
export const backward: typeof differentiate = (...args) => {
  completeOperators(OTHERS);
  return differentiate(...args);
};
