/**
 * The privacy loss of DP-SGD: Rényi differential privacy of the Gaussian mechanism on a Poisson sample, composed over
 * the updates and converted to (epsilon, delta). Neighbours are data sets of which one has one sample more.
 *
 * Mironov, Talwar, Zhang: Rényi Differential Privacy of the Sampled Gaussian Mechanism, arXiv 1908.10530, sections 3.2
 * and 3.3. Balle, Barthe, Gaboardi, Hsu, Sato: Hypothesis Testing Interpretations and Renyi Differential Privacy, AISTATS
 * 2020, theorem 21, for the conversion.
 */
import { AgdError } from '../../graph/errors.js';

/** Of what the updates of a run are made: `rate` is the probability of each sample to be in an update. */
export type Mechanism = { noise: number; rate: number; updates: number };

/** Rényi orders: the best of them gives epsilon. Those between small integers matter at low noise, large ones at high noise. */
const ORDERS: readonly number[] = [
  ...Array.from({ length: 99 }, (_, i) => 1 + (i + 1) / 10),
  ...Array.from({ length: 53 }, (_, i) => 11 + i),
  ...[72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024],
];

/** Those of the last mechanism that was asked for: a run asks after each epoch. */
let known: { rate: number; noise: number; divergences: readonly number[] } | undefined;

/** The smallest epsilon for which the updates are (epsilon, delta)-private, by these orders; infinite without noise. */
export function epsilonOf({ noise, rate, updates }: Mechanism, delta: number): number {
  if (updates === 0 || rate === 0) return 0;
  if (noise === 0) return Number.POSITIVE_INFINITY;
  if (known?.rate !== rate || known.noise !== noise)
    known = { rate, noise, divergences: ORDERS.map(order => divergence(rate, noise, order)) };
  const bounds = known.divergences.map((each, i) => {
    const order = ORDERS[i]!;
    const spent = updates * each;
    return spent + Math.log1p(-1 / order) - (Math.log(delta) + Math.log(order)) / (order - 1);
  });
  return Math.max(0, Math.min(...bounds.filter(bound => !Number.isNaN(bound))));
}

/**
 * The smallest noise multiplier, to 4 significant digits and rounded up, with which the updates keep within epsilon.
 * Throws `bad-option` if there is none below 1e4.
 */
export function noiseFor(epsilon: number, delta: number, run: Omit<Mechanism, 'noise'>): number {
  const spent = (noise: number) => epsilonOf({ ...run, noise }, delta);
  let [low, high] = [0.5, 1];
  while (spent(high) > epsilon) {
    [low, high] = [high, high * 2];
    if (high > 1e4)
      throw new AgdError(
        'bad-option',
        `No noise keeps ${run.updates} updates within an epsilon of ${epsilon} at a delta of ${delta}: raise --dp-epsilon, or train for fewer epochs.`,
      );
  }
  while (low > 1e-3 && spent(low) <= epsilon) [low, high] = [low / 2, low];
  while (high - low > 5e-5 * high) {
    const middle = (low + high) / 2;
    if (spent(middle) > epsilon) low = middle;
    else high = middle;
  }
  const unit = 10 ** (Math.floor(Math.log10(high)) - 3);
  return Number((Math.ceil(high / unit) * unit).toPrecision(4));
}

/** The order-alpha Rényi divergence of one update. */
function divergence(rate: number, noise: number, order: number): number {
  if (rate === 1) return order / (2 * noise ** 2);
  const log = Number.isInteger(order)
    ? logMomentOfInteger(rate, noise, order)
    : logMomentOfFraction(rate, noise, order);
  return log / (order - 1);
}

/** log sum_k C(alpha, k) (1 - q)^(alpha - k) q^k exp(k (k - 1) / (2 sigma^2)). */
function logMomentOfInteger(rate: number, noise: number, order: number): number {
  let sum = Number.NEGATIVE_INFINITY;
  let logChoose = 0;
  for (let k = 0; k <= order; k++) {
    if (k > 0) logChoose += Math.log((order - k + 1) / k);
    const term = logChoose + k * Math.log(rate) + (order - k) * Math.log1p(-rate);
    sum = logAdd(sum, term + (k * k - k) / (2 * noise ** 2));
  }
  return sum;
}

/** At high rates the series of orders near 1 decreases only as k^-(alpha + 1). */
const MOST_TERMS = 2000;

/**
 * The same for any order: the binomial series on either side of z = sigma^2 log(1 / q - 1) + 1/2, where the two parts of
 * the mixture are equal. Its terms alternate in sign from k > alpha on.
 */
function logMomentOfFraction(rate: number, noise: number, order: number): number {
  const z = noise ** 2 * Math.log(1 / rate - 1) + 0.5;
  const scale = Math.SQRT2 * noise;
  let [positive, negative] = [Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY];
  let [logChoose, sign] = [0, 1];
  for (let k = 0; k <= MOST_TERMS; k++) {
    if (k > 0) {
      const factor = (order - k + 1) / k;
      logChoose += Math.log(Math.abs(factor));
      if (factor < 0) sign = -sign;
    }
    const rest = order - k;
    const below = logChoose + k * Math.log(rate) + rest * Math.log1p(-rate);
    const above = logChoose + rest * Math.log(rate) + k * Math.log1p(-rate);
    const left = below + (k * k - k) / (2 * noise ** 2) + Math.log(0.5) + logErfc((k - z) / scale);
    const right =
      above + (rest * rest - rest) / (2 * noise ** 2) + Math.log(0.5) + logErfc((z - rest) / scale);
    // The terms alternate and shrink: half of the last one leaves an error far below it.
    const term = logAdd(left, right) + (k === MOST_TERMS ? Math.log(0.5) : 0);
    if (sign > 0) positive = logAdd(positive, term);
    else negative = logAdd(negative, term);
    if (k > order && term < positive - 36) break;
  }
  return positive + Math.log1p(-Math.exp(negative - positive));
}

function logAdd(a: number, b: number): number {
  const [small, large] = a < b ? [a, b] : [b, a];
  return small === Number.NEGATIVE_INFINITY ? large : large + Math.log1p(Math.exp(small - large));
}

/** log erfc(x): the power series of erf near 0, the continued fraction of erfc beyond (Abramowitz, Stegun: 7.1.5, 7.1.14). */
export function logErfc(x: number): number {
  if (x < 2) {
    if (x < -6) return Math.LN2;
    const y = Math.abs(x);
    if (x < -2) return Math.log(2 - Math.exp(logErfc(y)));
    let [term, sum] = [y, y];
    for (let n = 1; Math.abs(term) > 1e-18 * sum; n++) {
      term *= (-y * y) / n;
      sum += term / (2 * n + 1);
    }
    return Math.log1p((-Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI));
  }
  let fraction = x;
  for (let k = Math.ceil(20 + 400 / (x * x)); k > 0; k--) fraction = x + k / 2 / fraction;
  return -x * x - Math.log(fraction) - Math.log(Math.PI) / 2;
}
