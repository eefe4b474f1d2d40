/**
 * Makes a CUDA session of each file that standard input names, one a line: `place-child.js ONNXRUNTIME-NODE`. The runtime
 * says on standard error where each node runs, between the lines that say which file it is and what came of it.
 */
import { writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const ort = createRequire(import.meta.url)(process.argv[2]!) as typeof import('onnxruntime-node');
for await (const path of createInterface({ input: process.stdin })) {
  writeSync(2, `\n@@ file ${path}\n`);
  let result = 'ok';
  try {
    const session = await ort.InferenceSession.create(path, {
      executionProviders: ['cuda', 'cpu'],
      enableMemPattern: false,
      logSeverityLevel: 0,
      logVerbosityLevel: 0,
      optimizedModelFilePath: `${path}.placed`,
    });
    await session.release();
  } catch (error) {
    result = (error as Error).message.replaceAll('\n', ' ');
  }
  writeSync(2, `\n@@ done ${result}\n`);
}
