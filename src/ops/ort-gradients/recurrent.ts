/** LSTM and GRU in training: their gradients recompute the gates that ORT would pass to them. */
import type { Expr } from '../core/expr.js';
import { type GradientNode, lowering } from '../core/gradient-node.js';
import type { Operands, Rule } from '../core/rule.js';
import { GRU, LSTM } from '../recurrent.js';

type Recurrent = Rule<Operands, readonly (Expr | undefined)[]>;

const forward = (opType: 'LSTM' | 'GRU', outputs: number) =>
  lowering<Operands>(({ g, inputs, node }) => {
    const types = node.outputs.slice(0, outputs).map(v => v?.type);
    return g.emit(opType, inputs, Object.fromEntries(node.attrs), { outputs, types });
  });

export const LSTMTraining = forward('LSTM', 3);
export const GRUTraining = forward('GRU', 2);

/** The rule of the forward operator, whose pullbacks are in the order of X, W, R, B, lengths, and the states. */
function back(node: GradientNode<Operands>, rule: Recurrent, primal: Operands, y: Expr, dys: Operands) {
  const pullbacks = node.pullbacks(rule, dys, { inputs: primal, outputs: [y] });
  const wanted = [0, 1, 2, 3, 5, 6];
  return node.node.outputs.map((v, i) => (v ? pullbacks[wanted[i]!]?.() : undefined));
}

/** X, W, R, lengths, h0, c0, y, c of all steps, gates, dy, dh, dc; the bias is that of the forward node. */
export const LSTMGrad = lowering<Operands>(node => {
  const [x, w, r, lengths, h0, c0, y, , , ...dys] = node.inputs;
  const forwardNode = node.writer(8) ?? node.writer(6);
  const [bias, peepholes] = [3, 7].map(i => forwardNode?.inputs[i]).map(v => (v ? node.g.of(v) : undefined));
  return back(node, LSTM, [x, w, r, bias, lengths, h0, c0, peepholes], y!, dys);
});

/** X, W, R, B, lengths, h0, y, gates, dy, dh. */
export const GRUGrad = lowering<Operands>(node => {
  const [x, w, r, bias, lengths, h0, y, , ...dys] = node.inputs;
  return back(node, GRU, [x, w, r, bias, lengths, h0], y!, dys);
});
