/** Operators, of which updates are made, that compute each number from those at its own place. */
export const ELEMENTWISE = new Set(
  (
    'Abs Add And Cast Clip Div Equal Exp Greater GreaterOrEqual Less LessOrEqual Log Max Min Mul Neg Not Or Pow ' +
    'Reciprocal Sign Sqrt Sub Sum Tanh Where'
  ).split(' '),
);
