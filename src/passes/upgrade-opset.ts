import { AgdError } from '../graph/errors.js';
import type { Model } from '../graph/ir.js';

/** Brings a model of an older operator set to version `target`. Returns whether anything changed. */
export function upgradeOpset(model: Model, target = 18): boolean {
  const { opset } = model;
  if (opset >= target) return false;
  throw new AgdError(
    'unsupported-version',
    `Models of operator set ${opset} are not upgraded to ${target} yet.`,
  );
}
