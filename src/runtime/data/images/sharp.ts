/** The one importer of sharp, which decodes image files: an optional dependency, loaded when the first image is. */
import { AgdError } from '../../../graph/errors.js';

type Sharp = typeof import('sharp').default;

let loading: Promise<Sharp> | undefined;

/** Throws `bad-option` where sharp is not installed. */
export function loadSharp(load: () => Promise<{ default: Sharp }> = () => import('sharp')): Promise<Sharp> {
  loading ??= load().then(
    ({ default: sharp }) => {
      // Images are decoded side by side: threads within one only get in each other's way, and its cache is of no use.
      sharp.concurrency(1);
      sharp.cache(false);
      return sharp;
    },
    (cause: unknown) => {
      loading = undefined;
      const why = cause instanceof Error ? cause.message.split('\n')[0] : String(cause);
      throw new AgdError(
        'bad-option',
        `Images are decoded by the package sharp, which cannot be loaded here (${why}). Install it: npm install sharp.`,
        { cause },
      );
    },
  );
  return loading;
}
