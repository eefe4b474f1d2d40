import { allGraphs, type Model } from './ir.js';

/** Generates names that no value or node of a model uses. The user's names never change. */
export class Names {
  readonly #taken = new Set<string>();
  readonly #next = new Map<string, number>();

  static of(model: Model): Names {
    const names = new Names();
    for (const graph of allGraphs(model.graph)) {
      for (const v of graph.inputs) names.#taken.add(v.name);
      for (const v of graph.outputs) names.#taken.add(v.name);
      for (const v of graph.initializers.keys()) names.#taken.add(v.name);
      for (const node of graph.nodes) {
        if (node.name) names.#taken.add(node.name);
        for (const v of node.outputs) if (v) names.#taken.add(v.name);
      }
    }
    return names;
  }

  has(name: string): boolean {
    return this.#taken.has(name);
  }

  /** `hint` if it is free, and otherwise `hint_1`, `hint_2` ... */
  fresh(hint: string): string {
    let n = this.#next.get(hint);
    if (n === undefined && this.#take(hint)) return hint;
    n ??= 0;
    let name: string;
    do name = `${hint}_${++n}`;
    while (!this.#take(name));
    this.#next.set(hint, n);
    return name;
  }

  /** Whether the name was free; looks it up once. */
  #take(name: string): boolean {
    const before = this.#taken.size;
    return this.#taken.add(name).size > before;
  }
}
