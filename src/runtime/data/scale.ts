import { AgdError } from '../../graph/errors.js';

/** A factor as users write it: a number or a quotient of two, `0.5` or `1/255`. Throws `bad-option`. */
export function parseScale(text: string): number {
  const [numerator, denominator = '1', ...rest] = text.split('/');
  const scale = Number(numerator) / Number(denominator);
  if (rest.length > 0 || !Number.isFinite(scale) || scale === 0)
    throw new AgdError(
      'bad-option',
      `A scale of '${text}' is no number other than 0, nor a quotient such as 1/255.`,
    );
  return scale;
}
