import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** All temporary files of a run, also those of processes that tests kill, lie in one folder that is removed at its end. */
export default function setup(): () => void {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-tests-'));
  process.env.TMPDIR = folder;
  return () => rmSync(folder, { recursive: true, force: true });
}
