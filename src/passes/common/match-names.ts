/** Matches names against globs. */
import picomatch from 'picomatch';
import { AgdError } from '../../graph/errors.js';
import { nearest } from '../../ops/core/option-type.js';

/** The test of names by one glob. */
export const globTest = (glob: string) => picomatch(glob, { bash: true, dot: true });

/** The name that is close to a glob without its wildcards, if there is one. */
function hint(glob: string, names: readonly string[]): string {
  const near = nearest(glob.replace(/[*?]/g, ''), names);
  return near === undefined ? '' : `, but '${near}' is close`;
}

/** A test of names by globs; undefined without globs. Throws `no-such-value` for a glob that matches none of `names`. */
export function matcher(
  flag: string,
  globs: readonly string[] | undefined,
  names: readonly string[],
  what = 'floating-point initializer',
): ((name: string) => boolean) | undefined {
  if (!globs?.length) return undefined;
  const tests = globs.map(globTest);
  globs.forEach((glob, i) => {
    if (!names.some(name => tests[i]!(name)))
      throw new AgdError(
        'no-such-value',
        `${flag} '${glob}' matches no ${what}${hint(glob, names)}; \`agd-onnx inspect\` lists them.`,
      );
  });
  return name => tests.some(test => test(name));
}
