/** Stands in for `node:util`, in a file of its own, as only readers of files use it. */
import { dequal } from 'dequal';

export const isDeepStrictEqual = dequal;

type Callback<T> = (error: Error | null, result?: T) => void;
export const promisify =
  <A extends unknown[], T>(action: (...args: [...A, Callback<T>]) => void) =>
  (...args: A): Promise<T> =>
    new Promise((resolve, reject) =>
      action(...args, (error, result) => (error ? reject(error) : resolve(result as T))),
    );
