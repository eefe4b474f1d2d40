/** The operators that a reduced build of ONNX Runtime needs, as its own tools list them. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';
import { beforeAll, describe, expect, it } from 'vitest';
import { saveModel } from '../../src/graph/files.js';
import { FunctionDef, Node, Value } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { normalized, Sketch } from '../sample.js';
import { commandsIn, workplace } from './run.js';

let folder: string;
let { run, fail }: ReturnType<typeof commandsIn> = commandsIn('.');
const file = (name: string) => join(folder, name);

/** The operators of a configuration by domain and version, without their types. */
const parsed = (config: string) =>
  config
    .trim()
    .split('\n')
    .filter(line => !line.startsWith('#'))
    .flatMap(line => {
      const [domain, version, list] = line.split(';') as [string, string, string];
      const operators = list.replace(/\{.*?\}(?=,|$)/g, '').split(',');
      return operators.map(operator => `${domain} ${version} ${operator}`);
    });

const asOrt = async (from: string, to: string) => {
  const session = await InferenceSession.create(file(from), {
    logSeverityLevel: 4,
    optimizedModelFilePath: file(to),
    extra: { session: { save_model_format: 'ORT' } },
  });
  await session.release();
};

beforeAll(async () => {
  folder = await workplace();
  ({ run, fail } = commandsIn(folder));
  run('inject', 'model.onnx', '--loss', 'cross-entropy', '-o', 'model.agd.onnx');
});

