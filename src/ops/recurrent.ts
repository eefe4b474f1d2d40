/**
 * Recurrent layers. Their forward pass is the runtime's; the backward pass recomputes the gates of all steps in one
 * product, from the hidden states that the layer returns, so that only the unavoidable part is sequential.
 */
import type { Expr } from './core/expr.js';
import {
  type Cotangents,
  type Direction,
  gate,
  outer,
  project,
  recurrentRule,
  unclipped,
} from './core/recurrence.js';
import type { NodeView, Operands, Rule } from './core/rule.js';
import { scan } from './core/scan.js';

type Recurrent = Rule<Operands, readonly (Expr | undefined)[]>;

/**
 * i, o, f = f(z_i + p_i c'), f(z_o + p_o c), f(z_f + p_f c');  g = g(z_c);  c = f c' + i g;  h = o h(c)
 * with z = x W^T + h' R^T + b, and a prime for the step before
 * =>  do = dh h(c) f', dc += dh o h'(c) + do p_o, di = dc g f', df = dc c' f', dg = dc i g', dc' = dc f + di p_i + df p_f,
 * dh' = dz R; dW, dR, db and dx are products over all steps. With `input_forget` f = 1 - i.
 */
export const LSTM: Recurrent = (dys, node) => {
  const coupled = node.attrs.int('input_forget', 0) === 1;
  return recurrentRule(dys, node, ['Sigmoid', 'Tanh', 'Tanh'], d => lstmDirection(d, clipOf(node), coupled));
};

function lstmDirection(d: Direction, clip: number | undefined, coupled: boolean): Cotangents {
  const [act, actCell, actOut] = d.activations as [
    Direction['activations'][0],
    Direction['activations'][0],
    Direction['activations'][0],
  ];
  const { g } = d.x;
  const z = preactivations(d);
  const [zi, zo, zf, zg] = [0, 1, 2, 3].map(i => gate(z, i, 4)) as [Expr, Expr, Expr, Expr];
  const [pi, po, pf] = [0, 1, 2].map(i => d.peepholes && gate(d.peepholes, i, 3));
  const peep = (e: Expr, p: Expr | undefined, c: Expr) => (p ? e.add(c.mul(p)) : e);
  const open = (e: Expr) => withSlope(e, act, clip);
  const masked = d.mask ? [d.mask] : [];
  const cell = withSlope(zg, actCell, clip);
  const free = d.peepholes ? undefined : [zi, zo, zf].map(open);
  const forgetting = (input: Expr, forget: () => Gate) => (coupled ? input.rsub(1) : forget().y);

  // The cells of all steps: only these elementwise operations are sequential. With peepholes, the gates are too.
  const cells = scan(g, {
    states: [d.c0!],
    inputs: [
      ...(free ? [forgetting(free[0]!.y, () => free[2]!), free[0]!.y.mul(cell.y)] : [zf, cell.y, zi]),
      ...masked,
    ],
    body: (b, [c], slices) => {
      const [f, fresh, i] = slices;
      const m = d.mask && slices.at(-1)!;
      const gated = () => {
        const input = open(peep(i!, b.of(pi!.value), c!)).y;
        return [forgetting(input, () => open(peep(f!, b.of(pf!.value), c!))), input.mul(fresh!)];
      };
      const [forget, added] = free ? [f!, fresh!] : gated();
      const next = forget!.mul(c!).add(added!);
      const kept = m ? m.mul(next).add(m.rsub(1).mul(c!)) : next;
      return { states: [kept], outputs: [kept] };
    },
  });
  const [c] = cells.outputs as [Expr];
  const before = d
    .c0!.unsqueeze([0])
    .concat([c.slice([0], [-1], [0])], 0)
    .typed(c.type);
  const [i, o, f] = (free ?? [peep(zi, pi, before), peep(zo, po, c), peep(zf, pf, before)].map(open)) as [
    Gate,
    Gate,
    Gate,
  ];
  const out = actOut.apply(c);
  // The factors of dh and dc in dz, for the gates in the order i, o, f, c.
  const factors = [
    (coupled ? cell.y.sub(before) : cell.y).mul(i.slope),
    out.mul(o.slope),
    coupled ? before.zeros() : before.mul(f.slope),
    i.y.mul(cell.slope),
  ];
  const through = o.y.mul(actOut.slope(c, out));

  const back = scan(g, {
    states: [d.dh, d.dc!],
    inputs: [d.dy, factors[0]!.concat(factors.slice(1), 2), through, coupled ? i.y.rsub(1) : f.y, ...masked],
    reverse: true,
    body: (b, [dh, dc], [dy, factor, slope, forget, m]) => {
      const R = b.of(d.r.value);
      const total = dy!.add(dh!);
      const live = m ? total.mul(m) : total;
      const dOut = po && live.mul(gate(factor!, 1, 4));
      const own = live.mul(slope!).add(m ? dc!.mul(m) : dc!);
      const dCell = po && dOut ? own.add(dOut.mul(b.of(po.value))) : own;
      const dz = dCell.concat([live, dCell, dCell], 1).mul(factor!);
      const carried = dCell.mul(forget!);
      const peeped =
        pi && pf
          ? carried.add(gate(dz, 0, 4).mul(b.of(pi.value))).add(gate(dz, 2, 4).mul(b.of(pf.value)))
          : carried;
      const [nextH, nextC] = [dz.matmul(R), peeped];
      const rest = m?.rsub(1);
      return {
        states: rest ? [nextH.add(dh!.mul(rest)), nextC.add(dc!.mul(rest))] : [nextH, nextC],
        outputs: [dz],
      };
    },
  });
  const [dz] = back.outputs as [Expr];
  const sum = (e: Expr) => e.sum([0, 1]);
  return {
    ...products(d, dz, dz),
    peepholes: () =>
      sum(gate(dz, 0, 4).mul(before)).concat(
        [sum(gate(dz, 1, 4).mul(c)), sum(gate(dz, 2, 4).mul(before))],
        0,
      ),
    h0: () => back.states[0]!,
    c0: () => back.states[1]!,
  };
}

