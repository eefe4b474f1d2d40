type Edge = { readonly to: number; left: number; readonly back: Edge };

const SOURCE = 0;
const SINK = 1;

/** Items that are divided into two sides so that the edges from the first to the second weigh least: a minimum cut. */
export class LeastCut {
  readonly first = SOURCE;
  readonly second = SINK;
  readonly #edges: Edge[][] = [[], []];

  /** A new item. */
  item(): number {
    return this.#edges.push([]) - 1;
  }

  /** What it costs if `from` is on the first side and `to` on the second. */
  edge(from: number, to: number, weight: number): void {
    const edge = { to, left: weight, back: undefined as never as Edge };
    const back = { to: from, left: 0, back: edge };
    (edge as { back: Edge }).back = back;
    this.#edges[from]!.push(edge);
    this.#edges[to]!.push(back);
  }

  /** The items of the first side. */
  firstSide(): ReadonlySet<number> {
    for (;;) {
      const reached = this.#reached();
      if (!reached.has(SINK)) return new Set(reached.keys());
      const path: Edge[] = [];
      for (let at = SINK; at !== SOURCE; at = path.at(-1)!.back.to) path.push(reached.get(at)!);
      const flow = Math.min(...path.map(edge => edge.left));
      for (const edge of path) {
        edge.left -= flow;
        edge.back.left += flow;
      }
    }
  }

  /** The items that edges with weight left lead to from the source, each with the edge that was taken. */
  #reached(): Map<number, Edge | undefined> {
    const reached = new Map<number, Edge | undefined>([[SOURCE, undefined]]);
    for (const at of reached.keys())
      for (const edge of this.#edges[at]!)
        if (edge.left > 0 && !reached.has(edge.to)) reached.set(edge.to, edge);
    return reached;
  }
}
