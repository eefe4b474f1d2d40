/** What `--train` and `--freeze` say of names. */
import { globTest, matcher } from '../common/match-names.js';

/** In the place of a glob of `--freeze`: all that is not a parameter of the model's head. */
export const BACKBONE = 'backbone';

/**
 * What `--train` and `--freeze` say of a name. Where globs of both match it, the more specific one counts: the one with more
 * characters besides `*` and `?`; of two alike, that of `--freeze`. `backbone` freezes what is not in `head`, and is the least specific of
 * all. Throws `no-such-value` as `matcher` does.
 */
export function toldByGlobs(
  { train, freeze }: { train?: readonly string[]; freeze?: readonly string[] },
  names: readonly string[],
  head: () => readonly string[] = () => [],
): (name: string) => 'train' | 'freeze' | undefined {
  const globs = freeze?.filter(glob => glob !== BACKBONE);
  matcher('--train', train, names);
  matcher('--freeze', globs, names);
  const kept = freeze?.includes(BACKBONE) ? new Set(head()) : undefined;
  const measured = (list: readonly string[] = []) =>
    list.map(glob => ({ test: globTest(glob), weight: glob.replace(/[*?]/g, '').length }));
  const [trains, freezes] = [measured(train), measured(globs)];
  const weightOf = (rules: typeof trains, name: string) =>
    Math.max(-1, ...rules.filter(({ test }) => test(name)).map(({ weight }) => weight));
  return name => {
    const isFrozen = kept !== undefined && !kept.has(name);
    const [forTraining, forFreezing] = [weightOf(trains, name), weightOf(freezes, name)];
    if (forTraining < 0 && forFreezing < 0) return isFrozen ? 'freeze' : undefined;
    return forTraining > forFreezing ? 'train' : 'freeze';
  };
}
