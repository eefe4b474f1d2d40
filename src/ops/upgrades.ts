/**
 * Changes of operators in operator sets 8 to 18 that require a change of nodes: the conversion at each version, by
 * operator name. Other changes only extended types and allowed forms. The facts are from ONNX's changelog, and from
 * ONNX Runtime where the changelog is silent.
 */
import type { DType } from '../graph/dtype.js';
import { type Attr, Graph, type Node, type Value } from '../graph/ir.js';
import { Tensor } from '../graph/tensor.js';
import { type AttrInit, toAttrs } from './core/builder.js';
import { Attributes } from './core/rule.js';
import type { UpgradeContext, UpgradeStep } from './core/upgrade.js';

type Steps = readonly UpgradeStep[];

// ---- attributes that became inputs ----

/** Moves the attribute, if the node has it, to the input at `index`, through a Constant node. */
function toInput(node: Node, c: UpgradeContext, name: string, index: number, dtype?: DType): Node[] {
  const attr = node.attrs.get(name);
  if (!attr) return [];
  const hint = `${node.name || node.opType.toLowerCase()}_${name}`;
  const made = c.node('Constant', [], contents(attr, dtype), [c.value(hint)]);
  node.deleteAttr(name);
  setInput(node, index, made.outputs[0]!);
  return [made];
}

/**
 * The attribute of a Constant node for the contents of an attribute, which may refer to that of a function's caller.
 */
function contents(attr: Attr, dtype: DType = 'float32'): AttrInit {
  if (attr.type === 'ints') return { value: Tensor.ints(attr.value) };
  if (attr.type === 'float') return { value: Tensor.filled(dtype, [], attr.value) };
  if (attr.type === 'floats')
    return { value: Tensor.from('float32', [attr.value.length], Float32Array.from(attr.value)) };
  return { [`value_${attr.type === 'ref' ? attr.of : attr.type}`]: attr };
}

function setInput(node: Node, index: number, value: Value): void {
  node.setInput(index, value);
}

const moved =
  (attrs: Record<string, number>): UpgradeStep[1] =>
  (node, c) => [...Object.entries(attrs).flatMap(([name, index]) => toInput(node, c, name, index)), node];

/** The same for a number, which gets the element type of the first input. */
function toScalarInput(node: Node, c: UpgradeContext, name: string, index: number): Node[] {
  const dtype = node.attrs.get(name)?.type === 'float' ? c.floatType(node.inputs[0]!) : undefined;
  const made = toInput(node, c, name, index, dtype);
  if (!made.length || dtype) return made;
  const cast = c.node('CastLike', [made[0]!.outputs[0]!, node.inputs[0]!]);
  setInput(node, index, cast.outputs[0]!);
  return [...made, cast];
}

const axesAsInput = moved({ axes: 1 });

export const Squeeze: Steps = [[13, axesAsInput]];
export const Unsqueeze: Steps = [[13, axesAsInput]];
export const ReduceSum: Steps = [[13, axesAsInput]];
const reduce: Steps = [[18, axesAsInput]];
export const ReduceL1 = reduce;
export const ReduceL2 = reduce;
export const ReduceLogSum = reduce;
export const ReduceLogSumExp = reduce;
export const ReduceMax = reduce;
export const ReduceMean = reduce;
export const ReduceMin = reduce;
export const ReduceProd = reduce;
export const ReduceSumSquare = reduce;
export const Slice: Steps = [[10, moved({ starts: 1, ends: 2, axes: 3 })]];

/** Since 18, a split into equal parts requires their number. */
export const Split: Steps = [
  [13, moved({ split: 1 })],
  [
    18,
    node => {
      if (!node.inputs[1]) node.setAttr('num_outputs', { type: 'int', value: node.outputs.length });
      return [node];
    },
  ],
];

export const Pad: Steps = [
  [11, (node, c) => [...toInput(node, c, 'pads', 1), ...toScalarInput(node, c, 'value', 2), node]],
];

export const Clip: Steps = [
  [11, (node, c) => [...toScalarInput(node, c, 'min', 1), ...toScalarInput(node, c, 'max', 2), node]],
];

export const TopK: Steps = [
  [
    10,
    (node, c) => {
      node.setAttr('k', { type: 'ints', value: [new Attributes(node).int('k', 1)] });
      return [...toInput(node, c, 'k', 1), node];
    },
  ],
];

// ---- training ----

/** Before 12, dropout was the identity, and its mask was unspecified. */
export const Dropout: Steps = [
  [
    12,
    (node, c) => {
      if (c.isRead(node.outputs[1])) throw c.refusal(node, 'its mask is read, but it dropped nothing');
      node.outputs = node.outputs.slice(0, 1);
      return [...toInput(node, c, 'ratio', 1), node];
    },
  ],
];

/** Before 9, statistics could be per element; before 14, five outputs meant training mode. */
export const BatchNormalization: Steps = [
  [
    9,
    (node, c) => {
      if (new Attributes(node).int('spatial', 1) !== 1)
        throw c.refusal(node, 'statistics of single elements (spatial = 0)');
      node.deleteAttr('spatial');
      return [node];
    },
  ],
  [
    14,
    (node, c) => {
      if (node.outputs.length === 1) return [node];
      if (node.outputs.slice(3).some(v => c.isRead(v)))
        throw c.refusal(node, 'its saved statistics are read');
      node.outputs = node.outputs.slice(0, 3);
      node.setAttr('training_mode', { type: 'int', value: 1 });
      return [node];
    },
  ],
];

