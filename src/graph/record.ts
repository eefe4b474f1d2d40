/**
 * An object without a prototype, for keys that come from files: it contains `constructor` and `__proto__` only if they
 * were added.
 */
export function record<T>(entries: Readonly<Record<string, T>>): Record<string, T> {
  return Object.assign(Object.create(null), entries);
}
