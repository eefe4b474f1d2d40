/** Options of the loss. */
import * as v from 'valibot';
import {
  belowOne,
  choice,
  countFromZero,
  finite,
  flag,
  fraction,
  integer,
  nonNegative,
  numbers,
  type OptionType,
  positive,
  text,
  texts,
} from '../../ops/core/option-type.js';
import { LOSS_NAMES } from '../../ops/losses/index.js';
import { APPLIES, LEARNS, type Option, option } from './option.js';
import { parseNumbers } from './text.js';

const LOSS = { group: 'Loss', commands: [...LEARNS, 'evaluate', 'differentiate'], stage: 'inject' } as const;

const weights = v.pipe(
  v.union([numbers, v.literal('balanced')], "a list of numbers or 'balanced'"),
  v.description("a list of numbers or 'balanced'"),
);
/** A kind, or an expression of kinds. */
const what = () => `one of ${LOSS_NAMES.join(', ')}`;
const lossText = v.pipe(
  v.union([choice(LOSS_NAMES), v.pipe(v.string(what), v.regex(/[(+*]/, what))], what),
  v.description(`${what()}, or a sum such as cross-entropy(logits, target) + 0.5*mse(aux, aux_target)`),
);
/** What is said in the parentheses of a loss, or by a program. */
const inSum = <S extends OptionType, const N extends string>(type: S, name: N, help: string) =>
  option(type, { ...LOSS, commands: [], help, path: `loss.${name}` });
const parseWeights = (text: string) => (text === 'balanced' ? text : parseNumbers(text));
const READS_OUTPUT = [...LEARNS, ...APPLIES, 'differentiate'] as const;

export const LOSS_OPTIONS = {
  loss: option(lossText, {
    ...LOSS,
    commands: READS_OUTPUT,
    help: 'Loss between an output and the target, or a sum of WEIGHT*KIND(OUTPUT, TARGET, OPTION=VALUE)',
    parse: (text: string) => text,
    path: 'loss.kind',
  }),
  output: option(text, {
    ...LOSS,
    commands: [...LEARNS, 'evaluate', 'differentiate', 'inspect'],
    help: 'Output or inner value that the loss reads',
    shown: 'the only one',
    path: 'loss.output',
  }),
  target: option(text, { ...LOSS, help: 'Name of the target input', shown: 'target', path: 'loss.target' }),
  lossOutput: option(text, {
    ...LOSS,
    help: 'Output that is already the loss',
    path: 'loss.lossOutput',
    conflicts: [
      'loss',
      'output',
      'labelSmoothing',
      'ignoreIndex',
      'classWeights',
      'posWeight',
      'mixTargets',
      'classAxis',
    ],
  }),
  lossModel: option(text, {
    ...LOSS,
    commands: [...LEARNS, 'evaluate'],
    help: 'ONNX file that computes the loss: its inputs are outputs of the model, by name, and targets',
    conflicts: ['loss', 'lossOutput', 'output', 'target'],
  }),
  teacher: option(text, {
    ...LOSS,
    commands: [...LEARNS, 'evaluate'],
    help: 'ONNX file of a frozen model to learn from; see --distill',
  }),
  distill: option(texts, {
    ...LOSS,
    commands: [...LEARNS, 'evaluate'],
    help: "Loss between outputs of the model and the teacher's: kl:T=2,alpha=0.5 or mse:hidden=hidden_t,weight=0.1",
  }),
  labelSmoothing: option(belowOne, {
    ...LOSS,
    help: 'Label smoothing of cross-entropy',
    path: 'loss.labelSmoothing',
    expert: true,
  }),
  ignoreIndex: option(integer, {
    ...LOSS,
    help: 'Class label that the loss ignores',
    path: 'loss.ignoreIndex',
  }),
  classWeights: option(weights, {
    ...LOSS,
    help: 'Class weights, e.g. 1,0.5,2, or balanced: by their frequency in the training data',
    parse: parseWeights,
    path: 'loss.classWeights',
    expert: true,
  }),
  posWeight: option(weights, {
    ...LOSS,
    help: 'Weight of positive targets of bce-with-logits: one number, one per label, or balanced',
    parse: parseWeights,
    path: 'loss.posWeight',
    expert: true,
  }),
  lossTemperature: inSum(positive, 'temperature', 'Temperature of kl and contrastive'),
  lossTargetScores: inSum(flag, 'targetScores', 'The target of kl holds scores, not probabilities'),
  lossGamma: inSum(nonNegative, 'gamma', 'Exponent of the focal losses'),
  lossAlpha: inSum(fraction, 'alpha', 'Weight of positive targets of sigmoid-focal'),
  lossSmooth: inSum(nonNegative, 'smooth', 'Smoothing term of dice'),
  lossMargin: inSum(finite, 'margin', 'Margin of triplet'),
  lossNegative: inSum(text, 'negative', 'Output that triplet takes as the negative'),
  lossBlank: inSum(countFromZero, 'blank', 'Blank class of ctc'),
  lossLengths: inSum(text, 'lengths', 'Input with the length of each sample, for ctc'),
  lossMask: inSum(text, 'mask', 'Input, such as an attention mask, that is 0 at positions that do not count'),
  mixTargets: option(flag, {
    ...LOSS,
    commands: ['inject', 'train'],
    help: 'Take two classes per target, for mixup and cutmix of --augment (automatic in train)',
    path: 'loss.mixTargets',
    expert: true,
  }),
  classAxis: option(integer, {
    ...LOSS,
    commands: READS_OUTPUT,
    help: 'Axis of the classes',
    shown: 'last; 1 for images',
    path: 'loss.classAxis',
    expert: true,
  }),
  lossWeight: inSum(finite, 'weight', 'Factor of a loss in a sum'),
} satisfies Record<string, Option>;
