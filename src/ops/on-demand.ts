/** Operators that few models have: one part of a page's scripts, which is loaded when a graph has one of them. */
import * as attention from './attention.js';
import * as controlFlow from './control-flow.js';
import type { Families } from './core/rule.js';
import * as einsum from './einsum.js';
import * as contribAttention from './microsoft/attention.js';
import * as contribExperts from './microsoft/experts.js';
import * as contrib from './microsoft/fused.js';
import * as contribGrouped from './microsoft/grouped-attention.js';
import * as contribIntegers from './microsoft/integers.js';
import * as contribLinear from './microsoft/linear-attention.js';
import * as contribQuantized from './microsoft/quantized.js';
import * as onnxOptimizers from './onnx-optimizers.js';
import * as quantization from './quantization.js';
import * as recurrent from './recurrent.js';
import * as regions from './regions.js';
import * as resampling from './resampling.js';
import * as sequence from './sequence.js';
import * as signal from './signal.js';

export const OTHERS: Families = {
  '': [attention, controlFlow, einsum, quantization, recurrent, regions, resampling, sequence, signal],
  'ai.onnx.preview.training': [onnxOptimizers],
  'com.microsoft': [
    contrib,
    contribAttention,
    contribExperts,
    contribGrouped,
    contribIntegers,
    contribLinear,
    contribQuantized,
  ],
};
