/** docs/reference/config.schema.json accepts what --config accepts. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT } from './pages.js';

const schema = JSON.parse(readFileSync(join(ROOT, 'docs/reference/config.schema.json'), 'utf8'));

/** The configuration that docs/explain/agd.md shows. */
const [, shown] = /```json\n(.*?)```/s.exec(readFileSync(join(ROOT, 'docs/explain/agd.md'), 'utf8'))!;

describe('the schema of configuration files', () => {
  it('knows every key that the documentation shows', () => {
    const keys = Object.keys(JSON.parse(shown!));
    expect(keys.filter(key => !Object.hasOwn(schema.properties, key))).toEqual([]);
  });
  it('has ranges, choices and descriptions', () => {
    expect(schema.properties.epochs).toMatchObject({ type: 'integer', minimum: 1 });
    expect(schema.properties.device.anyOf).toMatchObject([
      { enum: ['auto', 'cpu', 'cuda', 'webgpu'] },
      { type: 'string', pattern: expect.stringContaining('cuda:') },
    ]);
    const optimizer = schema.properties.optimizer.anyOf[1].properties;
    expect(optimizer.name.enum).toContain('adamw');
    expect(optimizer.weightDecay).toMatchObject({ type: 'number', minimum: 0 });
    expect(schema.properties.epochs.description).toMatch(/Passes over the data/);
  });
  it('refuses unknown keys, and knows none that only a program can give', () => {
    expect(schema.additionalProperties).toBe(false);
    for (const name of ['values', 'original', 'updates', 'config', 'schema'])
      expect(schema.properties).not.toHaveProperty(name);
    expect(schema.properties).toHaveProperty('$schema');
  });
});
