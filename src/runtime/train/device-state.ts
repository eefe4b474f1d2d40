import type { Model } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import { type States, stateCopies, stateMagnitudes } from '../../passes/run/state-readers.js';
import { type Feeds, freeOnDevice, onDeviceAlone, Session, type SessionOptions } from '../session.js';
import { firstNonFinite } from './finite.js';

/** A training state that stays on the device: what reads it, checks it and frees it. */
export class DeviceState {
  readonly #sessions = new Map<string, Session>();

  constructor(private readonly options: SessionOptions) {}

  /** Lets those tensors of a state that are on the device alone be read here too. */
  async fetch(state: Feeds): Promise<void> {
    const alone = onDeviceAlone(state);
    const tensors = Object.values(alone);
    if (!tensors.length) return;
    const session = await this.#session('copies', stateCopies, alone);
    const copies = await session.run(alone);
    for (const [i, tensor] of tensors.entries()) tensor.putBytes(copies[session.outputs[i]!]!.bytes);
  }

  /**
   * The name of the first tensor with an element that is infinite or not a number. The sums of magnitudes say whether there
   * may be one on the device; then the state is fetched.
   */
  async firstNonFinite(state: Feeds): Promise<string | undefined> {
    const alone = onDeviceAlone(state);
    if (Object.keys(alone).length) {
      const session = await this.#session('magnitudes', stateMagnitudes, alone);
      const { [session.outputs[0]!]: sums } = await session.run(alone);
      if (sums!.numbers().every(Number.isFinite)) return undefined;
      await this.fetch(alone);
    }
    return firstNonFinite(state);
  }

  /** Frees the tensors of a state that are not part of another one. */
  free(state: Feeds, kept: Feeds = {}): void {
    const others = new Set<Tensor>(Object.values(kept));
    freeOnDevice(Object.values(state).filter(tensor => !others.has(tensor)));
  }

  async release(): Promise<void> {
    for (const session of this.#sessions.values()) await session.release();
  }

  async #session(what: string, make: (states: States) => Model, states: States): Promise<Session> {
    const key = [what, ...Object.keys(states)].join('\n');
    const session = this.#sessions.get(key) ?? (await Session.create(make(states), this.options));
    this.#sessions.set(key, session);
    return session;
  }
}
