/** What a run takes in memory, in words. */
import { size } from './words.js';

/** Settings that make a run smaller. */
type Changes = {
  batch?: number;
  activations?: '' | 'recompute';
  trains?: 'all' | 'head' | 'lora' | 'match';
  rank?: number;
};

/** What a run takes in memory, in bytes. */
export type Needs = {
  total: number;
  /** Of it: parameters, frozen ones too, with optimizer state; gradients and activations. */
  parameters: number;
  activations: number;
  /** What a page has. */
  limit: number;
  largest: { name: string; bytes: number };
  /** The largest tensor that the GPU takes, where the run is on one. */
  maxBuffer?: number;
  fits: boolean;
  /** Settings with which it would fit, and what it would take then. */
  advice?: { total: number; settings: Changes };
};

/** One line: what the run takes, or why it does not fit and what would. */
export function describeNeeds({ limit, largest, maxBuffer, fits, advice, ...needs }: Needs): string {
  const { total, parameters, activations } = needs;
  const isTooLarge = maxBuffer !== undefined && largest.bytes > maxBuffer;
  if (fits) {
    const parts = `${size(parameters)} for parameters and optimizer state, ${size(activations)} for gradients and activations`;
    if (maxBuffer === undefined) return `The run needs about ${size(total)} of memory: ${parts}.`;
    const most = `the largest tensor takes ${size(largest.bytes)} of the ${size(maxBuffer)} that the GPU allows`;
    return `The run needs about ${size(total)} of GPU memory: ${parts}; ${most}. Browsers do not report how much memory a GPU has.`;
  }
  const why = isTooLarge
    ? `Tensor '${largest.name}' takes ${size(largest.bytes)}, and this GPU allows ${size(maxBuffer)}`
    : `The run needs about ${size(total)} of memory, and a page has ${size(limit)}`;
  if (!advice) return `${why}: it does not fit with smaller batches, recomputed activations and LoRA either.`;
  return `${why}: it would fit with ${changes(advice.settings)} (${size(advice.total)}).`;
}

function changes({ batch, activations, trains, rank }: Changes): string {
  const list = [
    ...(batch === undefined ? [] : [`batch size ${batch}`]),
    ...(activations ? ['recomputed activations'] : []),
    ...(trains === 'lora' ? [`LoRA adapters of rank ${rank}`] : []),
  ];
  return [list.slice(0, -1).join(', '), list.at(-1)].filter(Boolean).join(' and ');
}
