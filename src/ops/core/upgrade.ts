import type { DType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Node, Value } from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, toAttrs } from './builder.js';

/**
 * An operator's change in version `since`: returns nodes with the same meaning there as the node had before. A step may
 * change the node in place.
 */
export type UpgradeStep = readonly [since: number, step: (node: Node, c: UpgradeContext) => readonly Node[]];

/** The facts about the model that upgrades need. */
export type OldModel = {
  names: Names;
  /** Its original version of the operator set. */
  opset: number;
  /** Tensors of initializers and Constant nodes. */
  constants: Map<Value, Tensor>;
  /** The floating-point type, if the model has only one. */
  float?: DType;
};

/** What a step can query and create. */
export class UpgradeContext {
  constructor(private readonly model: OldModel) {}

  /** A new node. Without `outputs`, it writes one new value. */
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

  /** Element type of a floating-point value, as far as it is known before type inference. */
  floatType(value: Value): DType | undefined {
    return value.dtype ?? this.model.float;
  }

  /** The error `unsupported-op` for a form of an operator without an equivalent in newer versions. */
  refusal(node: Node, why: string): AgdError {
    return new AgdError(
      'unsupported-op',
      `Cannot upgrade ${node.label} of operator set ${this.model.opset}: ${why}. Export the model with operator set 18 or newer.`,
    );
  }
}
