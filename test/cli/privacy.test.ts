import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PRIVACY_OPTIONS } from '../../src/passes/options/privacy.js';
import { agdOnnx, workplace } from './run.js';

const TRAIN = ['train', 'model.onnx', '--data', 'train.npz', '--loss', 'cross-entropy', '--batch-size', '16'];

describe('--dp-sgd', () => {
  it('trains, tells epsilon, and is resumed by the same command', async () => {
    const folder = await workplace();
    const flags = [
      '--dp-sgd',
      'clip=1,noise=1.1',
      '--sampler',
      'poisson',
      '--dp-delta',
      '1e-3',
      '--val',
      'test.npz',
    ];
    const files = ['--report', 'run.html', '--log', 'run.jsonl', '--state', 's.agd.onnx', '-o', 'o.onnx'];
    const run = (...more: string[]) => agdOnnx(folder, ...TRAIN, ...flags, ...files, ...more);
    const { code, out } = run();
    expect(code).toBe(0);
    expect(out).toMatch(/^private: gradients of samples clipped to 1 \(by ghost clipping\), noise 1\.1/m);
    expect(out).toMatch(/^epoch 1\/1 .* epsilon [\d.]+ /m);
    expect(out).toMatch(/^done after 16 steps; epsilon [\d.]+ at a delta of 0\.001$/m);
    expect(readFileSync(join(folder, 'run.html'), 'utf8')).toMatch(/Differentially private: epsilon [\d.]+/);
    expect(readFileSync(join(folder, 'run.jsonl'), 'utf8')).toMatch(/"privacy":\{"epsilon":/);
    const again = run('--epochs', '2');
    expect(again.out).toMatch(/16 steps already done/);
    expect(again.out).not.toMatch(/results differ/);
    expect(agdOnnx(folder, ...TRAIN, ...flags, ...files, '--epochs', '3', '--batch-size', '8').code).not.toBe(
      0,
    );
  });

  it('is an option of a configuration, and of inject', async () => {
    const folder = await workplace();
    const config = { dpSgd: { clip: 1, noise: 2 }, loss: { kind: 'cross-entropy' } };
    writeFileSync(join(folder, 'private.json'), JSON.stringify(config));
    const injected = agdOnnx(folder, 'inject', 'model.onnx', '--config', 'private.json', '-o', 'p.agd.onnx');
    expect(injected.out).toMatch(/private: gradients of samples within 1, noise 2, by ghost clipping/);
    const { code, out } = agdOnnx(folder, 'train', 'p.agd.onnx', '--data', 'train.npz', '-o', 'o.onnx');
    expect({ code, out }).toMatchObject({ code: 0, out: expect.stringMatching(/epsilon [\d.]+ at a delta/) });
    const chosen = agdOnnx(
      folder,
      ...TRAIN,
      '--dp-sgd',
      'clip=1',
      '--dp-epsilon',
      '2',
      '--verbose',
      '-o',
      'o.onnx',
    );
    expect(chosen.out).toMatch(/epsilon will be 2\.00/);
  });

  it.each([
    ['clip=1,nois=1', /Unknown setting 'nois'; did you mean 'noise'/],
    ['clip=0,noise=1', /clip must be a number above 0/],
  ])('%s is rejected', (text, message) => {
    expect(() => PRIVACY_OPTIONS.dpSgd.parse(text)).toThrow(message);
  });

  it.each([
    [['--dp-sgd', 'noise=1'], /--dp-sgd: needs the norm to clip to, as clip=1,noise=1\.1/],
    [['--dp-sgd', 'clip=1,noise=1', '--lazy-rows', 'w'], /cannot be combined/],
    [['--dp-epsilon', '2'], /add --dp-sgd clip=1/],
  ])('%j is refused', async (flags, message) => {
    const { code, err } = agdOnnx(await workplace(), ...TRAIN, ...flags);
    expect(code).toBe(1);
    expect(err).toMatch(message);
    expect(err.trim().split('\n')).toHaveLength(1);
  });
});

describe('--memory', () => {
  // Each part size that is tried is a process.
  const SMALL = [...TRAIN.slice(0, 2), '--data', 'test.npz', '--loss', 'cross-entropy', '--batch-size', '2'];

  it('computes a batch as a whole if it fits, and says so', async () => {
    const folder = await workplace();
    const { code, out } = agdOnnx(
      folder,
      ...SMALL,
      ...['--memory', '4GB', '--state', 's.agd.onnx', '--save-every', '8steps', '--keep-last', '2'],
      ...['-o', 'o.onnx'],
    );
    expect(code).toBe(0);
    expect(existsSync(join(folder, 's.agd.onnx'))).toBe(true);
    expect(out).toMatch(/^memory: batches of 2 as a whole: \d+ MB expected, of 4000 MB$/m);
    expect(out).toMatch(/32 steps of 2 per epoch/);
  }, 120_000);

  it('says what the least is, of what is too little', async () => {
    const { code, err } = agdOnnx(await workplace(), ...SMALL, '--memory', '10MB');
    expect(code).toBe(1);
    expect(err).toMatch(/does not fit into --memory 10MB: it needs at least \d+MB, in 2 parts of 1/);
  }, 120_000);

  it('is for models without a training step, and for amounts', async () => {
    const folder = await workplace();
    expect(agdOnnx(folder, ...TRAIN, '--memory', 'lots').err).toMatch(/expected an amount of memory, as 8GB/);
    agdOnnx(folder, 'inject', 'model.onnx', '--loss', 'cross-entropy', '-o', 'm.agd.onnx');
    const { err } = agdOnnx(folder, 'train', 'm.agd.onnx', '--data', 'train.npz', '--memory', '1GB');
    expect(err).toMatch(/part of m\.agd\.onnx already/);
  });
});
