/** Pages that follow from the code are up to date; `npm run docs` writes them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { apiPage } from './api-page.js';
import { eventSchema, eventsPage } from './event-pages.js';
import { configSchema, optimizerTables, optionsPage } from './option-pages.js';
import { ROOT } from './pages.js';

const REFERENCE = '../../docs/reference';

it('options.md is up to date', () => expect(optionsPage()).toMatchFileSnapshot(`${REFERENCE}/options.md`));
it('config.schema.json is up to date', () =>
  expect(configSchema()).toMatchFileSnapshot(`${REFERENCE}/config.schema.json`));
it('events.md is up to date', () => expect(eventsPage()).toMatchFileSnapshot(`${REFERENCE}/events.md`));
it('events.schema.json is up to date', () =>
  expect(eventSchema()).toMatchFileSnapshot(`${REFERENCE}/events.schema.json`));
it('api.md is up to date', () => expect(apiPage()).toMatchFileSnapshot(`${REFERENCE}/api.md`));
it("optimizers.md's tables are up to date", () => {
  const path = join(ROOT, 'docs/reference/optimizers.md');
  const page = readFileSync(path, 'utf8');
  const expected = page.replace(
    /(<!-- options -->\n\n).*?(\n\n<!-- end -->)/s,
    (_, start, end) => start + optimizerTables() + end,
  );
  return expect(expected).toMatchFileSnapshot(`${REFERENCE}/optimizers.md`);
});
