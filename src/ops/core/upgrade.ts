import type { DType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Node, Value } from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, toAttrs } from './builder.js';

/**
 * What changed for an operator from the version `since` on: nodes that mean the same there as the node did
 * before. A step may change the node in place.
 */
export type UpgradeStep = readonly [since: number, step: (node: Node, c: UpgradeContext) => readonly Node[]];

/** What is known of a model that is being upgraded. */
export type OldModel = {
  names: Names;
  /** Version of the operator set that it came with. */
  opset: number;
  /** Initializers and what Constant nodes write. */
  constants: Map<Value, Tensor>;
  /** The floating-point type, where there is only one in the model. */
  float?: DType;
};

/** What a step may ask and make. */
export class UpgradeContext {
  constructor(private readonly model: OldModel) {}

  /** A new node; where `outputs` is not given it writes one new value. */
  node(opType: string, inputs: (Value | null)[], attrs: AttrInit = {}, outputs?: (Value | null)[]): Node {
    const made = new Node(opType, inputs, outputs ?? [this.value(opType.toLowerCase())], toAttrs(attrs));
    if (attrs.value instanceof Tensor) this.model.constants.set(made.outputs[0]!, attrs.value);
    return made;
  }

  value(hint: string): Value {
    return new Value(this.name(hint));
  }

  name(hint: string): string {
    return this.model.names.fresh(hint);
  }

  isRead(value: Value | null | undefined): boolean {
    return !!value && value.isUsed;
  }

  constant(value: Value): readonly number[] | undefined {
    return this.model.constants.get(value)?.numbers();
  }

  /** Element type of a floating-point value, as far as it can be told before types are inferred. */
  floatType(value: Value): DType | undefined {
    return value.dtype ?? this.model.float;
  }

  /** For a form of an operator that has no counterpart in newer versions. */
  refusal(node: Node, why: string): AgdError {
    return new AgdError(
      'unsupported-op',
      `Cannot upgrade ${node.label} of operator set ${this.model.opset}: ${why}. Export the model with operator set 18 or newer.`,
    );
  }
}