/**
 * z, r = f(x W^T + h' R^T + b);  n = g(x W^T + (r h') R^T + b), or with linear_before_reset g(x W^T + b + r (h' R^T + b));
 * h = (1 - z) n + z h'
 * => dn = dh (1 - z) g', dz = dh (h' - n) f', dr = (the factor of r) * the cotangent of the product * f', dh' from all
 * of them.
 */
export const GRU: Recurrent = (dys, node) => {
  const linear = node.attrs.int('linear_before_reset', 0) === 1;
  return recurrentRule(dys, node, ['Sigmoid', 'Tanh'], d => gruDirection(d, linear, clipOf(node)));
};

function gruDirection(d: Direction, linear: boolean, clip: number | undefined): Cotangents {
  const [act, actNew] = d.activations as [Direction['activations'][0], Direction['activations'][0]];
  const { g } = d.x;
  const { wb, rb } = biases(d);
  const plus = (e: Expr, b: Expr | undefined) => (b ? e.add(b) : e);
  const fromX = plus(project(d.x, d.w), wb);
  const fromH = plus(project(d.before, d.r), rb);
  const [z, r] = [0, 1].map(i => withSlope(gate(fromX, i, 3).add(gate(fromH, i, 3)), act, clip)) as [
    Gate,
    Gate,
  ];
  const rn = lastRows(d.r, 2, 3);
  const recurrent = linear ? gate(fromH, 2, 3) : plus(project(r.y.mul(d.before), rn), rb && gate(rb, 2, 3));
  const fresh = withSlope(gate(fromX, 2, 3).add(linear ? r.y.mul(recurrent) : recurrent), actNew, clip);

  const back = scan(g, {
    states: [d.dh],
    inputs: [
      d.dy,
      z.y,
      d.before.sub(fresh.y).mul(z.slope),
      z.y.rsub(1).mul(fresh.slope),
      (linear ? recurrent : d.before).mul(r.slope),
      r.y,
      ...(d.mask ? [d.mask] : []),
    ],
    reverse: true,
    body: (b, [dh], [dy, update, toUpdate, toNew, toReset, reset, m]) => {
      const R = b.of(d.r.value);
      const total = dy!.add(dh!);
      const live = m ? total.mul(m) : total;
      const dz = live.mul(toUpdate!);
      const dn = live.mul(toNew!);
      const kept = live.mul(update!);
      const rest = (e: Expr) => (m ? e.add(dh!.mul(m.rsub(1))) : e);
      if (linear) {
        const dr = dn.mul(toReset!);
        const dq = dn.mul(reset!);
        const next = kept.add(dz.concat([dr, dq], 1).matmul(R));
        return { states: [rest(next)], outputs: [dz.concat([dr, dn], 1), dz.concat([dr, dq], 1)] };
      }
      const u = dn.matmul(b.of(rn.value));
      const dr = u.mul(toReset!);
      const next = kept.add(u.mul(reset!)).add(dz.concat([dr], 1).matmul(lastRows(R, 0, 3, 2)));
      const all = dz.concat([dr, dn], 1);
      return { states: [rest(next)], outputs: [all, all] };
    },
  });
  const [dx, dh] = back.outputs as [Expr, Expr];
  const all = products(d, dx, dh);
  if (linear) return { ...all, h0: () => back.states[0]! };
  // With the reset before the product, R_n sees r h' where the others see h'.
  const dR = () =>
    outer(gate(dh, 0, 3).concat([gate(dh, 1, 3)], 2), d.before).concat(
      [outer(gate(dh, 2, 3), r.y.mul(d.before))],
      0,
    );
  return { ...all, r: dR, h0: () => back.states[0]! };
}

