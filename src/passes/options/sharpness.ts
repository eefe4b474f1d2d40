/** Options of sharpness-aware minimization. */
import * as v from 'valibot';
import { belowOne, flag, positive } from '../../ops/core/option-type.js';
import { INJECTS, type Option, option } from './option.js';
import { parseSettings } from './text.js';

const ball = { rho: positive, adaptive: v.optional(flag) };
const sam = v.pipe(
  v.strictObject(ball, 'an object of rho and adaptive'),
  v.description('an object of rho and adaptive'),
);
const wsam = v.pipe(
  v.strictObject({ ...ball, gamma: v.optional(belowOne) }, 'an object of rho, gamma and adaptive'),
  v.description('an object of rho, gamma and adaptive'),
);

/** The ball in which the weights are perturbed: its radius, and whether it is in units of the weights. */
export type Ball = v.InferOutput<typeof sam>;

const SHARPNESS = {
  group: 'Update',
  commands: INJECTS,
  stage: 'inject',
  recorded: true,
} as const;

/** A second backward pass in each step: see `differentiate/perturb-weights.ts`. */
export const SHARPNESS_OPTIONS = {
  sam: option(sam, {
    ...SHARPNESS,
    help: 'Sharpness-aware minimization, e.g. rho=0.05 or rho=0.5,adaptive=true: gradients at perturbed weights',
    parse: (text: string) => parseSettings(text, sam, 'needs the radius, as rho=0.05'),
    conflicts: ['wsam', 'dpSgd', 'unfreezeEvery', 'syncBatchNorm'],
  }),
  wsam: option(wsam, {
    ...SHARPNESS,
    help: 'Weighted sharpness-aware minimization, e.g. rho=0.05,gamma=0.9: adds a step that reduces the sharpness',
    parse: (text: string) => parseSettings(text, wsam, 'needs the radius, as rho=0.05,gamma=0.9'),
    conflicts: ['sam', 'dpSgd', 'unfreezeEvery', 'syncBatchNorm', 'lazyRows'],
  }),
} satisfies Record<string, Option>;
