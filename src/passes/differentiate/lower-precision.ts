/** Mixed precision: computes products in 16 bits, and everything else in float32. */
import { type DType, dtypeCode, isHalf } from '../../graph/dtype.js';
import { Node, type Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { type Builder, toAttrs } from '../../ops/core/builder.js';
import type { Precision } from './precision.js';
import { type PrecisionRule, precisionRule } from './precision-rules.js';

type Half = 'float16' | 'bfloat16';

/** In 16 bits, or in float32. */
type Form = 'low' | 'wide';
/** A value in the forms that were computed so far; `own` is the one that its operator computes. */
type Forms = { own: Form } & { [F in Form]?: Value };

/**
 * Computes products and what follows them in 16 bits, everything else in float32: see `precision-rules.ts`. Values keep
 * their names and types, so that parameters, inputs and outputs are those of the file; casts are added between them. With
 * `fp32`, a 16-bit model computes in float32. `kept` are nodes that stay as they are, such as those of the loss, and
 * `constants` values that only have the form of the file. Returns whether anything changed.
 *
 * On a provider without 16-bit kernels (`rounds`), operators compute in float32 with operands and results that are rounded
 * to 16 bits. ONNX Runtime casts around float16 operators by itself, and then drops most of the rounding; around bfloat16
 * operators it does not.
 */
export function lowerPrecision(
  g: Builder,
  precision: Precision,
  { kept, constants, rounds }: { kept: ReadonlySet<Node>; constants: ReadonlySet<Value>; rounds: boolean },
): boolean {
  const { graph } = g;
  const low: Half = precision === 'bf16' ? 'bfloat16' : 'float16';
  const nodes: Node[] = [];
  const known = new Map<Value, Forms>();
  const formsOf = (v: Value): Forms => {
    let forms = known.get(v);
    if (!forms) {
      forms = v.dtype === low ? { own: 'low', low: v } : { own: 'wide' };
      if (v.dtype === 'float32') forms.wide = v;
      known.set(v, forms);
    }
    return forms;
  };
  const casts = new Map<Value, Map<DType, Value>>();
  /** In another type; small constants stay constants. The builder's own cast of a value may come later in the graph. */
  const converted = (v: Value, dtype: Half | 'float32'): Value => {
    if (v.dtype === dtype) return v;
    const constant = g.constant(v);
    if (constant && constant.size <= SMALL)
      return g.into(nodes, () => g.tensor(Tensor.ofNumbers(dtype, constant.dims, constant.floats()))).value;
    const known = casts.get(v) ?? new Map<DType, Value>();
    casts.set(v, known);
    let cast = known.get(dtype);
    if (!cast) {
      cast = g.newValue(v.name, v.type?.kind === 'tensor' ? { ...v.type, dtype } : v.type);
      nodes.push(castTo(v, cast));
      known.set(dtype, cast);
    }
    return cast;
  };
  const inForm = (v: Value, form: Form): Value => {
    const forms = formsOf(v);
    const dtype = form === 'low' ? low : 'float32';
    forms[form] ??= converted(forms[forms.own] ?? v, dtype);
    return forms[form];
  };
  const isLow = (v: Value) => formsOf(v).own === 'low';

  const formOf = (rule: PrecisionRule, floats: readonly Value[]): Form => {
    if (rule === 'movement') return floats.every(isLow) ? 'low' : 'wide';
    if (precision === 'fp32' || rule === 'float32' || rule === 'normalization') return 'wide';
    if (rule === 'product') return 'low';
    const operands = floats.filter(v => !graph.initializers.has(v) && !g.constant(v));
    const fits = floats.every(v => operands.includes(v) || fitsIn(low, g.constant(v)));
    return operands.length && operands.every(isLow) && fits ? 'low' : 'wide';
  };

  /** Lets a node compute an output in a form; the value of the file is cast from it. */
  const putResult = (node: Node, i: number, form: Form): Forms => {
    const v = node.outputs[i]!;
    const dtype = form === 'low' ? low : 'float32';
    const computes = rounds ? 'float32' : dtype;
    if (v.dtype === dtype && computes === dtype) return { own: form, [form]: v };
    const as = (type: DType) =>
      g.newValue(v.name, v.type?.kind === 'tensor' ? { ...v.type, dtype: type } : v.type);
    const computed = as(computes);
    node.setOutput(i, computed);
    changed = true;
    const result = computes === dtype ? computed : v.dtype === dtype ? v : as(dtype);
    if (result !== computed) nodes.push(castTo(computed, result));
    if (result !== v) nodes.push(castTo(result, v));
    const other: Partial<Forms> = v.dtype === 'float32' ? { wide: v } : v.dtype === low ? { low: v } : {};
    return { ...other, own: form, [form]: result };
  };

  let changed = false;
  for (const node of [...graph.nodes]) {
    const inputs = node.inputs.flatMap((v, i) => (v && hasForms(v) && !isAside(node, i) ? [i] : []));
    const outputs = node.outputs.flatMap((v, i) => (v && hasForms(v) ? [i] : []));
    const stays = !inputs.length || !outputs.length || isTyped(node) || node.subgraphs().length > 0;
    if (kept.has(node) || stays || node.outputs.some(v => v?.dtype === 'float64')) {
      nodes.push(node);
      const [from, to] = [node.inputs[0], node.outputs[0]];
      const forms = from && known.get(from);
      // The extents of a value do not need the form of the file.
      if ((node.opType === 'Shape' || node.opType === 'Size') && forms?.[forms.own])
        node.setInput(0, forms[forms.own]!);
      const target = to?.dtype === 'float32' ? 'wide' : 'low';
      const isForm = target === 'wide' || to?.dtype === low;
      if (node.opType === 'Cast' && to && isForm && forms?.[target])
        known.set(to, { own: target, [target]: forms[target] });
      continue;
    }
    const rule = precisionRule(node, low);
    const floats = inputs.map(i => node.inputs[i]!);
    const form = formOf(rule, floats);
    const returnsLow = rule === 'normalization' && precision !== 'fp32' && isLow(floats[0]!);
    if (rule === 'movement' && floats.every(v => isLow(v) && formsOf(v).low === v && v.dtype === low)) {
      nodes.push(node);
      continue;
    }
    for (const i of inputs) {
      const narrow = inForm(node.inputs[i]!, form);
      const operand = rounds ? converted(narrow, 'float32') : narrow;
      changed ||= operand !== node.inputs[i];
      node.setInput(i, operand);
    }
    nodes.push(node);
    for (const i of outputs) {
      const v = node.outputs[i]!;
      const forms = putResult(node, i, form);
      if (constants.has(v)) continue;
      known.set(v, forms);
      if (!returnsLow || i > 0) continue;
      inForm(v, 'low');
      forms.own = 'low';
    }
  }
  if (changed) graph.nodes = nodes;
  return changed;
}

/** Constants of up to so many elements are converted at once, so that rules still know them. */
const SMALL = 64;

const hasForms = (v: Value) => v.dtype === 'float32' || isHalf(v.dtype);
/** An input whose type is not that of the others. */
const isAside = (node: Node, i: number) => node.opType === 'Dropout' && i > 0;
/** Operators whose result has the type that an attribute names. */
const isTyped = ({ attrs }: Node) => ['to', 'dtype', 'output_dtype'].some(name => attrs.has(name));

const castTo = (from: Value, to: Value) =>
  new Node('Cast', [from], [to], toAttrs({ to: dtypeCode(to.dtype!) }));

/** Whether a constant stays about what it is: an eps does not become 0, and what masks scores not infinite. */
function fitsIn(low: Half, constant: Tensor | undefined): boolean {
  if (!constant || low === 'bfloat16') return true;
  const values = constant.floats();
  if (values.length === 1 && values[0] !== 0 && Math.abs(values[0]!) < 2 ** -14) return false;
  return values.every(x => Math.abs(x) <= 65504 || !Number.isFinite(x));
}
