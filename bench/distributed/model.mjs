/** Cost model of a data-parallel step: what exchanging gradients costs, and which share of the ranks' time is left for computing. */

/** Messages of a few bytes in each step: the loss with its divisor, and whether to stop and to save. */
export const SMALL_MESSAGES = 3;

export const BUCKET_BYTES = 25 * 10 ** 6;

/**
 * Latencies and bytes that an all-reduce of one message takes on the critical path, by the cheaper of two algorithms: recursive
 * doubling, ceil(log2 p) (latency + n), or a ring, 2 (p - 1) latency + 2 (p - 1) / p n (Thakur et al., "Optimization of Collective
 * Communication Operations in MPICH", 2005).
 */
export function messageCost(bytes, ranks, { latency, bandwidth }) {
  if (ranks === 1) return { latencies: 0, bytes: 0 };
  const rounds = Math.ceil(Math.log2(ranks));
  const costs = [
    { latencies: rounds, bytes: rounds * bytes },
    { latencies: 2 * (ranks - 1), bytes: (2 * (ranks - 1) * bytes) / ranks },
  ];
  const seconds = cost => cost.latencies * latency + cost.bytes / bandwidth;
  return costs.reduce((a, b) => (seconds(b) < seconds(a) ? b : a));
}

/** Seconds of an all-reduce in buckets. `latency`: seconds; `bandwidth`: bytes per second. */
export function allReduceSeconds(bytes, ranks, { latency, bandwidth, bucket = BUCKET_BYTES }) {
  let seconds = 0;
  for (let rest = bytes; rest > 0; rest -= bucket) {
    const cost = messageCost(Math.min(rest, bucket), ranks, { latency, bandwidth });
    seconds += cost.latencies * latency + cost.bytes / bandwidth;
  }
  return seconds;
}

/** Seconds of a step: gradients of this rank's samples, the update, and the exchange, one after the other. */
export function stepSeconds({ samples, perSample, update, bytes }, ranks, network) {
  const small = SMALL_MESSAGES * allReduceSeconds(32, ranks, network);
  return samples * perSample + update + small + allReduceSeconds(bytes, ranks, network);
}

/** The time of one rank over that of several with as many samples each: 1 if ranks cost nothing. */
export const efficiency = (work, ranks, network) =>
  stepSeconds(work, 1, network) / stepSeconds(work, ranks, network);

/**
 * Latency and bandwidth that fit measured times `{ bytes, ranks, seconds }` best, by least squares of relative errors. Which
 * algorithm a message takes depends on the result: the fit is repeated until that no longer changes.
 */
export function fitNetwork(measured) {
  let network = { latency: 1e-5, bandwidth: 1e9 };
  for (let round = 0; round < 20; round++) {
    let [aa, ab, bb, at, bt] = [0, 0, 0, 0, 0];
    for (const { bytes, ranks, seconds } of measured) {
      const cost = messageCost(bytes, ranks, network);
      const [a, b] = [cost.latencies / seconds, cost.bytes / seconds];
      aa += a * a;
      ab += a * b;
      bb += b * b;
      at += a;
      bt += b;
    }
    const scale = aa * bb - ab * ab;
    const latency = Math.max(1e-9, (at * bb - bt * ab) / scale);
    const perByte = Math.max(1e-15, (bt * aa - at * ab) / scale);
    const same = Math.abs(latency / network.latency - 1) < 1e-9;
    network = { latency, bandwidth: 1 / perByte };
    if (same) break;
  }
  return network;
}
