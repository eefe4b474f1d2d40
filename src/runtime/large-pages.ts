/** The setting of glibc's allocator, since 2.35. It is read when a process starts. */
const SETTING = 'glibc.malloc.hugetlb';

/**
 * This process's environment, for another one in which ONNX Runtime trains: on Linux, its allocator asks for pages of 2 MiB where the
 * system grants them on request (`madvise`), as tensors are read and written faster with few pages. A setting of the user's stays.
 */
export function withLargePages({ ...env }: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const given = env.GLIBC_TUNABLES;
  if (process.platform !== 'linux' || given?.includes(SETTING)) return env;
  return { ...env, GLIBC_TUNABLES: `${given ? `${given}:` : ''}${SETTING}=1` };
}
