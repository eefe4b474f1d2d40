/** Checks of a training description and its bindings, so that code that reads them cannot fail on malformed data. */
import * as v from 'valibot';
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { type AnyOptions, findOptimizer, optimizerNamed } from '../../ops/optimizers/index.js';
import { resolveOptions } from '../../ops/optimizers/optimizer.js';
import { wrapped } from '../../ops/optimizers/wrappers/index.js';
import { type LossTerm, RECORDED } from '../options.js';
import { sumsOf, type TrainingDescription } from './description.js';

/** A check of a value: returns the path of the first invalid part. */
type Check = (x: unknown) => string | undefined;

const when =
  (ok: (x: unknown) => boolean): Check =>
  x =>
    ok(x) ? undefined : '';
const text = when(x => typeof x === 'string');
const number = when(x => typeof x === 'number');
const count = when(x => Number.isSafeInteger(x) && (x as number) > 0);
/** JSON has null for numbers that are not finite. */
const setting = when(x => x === null || ['number', 'string', 'boolean'].includes(typeof x));
const optional =
  (check: Check): Check =>
  x =>
    x === undefined ? undefined : check(x);
const list =
  (check: Check): Check =>
  x => {
    if (!Array.isArray(x)) return '';
    return first(x.map((item, i) => [`[${i}]`, check(item)]));
  };
const isObject = (x: unknown): x is Record<string, unknown> =>
  typeof x === 'object' && x !== null && !Array.isArray(x);
const each =
  (check: Check): Check =>
  x =>
    isObject(x) ? first(Object.entries(x).map(([key, value]) => [`.${key}`, check(value)])) : '';
const shaped =
  (fields: Record<string, Check>): Check =>
  x => {
    if (!isObject(x)) return '';
    const own = (key: string) => (Object.hasOwn(x, key) ? x[key] : undefined);
    return first(Object.entries(fields).map(([key, check]) => [`.${key}`, check(own(key))]));
  };
const first = (found: readonly [string, string | undefined][]) => {
  const bad = found.find(([, path]) => path !== undefined);
  return bad && `${bad[0]}${bad[1]}`;
};

/** Numbers, or lists of them such as betas. */
const options = each(x => (Array.isArray(x) ? list(number)(x) : setting(x)));

const RECORDED_CHECKS = Object.fromEntries(
  Object.entries(RECORDED).map(([name, type]) => [name, optional(when(x => v.is(type, x)))]),
) as Record<keyof typeof RECORDED, Check>;

const PARAMETER = {
  name: text,
  grad: text,
  state: each(text),
  options: optional(options),
  carry: optional(text),
  rows: optional(text),
  hessianProduct: optional(text),
  perturbedGrad: optional(text),
  gradSum: optional(text),
  hessianSum: optional(text),
  perturbedSum: optional(text),
  ema: optional(text),
  outerMomentum: optional(text),
  outerMomenta: optional(each(text)),
  begins: optional(count),
} satisfies Record<keyof TrainingDescription['parameters'][number], Check>;

const bool = when(x => typeof x === 'boolean');
const LOSS_TERM = {
  kind: text,
  output: optional(text),
  target: optional(text),
  weight: optional(number),
  classAxis: optional(when(Number.isSafeInteger)),
  labelSmoothing: optional(number),
  ignoreIndex: optional(number),
  classWeights: optional(list(number)),
  posWeight: optional(list(number)),
  temperature: optional(number),
  targetScores: optional(bool),
  gamma: optional(number),
  alpha: optional(number),
  smooth: optional(number),
  margin: optional(number),
  negative: optional(text),
  blank: optional(number),
  lengths: optional(text),
  mask: optional(text),
  mixTargets: optional(bool),
} satisfies Record<keyof LossTerm, Check>;

