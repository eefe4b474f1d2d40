/** Operators without a gradient: their outputs do not depend smoothly on their inputs. */
import { noGradient } from './core/rule.js';

const truth = noGradient('a truth value');
const integer = noGradient('an integer result');
const shape = noGradient('depends on extents only');
const random = noGradient('random numbers');
const text = noGradient('reads or writes strings');
const fixed = noGradient('the same whatever the floating-point inputs are');

// ---- comparisons and logic ----

export const Equal = truth;
export const Greater = truth;
export const GreaterOrEqual = truth;
export const Less = truth;
export const LessOrEqual = truth;
export const And = truth;
export const Or = truth;
export const Xor = truth;
export const Not = truth;
export const IsInf = truth;
export const IsNaN = truth;
export const OptionalHasElement = truth;

// ---- integers and bits ----

export const ArgMax = integer;
export const ArgMin = integer;
export const NonZero = integer;
export const NonMaxSuppression = integer;
export const BitShift = integer;
export const BitwiseAnd = integer;
export const BitwiseNot = integer;
export const BitwiseOr = integer;
export const BitwiseXor = integer;
export const BitCast = noGradient('bits of another type');

// ---- shapes and constants ----

export const Shape = shape;
export const Size = shape;
export const EyeLike = shape;
export const ConstantOfShape = shape;
export const SequenceLength = shape;
export const Constant = fixed;
export const SequenceEmpty = fixed;
export const BlackmanWindow = fixed;
export const HammingWindow = fixed;
export const HannWindow = fixed;
export const MelWeightMatrix = fixed;

// ---- random numbers ----

export const Bernoulli = random;
export const Multinomial = random;
export const RandomNormal = random;
export const RandomNormalLike = random;
export const RandomUniform = random;
export const RandomUniformLike = random;

// ---- strings and files ----

export const ImageDecoder = text;
export const RegexFullMatch = text;
export const StringConcat = text;
export const StringNormalizer = text;
export const StringSplit = text;
export const TfIdfVectorizer = text;
