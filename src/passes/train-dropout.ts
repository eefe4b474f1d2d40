import type { Builder } from '../ops/core/builder.js';

export function trainDropout(_g: Builder, _mode: 'train' | 'eval', _seed: number): boolean {
  return false;
}
