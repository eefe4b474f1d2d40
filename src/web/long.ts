/** Stands in for `long`: of a 64-bit integer that protobufjs decodes, the library takes the two halves. */
class Long {
  constructor(
    readonly low: number,
    readonly high: number,
  ) {}
  static isLong = (value: unknown): boolean => value instanceof Long;
}

/** What `require` gives. */
export { Long as 'module.exports' };
