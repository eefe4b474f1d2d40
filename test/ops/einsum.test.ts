import { describe, it } from 'vitest';
import { checkVjp } from './vjp.js';

const cases: [equation: string, ...shapes: number[][]][] = [
  ['ij,jk->ik', [2, 3], [3, 4]],
  ['ij,jk', [2, 3], [3, 2]],
  ['bhqd, bhkd -> bhqk', [2, 1, 3, 2], [2, 1, 2, 2]],
  ['ji', [2, 3]],
  ['ij->', [2, 3]],
  ['ij->j', [2, 3]],
  ['i,i->', [3], [3]],
  ['i,j->ij', [2], [3]],
  ['ij,k->i', [2, 3], [2]],
  [',ij->ji', [], [2, 3]],
  ['ii->i', [3, 3]],
  ['ii', [3, 3]],
  ['iij,j->i', [2, 2, 3], [3]],
  ['iji->j', [2, 3, 2]],
  ['ij,jk,kl->il', [2, 2], [2, 3], [3, 2]],
  ['ij,ij,i->j', [2, 3], [2, 3], [2]],
  ['...ij,...jk->...ik', [2, 2, 3], [2, 3, 2]],
  ['...ij,...jk', [2, 1, 2, 3], [1, 3, 3, 2]],
  ['...i,...i->...', [2, 3], [1, 3]],
  ['b...,b->...b', [2, 3, 2], [2]],
  ['...->...', [2, 3]],
  ['i...->...', [2, 3]],
  ['Ba,aB->B', [2, 3], [3, 2]],
];

describe.each(cases)('Einsum %s', (equation, ...shapes) => {
  it.each([false, true])('(symbolic: %s)', symbolic =>
    checkVjp('Einsum', shapes, { attrs: { equation }, symbolic }),
  );
});
