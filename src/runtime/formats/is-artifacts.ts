import { stat } from 'node:fs/promises';

/** How the name of the file with a training graph ends. */
export const TRAINING = 'training_model.onnx';

/** Whether a path is, by its name, one of training artifacts: a folder, or a training model. */
export async function isArtifacts(path: string): Promise<boolean> {
  return path.endsWith(TRAINING) || isFolder(path);
}

export async function isFolder(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}
