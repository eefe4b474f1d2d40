/** The reference pages and the schema that follow from the registry of options and the optimizers' own tables. */
import { toJsonSchema } from '@valibot/to-json-schema';
import * as v from 'valibot';
import { flagOf, kebab, type Options, optionsOf } from '../../cli/flags.js';
import { COMMAND_NAMES, loadCommand } from '../../cli/program.js';
import { GROUPS, type Option, type OptionType, types } from '../../src/command/startup.js';
import { OPTIMIZERS } from '../../src/ops/optimizers/index.js';
import type { OptimizerOption } from '../../src/ops/optimizers/optimizer.js';
import { table } from './pages.js';

type CommandName = (typeof COMMAND_NAMES)[number];

const MADE = 'Made by `npm run docs`; a test fails where it is out of date.';

const own = new Map<CommandName, Options>();
for (const name of COMMAND_NAMES) own.set(name, (await loadCommand(name)).options);

/** Every option of every command by its flag and what is said of it, with the commands that have it. */
function everyOption(): Map<string, { name: string; option: Option; commands: CommandName[] }> {
  const found = new Map<string, { name: string; option: Option; commands: CommandName[] }>();
  for (const command of COMMAND_NAMES)
    for (const [name, option] of optionsOf(command, own.get(command)!)) {
      const key = `${flagOf(name, option)} ${option.help}`;
      const entry = found.get(key) ?? { name, option, commands: [] };
      entry.commands.push(command);
      found.set(key, entry);
    }
  return found;
}

const described = (type: OptionType) =>
  (v.getDescription(type as never) ?? String((type as unknown as { message: string }).message)).replace(
    /^a text$/,
    'text',
  );

const cell = (text: string) => text.replaceAll('|', '\\|');

/** docs/reference/options.md */
export function optionsPage(): string {
  const all = [...everyOption().values()];
  const sections = GROUPS.flatMap(group => {
    const rows = all
      .filter(({ option }) => option.group === group)
      .map(({ name, option, commands }) => [
        `\`--${flagOf(name, option)}\`${option.alias ? `, \`-${option.alias}\`` : ''}`,
        cell(option.help),
        cell(described(option.type)),
        cell(option.required ? 'required' : (option.shown ?? '')),
        `\`${option.path ?? name}\``,
        commands.join(', '),
      ]);
    if (!rows.length) return [];
    return [
      `## ${group}\n\n${table(['flag', 'what it does', 'value', 'default', 'in a file', 'commands'], rows)}`,
    ];
  });
  return `# Options

All flags of all commands. ${MADE}
\`agd-onnx COMMAND --help\` shows the common ones of a command, \`--help-all\` all.

- **in a file**: the name in a \`--config\` file and in the library; \`loss.kind\` is \`kind\` within \`loss\`.
- An option of one command alone (\`--out\`, \`--state\` ...) is a flag, and can be in a file for that command too.
- A flag whose value is true or false has a form that switches it off: \`--no-decay-bias-norm\`.
- Flags that take a list (globs, pairs) are repeated. Any other flag that is given twice is an error.
- The file of \`--config\` has [a JSON schema](config.schema.json); name it as \`"$schema"\` to have an editor check it.

${sections.join('\n\n')}
`;
}

/** The options tables of docs/reference/optimizers.md. */
export function optimizerTables(): string {
  return Object.values(OPTIMIZERS)
    .map(({ name, options }) => {
      const rows = Object.entries<OptimizerOption>(options).map(
        ([option, { type, default: value, help }]) => [
          `\`--${kebab(option)}\``,
          `\`${option}\``,
          shown(value),
          described(type),
          help,
        ],
      );
      return `### \`${name}\`\n\n${table(['flag', 'in the library', 'default', 'value', 'what it does'], rows)}`;
    })
    .join('\n\n');
}

const shown = (value: unknown) =>
  value === undefined
    ? 'none'
    : typeof value === 'boolean'
      ? value
        ? 'on'
        : 'off'
      : String(value).replace(',', ', ');

/** docs/reference/config.schema.json */
export function configSchema(): string {
  const root: Record<string, object> = {
    $schema: { type: 'string', description: 'This schema, for editors' },
    model: { type: 'string', description: 'Model file, where the command line names none' },
  };
  const nested: Record<string, Record<string, object>> = {};
  for (const { name, option, commands } of everyOption().values()) {
    const path = option.path ?? name;
    if (path === 'config' || !commands.some(command => hasConfig(command))) continue;
    const [first, second] = path.split('.') as [string, string?];
    const schema = { ...valueSchema(option), description: `${option.help} (${commands.join(', ')})` };
    if (second === undefined) root[first] ??= schema;
    else {
      nested[first] ??= {};
      nested[first][second] ??= schema;
    }
  }
  // A loss may also be one that the model computes.
  const kind = nested.loss!.kind as {
    anyOf: [object, { anyOf: { enum?: string[] }[] }];
    description: string;
  };
  const { anyOf: forms } = kind.anyOf[1];
  forms.find(form => form.enum)!.enum!.push('output');
  nested.loss!.kind = { description: kind.description, anyOf: forms };
  for (const [name, properties] of Object.entries(nested)) {
    const object = { type: 'object', properties, additionalProperties: false };
    const short = { loss: 'kind', optimizer: 'name' }[name];
    root[name] = short ? { anyOf: [properties[short], object] } : object;
  }
  const schema = {
    $schema: 'http://json-schema.org/draft-07/schema#',
    title: 'Options of agd-onnx in a file for --config',
    type: 'object',
    properties: root,
    additionalProperties: false,
  };
  return `${JSON.stringify(schema, null, 2)}\n`;
}

const hasConfig = (command: CommandName) =>
  optionsOf(command, own.get(command)!).some(([name]) => name === 'config');

function valueSchema({ type, parse, parseAll }: Option): object {
  const { $schema: _, ...schema } = toJsonSchema(type as never, { errorMode: 'ignore' });
  if (schema.maximum === Number.MAX_SAFE_INTEGER) delete schema.maximum;
  if (schema.minimum === Number.MIN_SAFE_INTEGER) delete schema.minimum;
  // What the flag's text is read from may be written as that text, and a list of one text as the text.
  if (type === types.texts) return { anyOf: [{ type: 'string' }, schema] };
  if (parseAll) {
    const listed = { type: 'array', items: { type: 'string' }, minItems: 1 };
    return { anyOf: [{ type: 'string' }, listed, schema] };
  }
  return parse
    ? { anyOf: [{ type: 'string' }, Object.keys(schema).length > 1 ? schema : { type: 'object' }] }
    : schema;
}
