import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig } from 'vite';

const root = join(import.meta.dirname, '../..');
const publicDir = join(import.meta.dirname, 'public');
mkdirSync(publicDir, { recursive: true });
copyFileSync(join(root, 'models/lenet.onnx'), join(publicDir, 'lenet.onnx'));
for (const part of ['train', 'test'])
  copyFileSync(join(root, `models/mnist/${part}.npz`), join(publicDir, `digits-${part}.npz`));

export default defineConfig({
  root: import.meta.dirname,
  base: './',
  worker: { format: 'es' },
  resolve: { alias: { 'agd-onnx/web': join(root, 'dist/web/index.js') } },
  build: { outDir: join(root, 'dist/studio'), emptyOutDir: true, target: 'es2022' },
});