// ---- other meanings ----

/** Before 13, the axes from `axis` (default 1) on were treated as one. */
const flattened: Steps = [
  [
    13,
    (node, c) => {
      const [x] = node.inputs;
      const axis = new Attributes(node).int('axis', 1);
      node.setAttr('axis', { type: 'int', value: -1 });
      if (axis === -1 || axis + 1 === x!.shape?.length) return [node];
      const shape = c.node('Shape', [x!]);
      const flat = c.node('Flatten', [x!], { axis });
      const y = node.outputs[0]!;
      node.inputs = [flat.outputs[0]!];
      node.outputs = [c.value(`${y.name}_flat`)];
      return [shape, flat, node, c.node('Reshape', [node.outputs[0]!, shape.outputs[0]!], {}, [y])];
    },
  ],
];
export const Softmax = flattened;
export const LogSoftmax = flattened;
export const Hardmax = flattened;

/** Before 16, boxes were not shifted by half a pixel. */
export const RoiAlign: Steps = [
  [
    16,
    node => {
      node.setAttr('coordinate_transformation_mode', { type: 'string', value: 'output_half_pixel' });
      return [node];
    },
  ],
];

export const Scatter: Steps = [
  [
    11,
    node => {
      node.opType = 'ScatterElements';
      return [node];
    },
  ],
];

export const Upsample: Steps = [
  [9, (node, c) => [...toInput(node, c, 'scales', 1), node]],
  [
    10,
    node => {
      node.opType = 'Resize';
      return [node];
    },
  ],
];

/**
 * Version 10 had only the coordinates that are now called asymmetric, and "nearest" rounded down along enlarged axes
 * and up along reduced ones (ONNX Runtime's choice, as the text is silent). If some are reduced, or the scales are not
 * known, enlarging and reducing become two nodes.
 */
export const Resize: Steps = [
  [
    11,
    (node, c) => {
      const [x, scales] = node.inputs as [Value, Value];
      const y = node.outputs[0]!;
      const mode = new Attributes(node).string('mode', 'nearest');
      const resize = (from: Value, by: Value, nearest_mode: string, to: Value) => {
        const attrs = { mode, coordinate_transformation_mode: 'asymmetric', nearest_mode };
        return c.node('Resize', [from, null, by], attrs, [to]);
      };
      if (mode !== 'nearest' || c.constant(scales)?.every(s => s >= 1))
        return [resize(x, scales, 'floor', y)];
      const one = c.node('Constant', [], { value: Tensor.filled('float32', [], 1) });
      const growing = c.node('Max', [scales, one.outputs[0]!]);
      const shrinking = c.node('Min', [scales, one.outputs[0]!]);
      const grown = c.value(`${y.name}_grown`);
      return [
        one,
        growing,
        shrinking,
        resize(x, growing.outputs[0]!, 'floor', grown),
        resize(grown, shrinking.outputs[0]!, 'ceil', y),
      ];
    },
  ],
  [
    13,
    node => {
      const mode = new Attributes(node).string('coordinate_transformation_mode', 'half_pixel');
      // Unused inputs had to be present and empty before they could be omitted.
      if (mode !== 'tf_crop_and_resize') node.setInput(1, null);
      if (node.inputs[3]) node.setInput(2, null);
      return [node];
    },
  ],
];

/**
 * Version 8 scanned each element of a batch separately, with the batch as the first axis of all inputs: this becomes a
 * Scan over the batch whose body is the Scan over time.
 */
export const Scan: Steps = [
  [
    9,
    (node, c) => {
      const [lengths, ...values] = node.inputs;
      if (lengths) throw c.refusal(node, 'sequences of different lengths');
      const attrs = new Attributes(node);
      const body = attrs.graph('body')!;
      const one = (v: Value) => c.value(`${v.name}_of_one`);
      const [inputs, outputs] = [body.inputs.map(one), body.outputs.map(one)];
      const own = { num_scan_inputs: attrs.int('num_scan_inputs', 1), body };
      const directions = attrs.ints('directions');
      const overBatch = new Graph(c.name('scan_over_batch'));
      overBatch.inputs = inputs;
      overBatch.nodes = [c.node('Scan', inputs, { ...own, scan_input_directions: directions }, outputs)];
      overBatch.outputs = outputs;
      node.inputs = values;
      node.attrs = toAttrs({ num_scan_inputs: values.length, body: overBatch });
      return [node];
    },
  ],
];

// ---- operators that are no more ----

/** Experimental operators, which ONNX withdrew. */
const withdrawn: Steps = [
  [
    18,
    (node, c) => {
      throw c.refusal(node, 'ONNX withdrew this operator');
    },
  ],
];
export const ATen = withdrawn;
export const Affine = withdrawn;
export const ConstantFill = withdrawn;
export const Crop = withdrawn;
export const DynamicSlice = withdrawn;
export const GRUUnit = withdrawn;
export const GivenTensorFill = withdrawn;
export const ImageScaler = withdrawn;
export const ParametricSoftplus = withdrawn;
export const Scale = withdrawn;
export const ScaledTanh = withdrawn;
