/**
 * A set that mostly has one member or none: a single member is stored as itself, up to `MANY` members as an array, and
 * more as a Set. Members keep their insertion order.
 */
export type Few<T extends object> = undefined | T | T[] | Set<T>;

/** Above this size, a Set is faster than searching an array. */
const MANY = 8;

export function withItem<T extends object>(few: Few<T>, item: T): Few<T> {
  if (few === undefined || few === item) return item;
  if (few instanceof Set) return few.add(item);
  if (!Array.isArray(few)) return [few, item];
  if (few.includes(item)) return few;
  if (few.length === MANY) return new Set(few).add(item);
  // A push would allocate space for 16 more.
  return [...few, item];
}

export function withoutItem<T extends object>(few: Few<T>, item: T): Few<T> {
  if (few === item) return undefined;
  if (few instanceof Set) {
    few.delete(item);
    return few.size ? few : undefined;
  }
  if (!Array.isArray(few)) return few;
  const at = few.indexOf(item);
  if (at >= 0) few.splice(at, 1);
  return few.length ? few : undefined;
}

export function items<T extends object>(few: Few<T>): readonly T[] {
  if (few === undefined) return [];
  return few instanceof Set || Array.isArray(few) ? [...few] : [few];
}