const DESCRIPTION = shaped({
  version: when(x => x === 1),
  loss: shaped({
    ...LOSS_TERM,
    name: text,
    output: text,
    plus: optional(list(shaped(LOSS_TERM))),
    mix: optional(shaped({ target: text, share: text })),
  }),
  lossDivisor: optional(text),
  lossParts: optional(
    list(
      shaped({
        loss: text,
        divisor: text,
        weight: optional(text),
        terms: list(shaped({ value: text, sum: optional(text), rows: optional(text) })),
      }),
    ),
  ),
  randomStream: optional(text),
  outputs: list(text),
  exports: optional(list(text)),
  optimizer: shaped({ name: text, options, extension: optional(when(x => x === true)) }),
  lr: text,
  step: text,
  scheduleTotal: optional(text),
  accumulation: optional(
    shaped({ batches: count, counter: text, weight: optional(text), further: optional(list(text)) }),
  ),
  skipped: optional(text),
  scaling: optional(shaped({ scale: text, good: text, stops: bool })),
  gradNorm: optional(text),
  leastBatch: optional(shaped({ axis: text, samples: count, node: text })),
  telemetry: optional(shaped({ name: text, columns: list(text) })),
  parameters: list(shaped(PARAMETER)),
  statistics: list(text),
  synchronized: optional(
    shaped({ statistics: list(shaped({ count: text, mean: text, variance: text })), sums: list(text) }),
  ),
  checkpoint: optional(
    shaped({
      trainable: list(text),
      frozen: list(text),
      properties: each(
        when(
          x =>
            Array.isArray(x) &&
            x.length === 2 &&
            typeof x[1] === 'string' &&
            (['float', 'string'].includes(x[0]) || (x[0] === 'int' && /^-?\d{1,19}$/.test(x[1]))),
        ),
      ),
    }),
  ),
  ...RECORDED_CHECKS,
} satisfies Record<keyof TrainingDescription, Check>);

/** Throws `invalid-model` if a field of a description read from JSON is missing or has the wrong type. */
export function checkDescription(description: unknown): asserts description is TrainingDescription {
  const path = DESCRIPTION(description);
  if (path !== undefined) throw damaged(`its field '${path.slice(1) || 'version'}' is missing or invalid`);
}

const damaged = (what: string) =>
  new AgdError(
    'invalid-model',
    `The training step of the model is damaged: ${what}. Inject the original again.`,
  );

/**
 * Throws `invalid-model` if the description or the update bindings name values that the model lacks or that have the
 * wrong type. Otherwise a run would fail, possibly only at its end.
 */
