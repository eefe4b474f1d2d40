/** Puts `items` in the place of all that an array holds; they may be too many to be the arguments of a call. */
export function refill<T>(array: T[], items: readonly T[]): void {
  array.length = 0;
  for (const item of items) array.push(item);
}
