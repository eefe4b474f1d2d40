/** The cost model of distributed training, against its formulas in plain numbers. */
import { describe, expect, it } from 'vitest';
// @ts-expect-error: plain JavaScript.
import * as cost from '../../bench/distributed/model.mjs';

const { allReduceSeconds, efficiency, fitNetwork, messageCost, stepSeconds, SMALL_MESSAGES } = cost;
const network = { latency: 2e-5, bandwidth: 1e9 };

describe('the cost model', () => {
  it('has no cost for one rank', () => {
    expect(allReduceSeconds(1e6, 1, network)).toBe(0);
    const work = { samples: 8, perSample: 1e-3, update: 2e-3, bytes: 1e6 };
    expect(stepSeconds(work, 1, network)).toBeCloseTo(0.01, 12);
    expect(efficiency(work, 1, network)).toBe(1);
  });

  it('sends small messages by doubling and large ones around a ring', () => {
    expect(messageCost(32, 8, network)).toEqual({ latencies: 3, bytes: 96 });
    expect(messageCost(1e8, 8, network)).toEqual({ latencies: 14, bytes: 1.75e8 });
    expect(allReduceSeconds(1e8, 8, { ...network, bucket: 1e9 })).toBeCloseTo(14 * 2e-5 + 0.175, 12);
  });

  it('pays the latency of each bucket', () => {
    const [one, four] = [1e8, 25e6].map(bucket => allReduceSeconds(1e8, 4, { ...network, bucket }));
    expect(four - one).toBeCloseTo(3 * 6 * 2e-5, 12);
  });

  it('adds the exchange to the time of a step', () => {
    const work = { samples: 8, perSample: 1e-3, update: 2e-3, bytes: 1e6 };
    const exchange = allReduceSeconds(1e6, 4, network) + SMALL_MESSAGES * allReduceSeconds(32, 4, network);
    expect(stepSeconds(work, 4, network)).toBeCloseTo(0.01 + exchange, 12);
    expect(efficiency(work, 4, network)).toBeCloseTo(0.01 / (0.01 + exchange), 12);
    expect(efficiency(work, 512, network)).toBeLessThan(efficiency(work, 4, network));
  });

  it('is found again from its own times', () => {
    const measured = [2, 4, 8].flatMap(ranks =>
      [32, 4e3, 1e5, 1e6, 2e7].map(bytes => ({
        bytes,
        ranks,
        seconds: allReduceSeconds(bytes, ranks, network),
      })),
    );
    const found = fitNetwork(measured);
    expect(found.latency / network.latency).toBeCloseTo(1, 6);
    expect(found.bandwidth / network.bandwidth).toBeCloseTo(1, 6);
  });
});
