import { describe, expect, test } from 'vitest';
import { AgdError, printable } from '../../src/graph/errors.js';

const message = (text: string) => new AgdError('io', text).message;

describe('the message of an error', () => {
  test('is one line that steers no terminal', () => {
    expect(message('reads \x1b[31mRED\x1b]0;title\x07\x9b2J\u202e\u2028 of \r\n  a\tname ')).toBe(
      'reads \ufffd[31mRED\ufffd]0;title\ufffd\ufffd2J\ufffd\ufffd of a\ufffdname',
    );
  });

  test('has an end, however long the names in it are', () => {
    const text = message(`Tensor '${' '.repeat(2e5)}x${'\n'.repeat(2e5)}' is missing.`);
    expect(text.length).toBeLessThanOrEqual(2000);
    expect(text).toMatch(/^Tensor '.*' is missing\.$/);
  });
});

test('letters of any language are printable', () => {
  expect(printable('größe 形 👩‍🔬 \u00a0')).toBe('größe 形 👩‍🔬 \u00a0');
});
