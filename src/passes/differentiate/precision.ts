import type { Value } from '../../graph/ir.js';
import type { Provider } from '../../ops/core/provider.js';
import { ensure } from '../../ops/optimizers/optimizer.js';
import type { InjectOptions, ScalarType } from '../options.js';

export type Precision = 'fp32' | 'fp16' | 'bf16';

/**
 * The precision to compute in: as asked for, or as the weights have it; `isBfloat` tells that those of the file are bfloat16.
 * Throws `bad-option`.
 */
export function precisionOf(
  options: Pick<InjectOptions, 'precision' | 'lossScale' | 'lossScaleWindow' | 'dpSgd' | 'qat'>,
  trained: readonly Value[],
  provider: Provider,
  { isBfloat }: { isBfloat: boolean },
): Precision | undefined {
  const { precision: asked, lossScale, lossScaleWindow, dpSgd, qat } = options;
  const ofFile = trained.some(p => p.dtype === 'float16')
    ? 'fp16'
    : isBfloat && provider !== 'webgpu'
      ? 'bf16'
      : undefined;
  const precision = asked ?? (dpSgd || qat ? undefined : ofFile);
  const double = trained.find(p => p.dtype === 'float64');
  ensure(
    !asked || !double,
    `--precision takes models of float32, float16 or bfloat16: '${double?.name}' is float64.`,
  );
  ensure(
    precision !== 'bf16' || provider !== 'webgpu',
    'WebGPU has no bfloat16: use --precision fp16, or fp32.',
  );
  ensure(
    precision === 'fp16' || (lossScale === undefined && lossScaleWindow === undefined),
    'Only --precision fp16 scales the loss: leave out --loss-scale and --loss-scale-window.',
  );
  return precision;
}

/** The type of the scalars of an update. Most GPUs are slow in float64, and WebGPU in browsers comes without it. */
export const scalarTypeOf = ({
  scalars,
  provider = 'cpu',
}: Pick<InjectOptions, 'scalars' | 'provider'>): ScalarType =>
  scalars ?? (provider === 'cpu' ? 'float64' : 'float32');
