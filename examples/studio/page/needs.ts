/** What a run takes in memory, in words. */
import type { Needs, Settings } from '../protocol.js';
import { size } from './words.js';

/** One line: what the run takes, or why it does not fit and what would. */
export function describeNeeds({ total, limit, largest, maxBuffer, fits, advice }: Needs): string {
  const isTooLarge = maxBuffer !== undefined && largest.bytes > maxBuffer;
  if (fits) {
    const gpu = maxBuffer
      ? `; its largest tensor ${size(largest.bytes)} of the ${size(maxBuffer)} that the GPU allows`
      : '';
    return `The run needs about ${size(total)} of memory${gpu}.`;
  }
  const why = isTooLarge
    ? `Tensor '${largest.name}' takes ${size(largest.bytes)}, and this GPU allows ${size(maxBuffer)}`
    : `The run needs about ${size(total)} of memory, and a page has ${size(limit)}`;
  if (!advice) return `${why}: it does not fit with smaller batches, recomputed activations and LoRA either.`;
  return `${why}: it would fit with ${changes(advice.settings)} (${size(advice.total)}).`;
}

function changes({ batch, activations, trains, rank }: Partial<Settings>): string {
  const list = [
    ...(batch === undefined ? [] : [`batch size ${batch}`]),
    ...(activations ? ['recomputed activations'] : []),
    ...(trains === 'lora' ? [`LoRA adapters of rank ${rank}`] : []),
  ];
  return [list.slice(0, -1).join(', '), list.at(-1)].filter(Boolean).join(' and ');
}
