import type { AgdOptions } from '../../../src/ops/optimizers/agd.js';

/**
 * AGD as its authors' implementation has it, on one coordinate per element. `round` is what a number is stored in:
 * the identity for float64, `Math.fround` for a float32 transcription whose every operation is rounded.
 */
export class AgdReference {
  private step = 0;
  private readonly expAvg: number[];
  private readonly expAvgSq: number[];
  private readonly maxExpAvgSq: number[];
  private readonly z: number[];
  readonly w: number[];

  constructor(
    start: readonly number[],
    private readonly options: AgdOptions,
    private readonly round: (x: number) => number = x => x,
  ) {
    this.w = start.map(round);
    [this.expAvg, this.expAvgSq, this.maxExpAvgSq, this.z] = [0, 0, 0, 0].map(x => start.map(() => x)) as [
      number[],
      number[],
      number[],
      number[],
    ];
  }

  update(grads: readonly number[], lr: number): void {
    const { round: r } = this;
    const { betas, delta, weightDecay, weightDecouple, fixedDecay, amsgrad, win, clip } = this.options;
    const [beta1, beta2] = betas;
    this.step += 1;
    const correction = (beta: number, t: number) => r(1 - r(beta ** t));
    const correction1Old = correction(beta1, this.step - 1);
    const correction1 = correction(beta1, this.step);
    const correction2 = correction(beta2, this.step);
    const floor = r(delta * r(Math.sqrt(correction2)));
    const rate = r(r(lr * r(Math.sqrt(correction2))) / correction1);
    for (const [i, given] of grads.entries()) {
      let g = r(given);
      let w = this.w[i]!;
      if (!win) {
        if (weightDecouple) w = r(w * r(fixedDecay ? 1 - weightDecay : 1 - lr * weightDecay));
        else g = r(g + r(weightDecay * w));
      }
      const m = r(r(this.expAvg[i]! * r(beta1)) + r(r(1 - beta1) * g));
      const s =
        this.step === 1
          ? r(m * r(1 / correction1))
          : r(r(m * r(1 / correction1)) - r(this.expAvg[i]! * r(1 / correction1Old)));
      const v = r(r(this.expAvgSq[i]! * r(beta2)) + r(r(1 - beta2) * r(s * s)));
      const largest = Math.max(this.maxExpAvgSq[i]!, v);
      let u = r(m / Math.max(r(Math.sqrt(amsgrad ? largest : v)), floor));
      if (clip !== undefined) u = Math.min(Math.max(u, -clip), clip);
      if (win) {
        const z = r(r(this.z[i]! - r(rate * u)) * r(1 / r(1 + r(weightDecay * rate))));
        const rate2 = r(2 * rate);
        const tau = r(1 / r(3 + r(rate2 * weightDecay)));
        w = r(r(r(w * tau) - r(r(tau * rate2) * u)) + r(r(2 * tau) * z));
        this.z[i] = z;
      } else w = r(w - r(rate * u));
      this.w[i] = w;
      this.expAvg[i] = m;
      this.expAvgSq[i] = v;
      this.maxExpAvgSq[i] = largest;
    }
  }
}
