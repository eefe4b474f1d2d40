/** What ONNX Runtime throws, in words that say what to do. */
import { type DType, dtypeOf, isFloat } from '../graph/dtype.js';
import { AgdError } from '../graph/errors.js';
import { allGraphs, type Model, type Node } from '../graph/ir.js';
import { type Concrete, faultOf, outOfMemory } from './devices/faults.js';

/** What the runtime threw, as an error of ours: cut to what a user can use, with `model` to tell the types in it. */
export function runtimeError(what: string, cause: unknown, device: Concrete, model?: Model): AgdError {
  const full = outOfMemory(cause, device);
  if (full) return new AgdError('out-of-memory', full, { cause });
  const fault = faultOf(cause, device);
  if (fault) {
    const remedy = fault.remedy ? ` ${fault.remedy}` : '';
    const message = `Device '${device}' cannot be used here: ${fault.reason}.${remedy} Otherwise use --device cpu.`;
    return new AgdError('device', message, { cause });
  }
  return (
    noBfloat(cause) ??
    missingKernel(cause, device, model) ??
    targetMisfit(cause) ??
    new AgdError('runtime', `${what}: ${firstLine(cause)}`, { cause })
  );
}

/** Few operators take bfloat16, and the runtime's interface for JavaScript has no tensors of it (type 16). */
function noBfloat(cause: unknown): AgdError | undefined {
  const line = textOf(cause);
  const refused =
    /Type 'tensor\(bfloat16\)' of input parameter \(.*?\) of operator \((\w+)\) in node \((.*?)\)/;
  const [, op, name] = refused.exec(line) ?? [];
  if (!op && !/Unsupported data type: 16\b/.test(line)) return undefined;
  const what = op ? `op '${op}'${name ? ` (node '${name}')` : ''} in` : 'models with inputs or states of';
  const message = `ONNX Runtime does not run ${what} bfloat16 here. Convert the model to float32: --precision bf16 then trains it in bfloat16.`;
  return new AgdError('unsupported-type', message, { cause });
}

/** A target of another number of elements than the output of its loss, or of other extents. */
function targetMisfit(cause: unknown): AgdError | undefined {
  const found =
    /.*Name:'(.*)_fits_output.*(?:Input shape:(\{.*?\}), requested shape:(\{.*?\})|invalid expand shape)/.exec(
      textOf(cause),
    );
  if (!found) return undefined;
  const [, name, given, wanted] = found.map(s => s?.replace('{', '[').replace('}', ']'));
  const what = given
    ? `is ${given}, but its output needs one of ${wanted}.`
    : 'has as many elements as its output, but other extents: its axes may be in another order.';
  return new AgdError('bad-shape', `Target '${name}' ${what}`, { cause });
}

/** Which operator has no kernel, of which element type and where. Some kernels refuse a type only when they run. */
function missingKernel(cause: unknown, device: Concrete, model?: Model): AgdError | undefined {
  const line = textOf(cause);
  const loading = /implementation for (\w+)\((\d+)\) node with name '(.*?)'/.exec(line);
  const running = /running (\w+) node\. Name:'(.*?)'.* does not support double/.exec(line);
  if (!loading && !running) return undefined;
  const [op, version, name] = loading ? loading.slice(1) : [running![1], undefined, running![2]];
  const isNode = (n: Node) => n.opType === op && n.name === name;
  const known = model && elementType(model, isNode);
  const dtype = running ? 'float64' : known;
  const what = [
    `'${op}'`,
    name && `(node '${name}')`,
    version && `version ${version}`,
    dtype && `of ${dtype}`,
  ];
  const where = device === 'cpu' ? 'cpu' : `${device} or cpu`;
  const advice = dtype === 'float32' ? '' : ' Most operators have one of float32.';
  const message = `ONNX Runtime has no kernel for op ${what.filter(Boolean).join(' ')} on ${where}.${advice}`;
  return new AgdError('no-kernel', message, { cause });
}

/** The floating-point type of what the node reads, or of what that is computed from: types may not be known yet. */
function elementType(model: Model, isNode: (node: Node) => boolean): DType | undefined {
  const nodes = [...allGraphs(model.graph)].flatMap(graph => graph.nodes);
  const pending = nodes.filter(isNode).slice(0, 1);
  for (const node of pending) {
    for (const v of node.inputs) {
      if (v?.dtype && isFloat(v.dtype)) return v.dtype;
      const writer = v && !v.dtype ? v.producer : undefined;
      const to = writer && writer.opType === 'Cast' ? writer.attrs.get('to') : undefined;
      if (to?.type === 'int') return dtypeOf(Number(to.value));
      if (writer && !pending.includes(writer)) pending.push(writer);
    }
  }
  return undefined;
}

/** Longer texts quote a name that has no end; patterns take a time that grows with the square of it. */
const LONGEST = 4000;

/** The first line of the error's own text. */
export const textOf = (cause: unknown) =>
  (cause instanceof Error ? cause.message : String(cause)).slice(0, LONGEST).split('\n')[0]!;

/** Of the operators that the error passed through, the innermost; without the places in the runtime's own source. */
function firstLine(cause: unknown): string {
  return textOf(cause)
    .replace(
      /^.*Non-zero status code returned while running (\w+) node\. Name:'(.*?)' Status Message: /,
      "$1 '$2': ",
    )
    .replace(" '': ", ': ')
    .replace(/\/?\S*onnxruntime\/core\/\S+:\d+ [^(]*\([^)]*\)(?: const)?(?: \[with [^\]]*\])? /g, '')
    .replace(/\/\S+\/(onnxruntime\/core\/)/g, '$1');
}
