/** The commands of the CI workflows, and of the script that they call, exist in this project. */
import { accessSync, constants, existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';

const ROOT = join(import.meta.dirname, '..');
const FOLDER = '.github/workflows';
const read = (file: string) => readFileSync(join(ROOT, file), 'utf8');
const { name, bin, engines, scripts } = JSON.parse(read('package.json'));

type Job = {
  'runs-on': string;
  strategy?: { matrix: Record<string, unknown[]> };
  steps: { run?: string; uses?: string; with?: Record<string, unknown> }[];
};
const workflows = readdirSync(join(ROOT, FOLDER)).map(
  file => [file, Object.entries<Job>(parse(read(`${FOLDER}/${file}`)).jobs)] as const,
);

/** npm's own commands that the workflows use. */
const NPM = ['ci', 'init', 'install'];

/** The commands in shell text that this project does not have. */
function unknownCommands(text: string): string[] {
  const commands = text
    .split('\n')
    .filter(line => !line.trimStart().startsWith('#'))
    .flatMap(line => line.split(/&&|\|\||;|\(|\)/))
    .map(command => command.trim().replace(/^(\w+=\S* )+/, ''));
  return commands.filter(command => {
    const [program, verb, ...rest] = command.split(/\s+/);
    if (program === 'npm') {
      const script = verb === 'run' ? rest.find(word => !word.startsWith('-')) : verb;
      return !(script! in scripts) && !(verb !== 'run' && NPM.includes(verb!));
    }
    if (program === 'npx') return !(verb! in bin) || !existsSync(join(ROOT, `cli/commands/${rest[0]}.ts`));
    return program!.startsWith('.') && !existsSync(join(ROOT, program!));
  });
}

it('finds unknown commands', () => {
  const text =
    '# npm run comment\nA=1 npm run biuld && npm ci\nnpm tset\nnpx agd-onnx trian\n.ci/walk\necho npm';
  expect(unknownCommands(text)).toEqual(['npm run biuld', 'npm tset', 'npx agd-onnx trian', '.ci/walk']);
});

it('finds the workflow of the tests', () => {
  expect(workflows.flatMap(([, jobs]) => jobs.map(([job]) => job))).toContain('test');
});

describe.each(workflows)('%s', (_, jobs) => {
  it.each(jobs)('runs commands that exist: %s', (_, { steps }) => {
    const commands = steps.flatMap(step => (step.run === undefined ? [] : [step.run]));
    expect(commands.length).toBeGreaterThan(0);
    expect(commands.flatMap(unknownCommands)).toEqual([]);
  });

  it.each(jobs)('defines the matrix values that it uses: %s', (_, job) => {
    const used = [...JSON.stringify(job).matchAll(/\$\{\{ matrix\.(\w+) \}\}/g)].map(([, key]) => key!);
    expect(used.filter(key => !job.strategy?.matrix[key]?.length)).toEqual([]);
  });
});

it('tests the oldest Node version that package.json supports', () => {
  const versions = workflows.flatMap(([, jobs]) =>
    jobs.flatMap(([, job]) => job.strategy?.matrix.node ?? []),
  );
  expect(Math.min(...(versions as number[]))).toBe(Number.parseInt(engines.node.replace(/\D*/, ''), 10));
});

it('packs a file with the name that the workflows install', () => {
  const packed = [...read(`${FOLDER}/ci.yml`).matchAll(/([\w-]+)-\*\.tgz/g)].map(([, prefix]) => prefix);
  expect(new Set(packed)).toEqual(new Set([name]));
});

it('calls a script that can run, with commands that exist', () => {
  if (process.platform !== 'win32') accessSync(join(ROOT, '.ci/run'), constants.X_OK);
  expect(unknownCommands(read('.ci/run'))).toEqual([]);
});

it('has issue forms that are YAML', () => {
  const forms = readdirSync(join(ROOT, '.github/ISSUE_TEMPLATE'));
  for (const form of forms) expect(parse(read(`.github/ISSUE_TEMPLATE/${form}`))).toBeTypeOf('object');
});
