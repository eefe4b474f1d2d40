import type { Source } from './source.js';

/**
 * What is done with data before the first step, in this order: rows are located and their types found, the recipe is fitted,
 * samples are made of the rows.
 */
export const STAGES = ['index', 'fit', 'encode'] as const;

export type Stage = (typeof STAGES)[number];

/** Is told how much of a stage is done, from 0 to 1. */
export type Progress = (stage: Stage, share: number) => void;

/** How often progress is reported. */
const REPORT_MS = 250;

/** Reports a few times a second at most, and nothing of what takes less. */
export function throttled(report: Progress, now: () => number = () => performance.now()): Progress {
  let last = now();
  return (stage, share) => {
    if (now() - last < REPORT_MS) return;
    last = now();
    report(stage, share);
  };
}

/** The same source; each block that is read is progress of a pass over all. */
export function watched(source: Source, stage: Stage, progress: Progress | undefined): Source {
  if (!progress) return source;
  return {
    ...source,
    read(block, fields) {
      progress(stage, block / source.blocks.length);
      return source.read(block, fields);
    },
    close: () => source.close(),
  };
}