/** h = f(x W^T + h' R^T + b)  =>  dz = dh f', dh' = dz R; dW, dR, db and dx are products over all steps. */
export const RNN: Recurrent = (dys, node) => {
  return recurrentRule(dys, node, ['Tanh'], d => {
    const { slope } = withSlope(preactivations(d), d.activations[0]!, clipOf(node));
    const back = scan(d.x.g, {
      states: [d.dh],
      inputs: [d.dy, slope, ...(d.mask ? [d.mask] : [])],
      reverse: true,
      body: (b, [dh], [dy, factor, m]) => {
        const total = dy!.add(dh!);
        const dz = (m ? total.mul(m) : total).mul(factor!);
        const next = dz.matmul(b.of(d.r.value));
        return { states: [m ? next.add(dh!.mul(m.rsub(1))) : next], outputs: [dz] };
      },
    });
    return { ...products(d, back.outputs[0]!, back.outputs[0]!), h0: () => back.states[0]! };
  });
};

// ---- shared ----

type Gate = { y: Expr; slope: Expr };

/** The clipping bound of the arguments of activations. */
function clipOf({ attrs }: NodeView<Operands>): number | undefined {
  return attrs.has('clip') ? attrs.float('clip', 0) : undefined;
}

function withSlope(z: Expr, act: Direction['activations'][0], clip?: number): Gate {
  if (clip === undefined) {
    const y = act.apply(z);
    return { y, slope: act.slope(z, y) };
  }
  const held = z.op('Clip', [z.g.scalar(-clip, z.dtype), z.g.scalar(clip, z.dtype)]);
  const y = act.apply(held);
  return { y, slope: act.slope(held, y).mul(unclipped(z, clip)) };
}

/** x W^T + h' R^T + b of all steps. */
function preactivations(d: Direction): Expr {
  const { wb, rb } = biases(d);
  const z = project(d.x, d.w).add(project(d.before, d.r));
  return wb && rb ? z.add(wb.add(rb)) : z;
}

/** The bias of the products with W and that of those with R. */
function biases({ bias }: Direction): { wb?: Expr; rb?: Expr } {
  return bias ? { wb: gate(bias, 0, 2), rb: gate(bias, 1, 2) } : {};
}

/** The rows of `blocks` blocks, from block `i` on, of a matrix of `count` blocks. */
function lastRows(m: Expr, i: number, count: number, blocks = 1): Expr {
  const rows = m.extent(0);
  if (typeof rows === 'number') return m.slice([(rows / count) * i], [(rows / count) * (i + blocks)], [0]);
  const size = m.dims(0, 1).div(count);
  return m.slice(size.mul(i), size.mul(i + blocks), [0]);
}

/** The gradients that are a single product over all steps, from the cotangents of x W^T + b and of h' R^T + b. */
function products(d: Direction, dx: Expr, dh: Expr) {
  return {
    x: () => dx.matmul(d.w),
    w: () => outer(dx, d.x),
    r: () => outer(dh, d.before),
    bias: () => dx.sum([0, 1]).concat([dh.sum([0, 1])], 0),
  };
}