export function checkAgainst(model: Model, description: TrainingDescription): void {
  const { graph, trainingInfo } = model;
  const stored = new Map([...graph.initializers].map(([value, tensor]) => [value.name, { value, tensor }]));
  const outputs = new Map(graph.outputs.map(v => [v.name, v]));
  const ensure = (ok: boolean, what: string) => {
    if (!ok) throw damaged(what);
  };
  const updates = trainingInfo.flatMap(info => info.updates);
  const updated = new Set<string>();
  for (const { state, value } of updates) {
    ensure(stored.has(state), `it updates '${state}', which is not an initializer`);
    ensure(!updated.has(state), `it updates '${state}' twice`);
    const next = outputs.get(value);
    ensure(next !== undefined, `it updates '${state}' with '${value}', which is not an output`);
    const { dtype, dims } = stored.get(state)!.tensor;
    const fits = next!.type === undefined || (next!.dtype === dtype && fitsShape(next!.shape, dims));
    ensure(fits, `it updates '${state}' with '${value}', which is of another type`);
    updated.add(state);
  }
  const {
    loss,
    lossDivisor,
    lossParts = [],
    randomStream,
    lr,
    step,
    accumulation,
    skipped,
    scaling,
    gradNorm,
    telemetry,
    parameters,
    statistics,
    synchronized,
    scheduleTotal,
  } = description;
  ensure(outputs.has(loss.name), `its loss '${loss.name}' is not an output`);
  ensure(
    lossDivisor === undefined || outputs.has(lossDivisor),
    `its divisor '${lossDivisor}' is not an output`,
  );
  for (const name of lossParts.flatMap(part => [part.loss, part.divisor]))
    ensure(outputs.has(name), `the part '${name}' of its loss is not an output`);
  if (lossParts.length) {
    const written = new Set(graph.nodes.flatMap(n => n.outputs.flatMap(v => v?.name ?? [])));
    const values = new Set([...written, ...graph.inputs.map(v => v.name)]);
    for (const { loss: name, terms } of lossParts)
      for (const { value, rows } of terms) {
        ensure(written.has(value), `the part '${name}' of its loss has no gradient '${value}'`);
        ensure(
          rows === undefined || values.has(rows),
          `the part '${name}' of its loss has no rows '${rows}'`,
        );
      }
  }
  if (synchronized) {
    const copies = new Set(graph.nodes.flatMap(n => (n.opType === 'Identity' ? n.outputs[0]!.name : [])));
    for (const name of [
      ...synchronized.statistics.flatMap(s => [s.count, s.mean, s.variance]),
      ...synchronized.sums,
    ])
      ensure(copies.has(name), `its synchronized value '${name}' is not a copy`);
  }
  const isScalar = (name: string, dtype: string) => {
    const tensor = stored.get(name)?.tensor;
    return tensor?.dtype === dtype && tensor.size === 1;
  };
  ensure(isScalar(lr, 'float32'), `its learning rate '${lr}' is not a float32 scalar`);
  for (const counter of [step, accumulation?.counter, skipped, randomStream, scaling?.good])
    ensure(
      counter === undefined || isScalar(counter, 'int64'),
      `its counter '${counter}' is not an int64 scalar`,
    );
  const total = scheduleTotal === undefined ? undefined : stored.get(scheduleTotal)?.tensor;
  ensure(
    scheduleTotal === undefined || (total?.size === 1 && /^float(32|64)$/.test(total.dtype)),
    `the end of its schedule '${scheduleTotal}' is not a number`,
  );
  const states = parameters.flatMap(p => [
    ...[p.name, p.carry, ...sumsOf(p), p.ema].filter(name => name !== undefined),
    ...Object.values(p.state),
  ]);
  for (const name of [
    ...states,
    ...statistics,
    ...[telemetry?.name, gradNorm, accumulation?.weight, scaling?.scale].flatMap(n => n ?? []),
    ...(accumulation?.further ?? []),
    ...lossParts.flatMap(part => [part.weight, ...part.terms.map(t => t.sum)].flatMap(n => n ?? [])),
  ])
    ensure(updated.has(name), `nothing updates its state '${name}'`);
  ensure(
    gradNorm === undefined || isScalar(gradNorm, 'float32'),
    `its norm of gradients '${gradNorm}' is not a float32 scalar`,
  );
  ensure(
    !scaling || isScalar(scaling.scale, 'float32'),
    `its loss scale '${scaling?.scale}' is not a float32 scalar`,
  );
  if (telemetry) {
    const rows = stored.get(telemetry.name)!.tensor.size;
    ensure(
      rows === parameters.length * telemetry.columns.length && rows > 0,
      `its record '${telemetry.name}' has ${rows} numbers for ${parameters.length} parameters`,
    );
  }
  checkOptimizer(description, name => stored.get(name)!.tensor.dims);
}

const fitsShape = (shape: readonly unknown[] | undefined, dims: readonly number[]) =>
  !shape || (shape.length === dims.length && shape.every((d, i) => typeof d !== 'number' || d === dims[i]));

/** Checks that options are in range, and that each parameter has the states that its options require. */
function checkOptimizer(
  { optimizer: { name, options, extension }, parameters, stateBits, scheduleFree }: TrainingDescription,
  shapeOf: (parameter: string) => readonly number[],
): void {
  if (name === 'own' || (extension && !findOptimizer(name))) return;
  try {
    const optimizer = wrapped(optimizerNamed(name), { stateBits, scheduleFree });
    for (const { name, state, options: own } of parameters) {
      const all = resolveOptions(optimizer, { ...options, ...own } as AnyOptions);
      const missing = optimizer
        .states(all, shapeOf(name))
        .map(slot => (typeof slot === 'string' ? slot : slot.name))
        .find(slot => !Object.hasOwn(state, slot));
      if (missing !== undefined) throw damaged(`parameter '${name}' has no state '${missing}'`);
    }
  } catch (error) {
    if (error instanceof AgdError && error.code === 'bad-option')
      throw damaged(error.message.replace(/\.$/, ''));
    throw error;
  }
}
