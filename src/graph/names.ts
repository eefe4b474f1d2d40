import { allGraphs, type Model } from './ir.js';

/** Generates names that no value or node of a model uses. The user's names never change. */
export class Names {
  /** All but those that `fresh` numbers, which are thousands: as texts, they would have to be looked up. */
  readonly #taken = new Set<string>();
  /** What precedes a number in names of `#taken`. */
  readonly #bases = new Set<string>();
  readonly #next = new Map<string, number>();

  static of(model: Model): Names {
    const names = new Names();
    const take = (named: { name: string } | null) => named?.name && names.#take(named.name);
    for (const { inputs, outputs, initializers, nodes } of allGraphs(model.graph)) {
      for (const list of [inputs, outputs, [...initializers.keys()], nodes]) list.forEach(take);
      for (let i = 0; i < nodes.length; i++) nodes[i]!.outputs.forEach(take);
    }
    return names;
  }

  /** `hint` if it is free, and otherwise `hint_1`, `hint_2` ... */
  fresh(hint: string): string {
    let n = this.#next.get(hint);
    if (n === undefined && this.#take(hint)) return hint;
    n ??= 0;
    do n++;
    while (this.#bases.has(hint) && this.#taken.has(`${hint}_${n}`));
    this.#next.set(hint, n);
    return `${hint}_${n}`;
  }

  /** Whether the name was free. */
  #take(name: string): boolean {
    // Most names end otherwise, which is found out sooner.
    const [, base, n] = (/\d$/.test(name) && /^(.*)_([1-9]\d*)$/s.exec(name)) || [];
    if (base !== undefined) {
      if (this.#next.get(base)! >= Number(n)) return false;
      this.#bases.add(base);
    }
    const before = this.#taken.size;
    return this.#taken.add(name).size > before;
  }
}
