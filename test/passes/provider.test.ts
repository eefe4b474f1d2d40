import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { decodeModel, encodeModel } from '../../src/graph/proto/codec.js';
import { type Provider, providerOf } from '../../src/ops/core/provider.js';
import { contextOf, runPasses } from '../../src/passes/common/context.js';
import { readDescription } from '../../src/passes/file/step-metadata.js';
import { inject } from '../../src/passes/inject.js';
import type { Device, InjectOptions } from '../../src/passes/options.js';
import { PIPELINES } from '../../src/passes/pipeline.js';
import { openData } from '../../src/runtime/data/open.js';
import { writeSafetensors } from '../../src/runtime/data/safetensors.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { trainable } from '../../src/runtime/train/prepare.js';
import { mlp, mlpData } from '../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;

describe('the execution provider to write for', () => {
  it('is recorded in the file', async () => {
    const { model } = await inject(mlp(), { loss: LOSS, provider: 'cuda' }, sessionShapes);
    expect(readDescription(decodeModel(encodeModel(model))).provider).toBe('cuda');
  });

  it('decides the type of the scalars of a step', async () => {
    const doubles = async (options: InjectOptions) => {
      const { model } = await inject(mlp(), { loss: LOSS, ...options }, sessionShapes);
      const read = model.graph.nodes.flatMap(n => [...n.inputs, ...n.outputs]);
      return read.some(v => v?.dtype === 'float64');
    };
    expect(await doubles({})).toBe(true);
    expect(await doubles({ provider: 'cuda' })).toBe(false);
    expect(await doubles({ provider: 'cuda', scalars: 'float64' })).toBe(true);
  });

  it('reaches the builder of rules, in subgraphs too', async () => {
    const context = contextOf(mlp(), { provider: 'webgpu' }, sessionShapes);
    const { g } = await runPasses(PIPELINES.normalize, context, ['g']);
    expect(g.provider).toBe('webgpu');
    expect(g.subgraph('body').provider).toBe('webgpu');
  });

  it('is cpu where nothing is said', async () => {
    const { g } = await runPasses(PIPELINES.normalize, contextOf(mlp(), {}, sessionShapes), ['g']);
    expect(g.provider).toBe('cpu');
  });

  it('is one that there is', async () => {
    const made = inject(mlp(), { loss: LOSS, provider: 'npu' as never }, sessionShapes);
    await expect(made).rejects.toThrow(/provider.*cpu, cuda, webgpu/s);
  });

  it('is the device of a run', async () => {
    expect(providerOf(undefined)).toBeUndefined();
    expect(providerOf('cuda:1')).toBe('cuda');
    const folder = await mkdtemp(join(tmpdir(), 'agd-'));
    try {
      const path = join(folder, 'data.safetensors');
      await writeSafetensors(path, mlpData(16));
      const data = await openData(path, {});
      const written = async (device: Device, provider?: Provider) => {
        const opened = { model: mlp(), options: { loss: LOSS, provider } };
        return readDescription(await trainable(opened, { epochs: 1, device }, 'mlp', data, () => {}))
          .provider;
      };
      expect(await written('cuda')).toBe('cuda');
      expect(await written('cuda', 'webgpu')).toBe('webgpu');
      await data.close();
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
