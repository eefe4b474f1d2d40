import type { TrainingDescription } from '../../src/internal.js';
import { formatNames } from './format.js';

/** The optimizer and its options. */
export const describeOptimizer = ({ optimizer: { name, options } }: TrainingDescription) =>
  name === 'own' ? 'as the model brings it' : `${name}: ${list(options)}`;

/** Lines of groups to show: layers with rates of their own are one each. */
const MOST = 8;

/** How a step trains, a line each: the optimizer, options of single parameters, and what is done besides. */
export function describeStep(description: TrainingDescription): string[] {
  const { parameters } = description;
  const groups = new Map<string, string[]>();
  for (const { name, options } of parameters) {
    if (!options) continue;
    // Off is a choice where others have it on.
    const own = Object.entries(options).map(([k, v]) => [k, v === false ? 'off' : v]);
    const key = list(Object.fromEntries(own));
    groups.set(key, [...(groups.get(key) ?? []), name]);
  }
  const extras = describeExtras(description);
  return [
    `update   ${describeOptimizer(description)}`,
    ...[...groups].slice(0, MOST).map(([options, names]) => `group    ${formatNames(names)}: ${options}`),
    ...(groups.size > MOST ? [`group    and ${groups.size - MOST} more groups of parameters`] : []),
    ...(extras.length ? [`step     ${extras.join('; ')}`] : []),
  ];
}

function describeExtras(description: TrainingDescription): string[] {
  const { dpSgd, schedule, clipGradNorm, clipGradValue, accumulation, ema, parameters } = description;
  const { precision, scaling, skipped } = description;
  // Projections between a model and its teacher are named after what they project.
  const projected = parameters.flatMap(p => /^projection::(.*)\.weight$/.exec(p.name)?.[1] ?? []);
  const lazy = parameters.flatMap(p => (p.rows === undefined ? [] : [p.name]));
  const { kind, ...settings } = schedule ?? { kind: undefined };
  const how = dpSgd?.method === 'ghost' ? 'ghost clipping' : 'a loop over the samples';
  const lines: Record<string, unknown> = {
    'private: gradients of samples within': dpSgd && `${dpSgd.clip}, noise ${dpSgd.noise}, by ${how}`,
    'learning rate': kind && [kind, ...Object.entries(settings).map(([k, v]) => `${k}=${v}`)].join(' '),
    'gradient elements within': clipGradValue,
    'norm of all gradients within': clipGradNorm,
    'batches an update': accumulation?.batches,
    'average of the weights, decay': ema,
    'rounding of the weights': parameters.some(p => p.carry) ? 'compensated' : undefined,
    'only the rows looked up of': lazy.length ? formatNames(lazy) : undefined,
    'compared with the teacher through a projection:': projected.length ? formatNames(projected) : undefined,
    precision: precision && (scaling ? `${precision} with a dynamic loss scale` : precision),
    'non-finite gradients': skipped && 'skipped',
  };
  return Object.entries(lines)
    .filter(([, value]) => value !== undefined)
    .map(([what, value]) => `${what} ${value}`);
}

/** Products of rates and factors have digits of rounding. */
const shown = (value: unknown) => (typeof value === 'number' ? Number(value.toPrecision(6)) : value);

const list = (options: Record<string, unknown>) =>
  Object.entries(options)
    .filter(([, value]) => value !== undefined && value !== false)
    .map(([name, value]) => (value === true ? name : `${name} ${shown(value)}`))
    .join(', ');
