import type { Builder } from '../ops/core/builder.js';
import type { StateUpdate } from './attach-optimizer.js';

export function trainBatchNorm(_g: Builder, _mode: 'train' | 'eval'): StateUpdate[] {
  return [];
}