describe('operators', () => {
  it('prints those of a forward model as convert_onnx_models_to_ort lists them, before and after fusions', () => {
    // The tool's files for both styles have these lines, but for what its optimizations replaced.
    expect(run('operators', 'model.onnx')).toBe('ai.onnx;13;Gemm,Tanh\ncom.microsoft;1;FusedGemm\n');
    expect(run('operators', 'model.onnx', '--types')).toBe(
      'ai.onnx;13;Gemm{"inputs": {"0": ["float"]}},Tanh{"inputs": {"0": ["float"]}}\n' +
        'com.microsoft;1;FusedGemm{"inputs": {"0": ["float"]}}\n',
    );
  });

  it('writes a file', () => {
    expect(run('operators', 'model.onnx', '-o', 'required.config')).toBe('');
    expect(readFileSync(file('required.config'), 'utf8')).toBe(run('operators', 'model.onnx'));
    expect(fail('operators', 'model.onnx', '-o', 'none/required.config')).toMatch(/Cannot write 'none/);
  });

  it('tells the types of all inputs and outputs as JSON', () => {
    const found = JSON.parse(run('operators', 'model.agd.onnx', '--json'));
    expect(found).toContainEqual({
      domain: 'ai.onnx',
      opset: 13,
      operator: 'GatherElements',
      inputs: [['float32'], ['int64']],
      outputs: [['float32']],
    });
    const gemm = found.find((o: { operator: string }) => o.operator === 'Gemm');
    expect(gemm.inputs).toEqual([['float32'], ['float32'], ['float32']]);
  });

  it('includes what an update in a branch computes', () => {
    run('inject', 'model.onnx', '--loss', 'cross-entropy', '--accumulate', '2', '-o', 'parts.agd.onnx');
    const [once, parts] = ['model.agd.onnx', 'parts.agd.onnx'].map(name => parsed(run('operators', name)));
    expect(parts).toEqual(expect.arrayContaining(once!.filter(line => !line.includes('com.microsoft'))));
    expect(parts!.filter(line => /\bIf$/.test(line))).toHaveLength(1);
  });

  it('includes those of evaluation and of the exported model', async () => {
    await saveModel(normalized({ dropout: true }), file('norm.onnx'));
    run('inject', 'norm.onnx', '--loss', 'cross-entropy', '--dropout', 'eval', '-o', 'norm.agd.onnx');
    const found = parsed(run('operators', 'norm.agd.onnx'));
    // The step computes statistics of its own, and drops nothing: only the exported model has these.
    expect(found).toEqual(
      expect.arrayContaining([
        expect.stringMatching(/ Dropout$/),
        expect.stringMatching(/ BatchNormalization$/),
      ]),
    );
  });

  it('includes those of functions', async () => {
    const s = new Sketch();
    const y = s.add('Twice', [s.input('x', ['n'])], 'y');
    y.producer!.domain = 'own';
    y.type = { kind: 'tensor', dtype: 'float32', shape: ['n'] };
    const model = s.model([y]);
    model.opsetImports.set('own', 1);
    const twice = new FunctionDef('own', 'Twice');
    const [a, b] = [new Value('a'), new Value('b')];
    twice.body.inputs = [a];
    twice.body.append(new Node('Softplus', [a], [b]));
    twice.body.outputs = [b];
    twice.opsetImports = new Map([['', 18]]);
    model.functions = [twice];
    await saveModel(model, file('function.onnx'));
    expect(run('operators', 'function.onnx')).toBe('ai.onnx;1;Softplus\n');
  });

  it('lists the three types of OneHot together', async () => {
    const s = new Sketch();
    const depth = s.weight('depth', Tensor.from('int32', [1], Int32Array.of(4)));
    const values = s.weight('values', Tensor.from('float32', [2], Float32Array.of(0, 1)));
    await saveModel(
      s.model([s.add('OneHot', [s.input('x', ['n'], 'int64'), depth, values], 'y')]),
      file('hot.onnx'),
    );
    expect(run('operators', 'hot.onnx', '--types')).toContain(
      'OneHot{"custom": [["int64_t", "float", "int32_t"]]}',
    );
  });

  it('reads files in the format of ONNX Runtime as they are', async () => {
    await asOrt('model.onnx', 'model.ort');
    expect(run('operators', 'model.ort')).toBe('ai.onnx;13;Gemm\ncom.microsoft;1;FusedGemm\n');
  });

  it.each([
    [
      'a damaged .ort file',
      ['operators', 'damaged.ort'],
      /damaged\.ort: Not a model in ONNX Runtime's format, or damaged/,
    ],
    ['a file that is no model', ['operators', 'train.npz'], /train\.npz: Not an ONNX file/],
    [
      'both formats',
      ['operators', 'model.onnx', '--json', '--types'],
      /--json cannot be combined with --types/,
    ],
    [
      'prediction with an .ort file',
      ['predict', 'model.ort', '--data', 'test.npz', '-o', 'p.npz'],
      /model\.ort is in ONNX Runtime's own format \(\.ort\)/,
    ],
    [
      'training of an .ort file',
      ['train', 'model.ort', '--data', 'train.npz', '--loss', 'cross-entropy'],
      /use the ONNX file that it was converted from/,
    ],
  ])('refuses %s in one line', async (_, args, message) => {
    await asOrt('model.onnx', 'model.ort');
    writeFileSync(file('damaged.ort'), readFileSync(file('model.ort')).subarray(0, 600));
    const line = fail(...args);
    expect(line).toMatch(message);
    expect(line).not.toContain('\n');
  });
});

const { ONNXRUNTIME_PYTHON: PYTHON = 'python3' } = process.env;
const hasTool =
  spawnSync(PYTHON, ['-c', 'import onnx, flatbuffers, onnxruntime.tools.convert_onnx_models_to_ort'])
    .status === 0;
const missing = `${PYTHON} (ONNXRUNTIME_PYTHON) lacks onnxruntime, onnx or flatbuffers`;

describe.skipIf(!hasTool)(`ONNX Runtime's own tool${hasTool ? '' : `: ${missing}`}`, () => {
  it('needs nothing of a training step that is not listed, and reads the list', { timeout: 120_000 }, () => {
    const tool = ['-m', 'onnxruntime.tools.convert_onnx_models_to_ort', '--enable_type_reduction'];
    const made = spawnSync(PYTHON, [...tool, '--output_dir', 'ort', 'model.agd.onnx'], {
      cwd: folder,
      encoding: 'utf8',
    });
    expect(made).toMatchObject({ status: 0 });
    run('operators', 'model.agd.onnx', '--types', '-o', 'ours.config');
    const code = `
import json, sys
from onnxruntime.tools.reduced_build_config_parser import parse_config
def read(path):
    ops, types = parse_config(path, True)
    return [f'{d} {v} {o}' for d in ops for v in ops[d] for o in ops[d][v]], types.get_cpp_entries()
print(json.dumps([read(path) for path in sys.argv[1:]]))`;
    const styles = ['', '.with_runtime_opt'].map(
      s => `ort/model.agd.required_operators_and_types${s}.config`,
    );
    const { stdout } = spawnSync(PYTHON, ['-c', code, 'ours.config', ...styles], {
      cwd: folder,
      encoding: 'utf8',
    });
    const [[operators, types], ...tools] = JSON.parse(stdout) as [string[], string[]][];
    for (const [theirs, theirTypes] of tools) {
      expect(operators).toEqual(expect.arrayContaining(theirs!));
      expect(types).toEqual(expect.arrayContaining(theirTypes!));
    }
  });
});
