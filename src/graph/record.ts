/**
 * An object without a prototype, for keys that come from files: `constructor` and `__proto__` are in it only where they
 * were put there.
 */
export function record<T>(entries: Readonly<Record<string, T>>): Record<string, T> {
  return Object.assign(Object.create(null), entries);
}
