/** The reference page and the JSON schema of the events of a training run. */
import { type JsonSchema, toJsonSchema } from '@valibot/to-json-schema';
import type * as v from 'valibot';
import { EVENT_SCHEMAS } from '../../src/runtime/train/events.js';
import { table } from './pages.js';

/** What a line of JSON may hold: numbers that are not finite are null, and a resumed run's history is left out. */
function jsonSchema(schema: v.GenericSchema): JsonSchema {
  const { $schema: _, ...rest } = toJsonSchema(schema, {
    errorMode: 'ignore',
    overrideSchema: ({ valibotSchema }) => {
      if (valibotSchema.type !== 'custom') return undefined;
      const { message } = valibotSchema as unknown as { message: string };
      if (message === 'a number') return { type: ['number', 'null'] };
      if (message === 'a whole number') return { type: ['integer', 'null'] };
      return { type: 'object' };
    },
  });
  return rest;
}

const schemas = EVENT_SCHEMAS.map(schema => {
  const event = jsonSchema(schema as v.GenericSchema);
  delete event.properties?.history;
  return event;
});

/** docs/reference/events.schema.json */
export function eventSchema(): string {
  const schema = {
    $schema: 'http://json-schema.org/draft-07/schema#',
    title: 'An event of a training run: a line of --log and --json',
    oneOf: schemas,
  };
  // Later releases may add fields.
  const open = (key: string, value: unknown) =>
    key === 'additionalProperties' && value === false ? undefined : value;
  return `${JSON.stringify(schema, open, 2)}\n`;
}

/** docs/reference/events.md */
export function eventsPage(): string {
  const sections = schemas.map(({ description, properties = {}, required = [] }) => {
    const { type, time: _, ...fields } = properties as Record<string, JsonSchema>;
    const rows = Object.entries(fields).flatMap(([name, field]) =>
      rowsOf(name, field, required.includes(name)),
    );
    return `## ${type!.const}\n\n${description}\n\n${table(['field', 'value', 'what it is'], rows)}`;
  });
  return `# Events

What a training run reports: a line of JSON each with \`--json\` (on standard output) and \`--log FILE\`, and in the library
the type \`TrainEvent\`, which \`runTrainJob\` and \`trainInWorker\` report and \`trainingLoop\` yields. Made by \`npm run docs\`; a
test fails where it is out of date. A line can be checked with [a JSON schema](events.schema.json), which the package exports
as \`agd-onnx/events.schema.json\`.

- Every event has \`type\`, the heading below, and \`time\`, in milliseconds since 1970. Steps that the runtime does in one run
  are reported together; their times are spread evenly over it.
- Fields marked with ? are left out where there is nothing to say. Numbers that are not finite are \`null\` in JSON.
- A release may add events and fields, so ignore those that you do not know. Those listed here stay as they are, as
  [stability](../explain/stability.md) says.

${sections.join('\n\n')}
`;
}

function rowsOf(name: string, field: JsonSchema, required: boolean): string[][] {
  const { properties, required: needed = [], items } = field;
  const row = [`\`${name}${required ? '' : '?'}\``, kindOfValue(field), field.description ?? ''];
  const inner = properties
    ? { path: name, properties, needed }
    : isObject(items) && items.properties
      ? { path: `${name}[]`, properties: items.properties, needed: items.required ?? [] }
      : undefined;
  const rows = Object.entries(inner?.properties ?? {}).flatMap(([key, value]) =>
    rowsOf(`${inner!.path}.${key}`, value as JsonSchema, inner!.needed.includes(key)),
  );
  return [row, ...rows];
}

const isObject = (x: unknown): x is JsonSchema => typeof x === 'object' && !Array.isArray(x);

function kindOfValue({ type, enum: choices, const: only, items }: JsonSchema): string {
  if (only !== undefined) return `\`${only}\``;
  if (choices) return choices.map(c => `\`${c}\``).join(' or ');
  if (type === 'array') return isObject(items) ? `list of ${plural(kindOfValue(items))}` : 'list';
  const [name] = [type].flat();
  return (
    { integer: 'whole number', boolean: 'true or false', string: 'text' }[name as string] ?? name ?? 'value'
  );
}

const plural = (word: string) =>
  /list/.test(word) ? word.replace('list', 'lists') : word === 'true or false' ? word : `${word}s`;
