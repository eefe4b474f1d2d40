/** Resolves `--train` and `--freeze`. */
import { globTest, matcher } from '../common/match-names.js';

/** A special value of `--freeze`: everything except the parameters of the model's head. */
const BACKBONE = 'backbone';

/**
 * Whether `--train` or `--freeze` applies to a name. If globs of both match it, the more specific one wins: the one
 * with more characters other than `*` and `?`, or that of `--freeze` in a tie. `backbone` freezes names that are not in
 * `head` and is the least specific. Throws `no-such-value` as `matcher` does.
 */
export function resolveGlobs(
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
