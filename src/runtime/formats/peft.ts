/** Adapters in the files of PEFT: a folder with adapter_model.safetensors and adapter_config.json. */
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { toUtf8 } from '../../graph/bytes.js';
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { writeFileAtomic } from '../../graph/files.js';
import type { Model } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { adaptedLayers } from '../../passes/adapters/adapted-layers.js';
import { adapterNames } from '../../passes/adapters/adapter-names.js';
import { type AdapterRecord, readAdapters } from '../../passes/adapters/adapter-record.js';
import { magnitudeToPeft, toPeft, transposed } from '../../passes/adapters/peft-layout.js';
import { type PromptRecord, readPrompt } from '../../passes/adapters/prompt-record.js';
import { readScales, type ScaleRecord } from '../../passes/adapters/scale-record.js';
import type { LoadedAdapters, LoadedPrompt, PeftAdapter, PeftScale } from '../../passes/options/adapters.js';
import { isObject } from '../../passes/options/option.js';
import { readSafetensors, writeSafetensors } from '../data/safetensors.js';

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';
const PREFIX = 'base_model.model.';
/** The methods whose folders can be read. */
const READ = ['LORA', 'IA3', 'PROMPT_TUNING', 'PREFIX_TUNING'];

/** Folders of a model with several methods, in the order in which PEFT merges one and loads the next. */
const PARTS = ['lora', 'ia3', 'prompt', 'prefix'];

/**
 * A folder of PEFT, or one with several of them as `writePeft` makes it. Throws `bad-data` for what is not an adapter of this
 * kind, `io` where a file cannot be read.
 */
export async function readPeft(folder: string): Promise<LoadedAdapters> {
  const found = existsSync(join(folder, CONFIG))
    ? []
    : PARTS.filter(p => existsSync(join(folder, p, CONFIG)));
  if (!found.length) return readMethod(folder);
  const parts = await Promise.all(found.map(part => readMethod(join(folder, part))));
  return Object.assign({}, ...parts, { name: folder, adapters: parts.flatMap(part => part.adapters) });
}

async function readMethod(folder: string): Promise<LoadedAdapters> {
  const config = await readConfig(join(folder, CONFIG));
  const { tensors } = await readSafetensors(join(folder, WEIGHTS));
  if (!tensors.size) throw new AgdError('bad-data', `${folder} holds no adapter: ${WEIGHTS} is empty.`);
  if (config.peft_type === 'IA3')
    return { name: folder, adapters: [], scales: readVectors(folder, config, tensors) };
  if (config.peft_type !== 'LORA')
    return { name: folder, adapters: [], prompt: readVirtual(folder, config, tensors) };
  const found = new Map<string, { a?: Tensor; b?: Tensor; magnitude?: Tensor; isEmbedding: boolean }>();
  for (const [name, tensor] of tensors) {
    const [, module, embedding, side] =
      /^(?:base_model\.model\.)?(.+)\.lora_(embedding_)?([AB]|magnitude_vector)(?:\.default)?(?:\.weight)?$/.exec(
        name,
      ) ?? [];
    if (module === undefined)
      throw new AgdError('bad-data', `${folder}: '${name}' is not part of a LoRA adapter that can be read.`);
    const entry = found.get(module) ?? { isEmbedding: embedding !== undefined };
    entry.isEmbedding ||= embedding !== undefined;
    entry[side === 'A' ? 'a' : side === 'B' ? 'b' : 'magnitude'] = tensor;
    found.set(module, entry);
  }
  const adapters = [...found].map(([module, { a, b, magnitude, isEmbedding }]): PeftAdapter => {
    if (!a || !b) throw new AgdError('bad-data', `${folder}: '${module}' lacks lora_${a ? 'B' : 'A'}.`);
    if (config.use_dora === true && !magnitude)
      throw new AgdError('bad-data', `${folder}: '${module}' lacks lora_magnitude_vector.`);
    const kind = isEmbedding ? 'embedding' : a.dims.length > 2 ? 'conv' : 'linear';
    const patterned = (pattern: unknown, otherwise: number) => valueFor(pattern, module) ?? otherwise;
    const r = a.dims[0]!;
    const alpha = patterned(config.alpha_pattern, Number(config.lora_alpha ?? 8));
    const dropout = Number(config.lora_dropout ?? 0);
    return { module, kind, a, b, magnitude, r, alpha, dropout, rslora: config.use_rslora === true };
  });
  return { name: folder, adapters };
}

/** The embeddings of a prompt, or the keys and values of a prefix. */
function readVirtual(
  folder: string,
  config: Record<string, unknown>,
  tensors: ReadonlyMap<string, Tensor>,
): LoadedPrompt {
  if (config.prefix_projection === true)
    throw new AgdError('bad-data', `${folder}: prefix_projection cannot be read.`);
  const value = tensors.get('prompt_embeddings');
  if (value?.dims.length !== 2 || !isFloat(value.dtype))
    throw new AgdError('bad-data', `${folder}: ${WEIGHTS} has no matrix 'prompt_embeddings'.`);
  const others = [...tensors].flatMap(([name, tensor]) =>
    tensor === value ? [] : [[name.replace(/^base_model\.(model\.)?/, ''), tensor] as const],
  );
  const kind = config.peft_type === 'PREFIX_TUNING' ? 'prefix' : 'prompt';
  return { kind, name: folder, value, others: new Map(others) };
}

/** The vectors of IA3. Of feed-forward layers they are rows, of others columns; of convolutions the configuration tells. */
function readVectors(
  folder: string,
  config: Record<string, unknown>,
  tensors: ReadonlyMap<string, Tensor>,
): PeftScale[] {
  const listed = config.feedforward_modules;
  const isListed = (module: string) =>
    typeof listed === 'string'
      ? new RegExp(`^(?:${listed})$`).test(module)
      : Array.isArray(listed) && listed.some(end => module === end || module.endsWith(`.${end}`));
  return [...tensors].map(([name, value]) => {
    const module = /^(?:base_model\.model\.)?(.+)\.ia3_l(?:\.default)?$/.exec(name)?.[1];
    if (module === undefined)
      throw new AgdError('bad-data', `${folder}: '${name}' is not part of an IA3 adapter that can be read.`);
    const isColumn = value.dims.length === 2 && value.dims[1] === 1 && value.size > 1;
    const isRow = value.dims.length === 2 && value.dims[0] === 1 && value.size > 1;
    return { module, value, feedforward: isRow || (!isColumn && isListed(module)) };
  });
}

/** The value for a module of PEFT's rank_pattern and alpha_pattern: keys are ends of names. */
function valueFor(pattern: unknown, module: string): number | undefined {
  if (!isObject(pattern)) return undefined;
  const key = Object.keys(pattern).find(k => module === k || module.endsWith(`.${k}`));
  const value = key === undefined ? undefined : pattern[key];
  return typeof value === 'number' ? value : undefined;
}

async function readConfig(path: string): Promise<Record<string, unknown>> {
  const text = await readFile(path, 'utf8').catch((error: Error) => {
    throw new AgdError('io', `Cannot read ${path}: ${error.message}.`);
  });
  let config: unknown;
  try {
    config = JSON.parse(text);
  } catch (error) {
    throw new AgdError('bad-data', `${path} is not JSON: ${(error as Error).message}.`);
  }
  const type = isObject(config) ? config.peft_type : undefined;
  if (!isObject(config) || !READ.includes(type as string))
    throw new AgdError(
      'bad-data',
      `${path} is of an adapter of type ${type ?? 'unknown'}; those that can be read are ${READ.join(', ')}.`,
    );
  for (const name of ['fan_in_fan_out', 'lora_bias'])
    if (config[name] === true) throw new AgdError('bad-data', `${path}: ${name} cannot be read.`);
  const isVirtual = /^(PROMPT|PREFIX)_TUNING$/.test(String(config.peft_type));
  if (!isVirtual && config.modules_to_save && (config.modules_to_save as unknown[]).length)
    throw new AgdError('bad-data', `${path}: modules_to_save cannot be read.`);
  return config;
}

/** A model's initializers by name. Throws `bad-option` where none is of an adapter. */
export function valuesOf(model: Model): (name: string) => Tensor {
  if (!adapterNames(model).size)
    throw new AgdError('bad-option', 'The model has no adapters: train it with --lora first.');
  const tensors = new Map([...model.graph.initializers].map(([v, tensor]) => [v.name, tensor]));
  return name => {
    const tensor = tensors.get(name);
    if (tensor) return tensor;
    throw new AgdError(
      'invalid-model',
      `The model lacks '${name}' of its adapters: use the file as agd-onnx wrote it.`,
    );
  };
}

/**
 * Writes a folder that PEFT reads: the names of modules are those of the file's weights. PEFT has one method in a folder: of
 * several, each has a folder in this one, `lora`, `ia3`, `prompt` or `prefix`. Returns the folders with adapters, in the order
 * in which to load them, each but the last merged before the next.
 */
export async function writePeft(model: Model, folder: string): Promise<string[]> {
  const value = valuesOf(model);
  const [adapters, scales, prompt] = [readAdapters(model), readScales(model), readPrompt(model)];
  const parts: [string, Written][] = [
    ...(adapters.length ? [['lora', lora(adapters, value)] as [string, Written]] : []),
    ...(scales.length ? [['ia3', ia3(scales, value)] as [string, Written]] : []),
    ...(prompt ? [[prompt.kind, virtual(model, prompt, value)] as [string, Written]] : []),
  ];
  const folders = parts.map(([name]) => (parts.length > 1 ? join(folder, name) : folder));
  const others = parts.length > 1 ? [CONFIG, WEIGHTS] : PARTS.map(part => join(part, CONFIG));
  const other = others.find(name => existsSync(join(folder, name)));
  if (other !== undefined)
    throw new AgdError(
      'bad-option',
      `'${folder}' has ${other}, of other adapters than the model's: choose another folder.`,
    );
  for (const [i, [, written]] of parts.entries()) await writeMethod(written, folders[i]!);
  return folders;
}

async function writeMethod({ tensors, config }: Written, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true }).catch((error: Error) => {
    throw new AgdError('io', `Cannot make the folder '${folder}': ${error.message}.`);
  });
  await writeSafetensors(join(folder, WEIGHTS), tensors, { format: 'pt' });
  const all = { task_type: null, base_model_name_or_path: null, inference_mode: true, ...config };
  await writeFileAtomic(join(folder, CONFIG), [toUtf8(`${JSON.stringify(all, null, 2)}\n`)]);
}

type Written = { tensors: Map<string, Tensor>; config: Record<string, unknown> };

/**
 * PEFT takes numbers that are null from the configuration of the base model. Of a classifier it wants the head, too, which it
 * knows by these names.
 */
function virtual(model: Model, record: PromptRecord, value: (name: string) => Tensor): Written {
  const { kind, name, tokens, perToken, layers = null, heads = null, headWidth } = record;
  const tensor = value(name);
  const head = record.perToken ? [] : headOf(model);
  const task = perToken ? 'CAUSAL_LM' : head.length ? 'SEQ_CLS' : 'FEATURE_EXTRACTION';
  const config = {
    ...{ peft_type: kind === 'prefix' ? 'PREFIX_TUNING' : 'PROMPT_TUNING', num_virtual_tokens: tokens },
    ...{ task_type: task, num_transformer_submodules: 1 },
    ...{ num_layers: layers, num_attention_heads: heads },
    token_dim: heads && headWidth ? heads * headWidth : tensor.dims[1],
    ...(kind === 'prefix' ? { prefix_projection: false } : { prompt_tuning_init: 'RANDOM' }),
  };
  return { tensors: new Map([...head, ['prompt_embeddings', tensor]]), config };
}

/** Weights and biases of the layers that are called classifier or score, in PyTorch's layout. */
function headOf(model: Model): [string, Tensor][] {
  const { graph } = model;
  const found = new Map<string, Tensor>();
  const adapters = adapterNames(model);
  for (const { module, kind, weight, outAxis, outputs, bias, quantized } of adaptedLayers(graph)) {
    if (adapters.has(weight.value.name)) continue;
    const name = /(?:^|\.)((?:classifier|score)(?:\.\w+)*)$/.exec(module)?.[1];
    const { tensor, isTransposed } = weight;
    if (name === undefined || kind !== 'linear' || quantized || found.has(`base_model.${name}.weight`))
      continue;
    const out = isTransposed ? 1 - outAxis : outAxis;
    found.set(`base_model.${name}.weight`, out === 0 ? tensor : transposed(tensor));
    if (bias) found.set(`base_model.${name}.bias`, bias.tensor);
    else if (name.startsWith('classifier'))
      // Exporters leave out a bias of zeros.
      found.set(`base_model.${name}.bias`, Tensor.zeros(tensor.dtype, [outputs]));
  }
  return [...found];
}

function ia3(records: readonly ScaleRecord[], value: (name: string) => Tensor): Written {
  const tensors = records.map(({ module, scale, feedforward }) => {
    const { dtype, dims, bytes } = value(scale);
    const shape = dims.length > 1 ? dims : feedforward ? [1, ...dims] : [...dims, 1];
    return [`${PREFIX}${module}.ia3_l`, new Tensor(dtype, shape, bytes)] as const;
  });
  const config = {
    ...{ peft_type: 'IA3', target_modules: records.map(r => r.module), fan_in_fan_out: false },
    feedforward_modules: records.flatMap(r => (r.feedforward ? [r.module] : [])),
    ...{ init_ia3_weights: true, modules_to_save: null },
  };
  return { tensors: new Map(tensors), config };
}

function lora(records: readonly AdapterRecord[], value: (name: string) => Tensor): Written {
  const tensors = new Map<string, Tensor>();
  for (const { module, kind, a, b, magnitude } of records) {
    const name = (side: string) =>
      `${PREFIX}${module}.lora_${kind === 'embedding' ? `embedding_${side}` : `${side}.weight`}`;
    tensors.set(name('A'), toPeft(kind, value(a)));
    tensors.set(name('B'), toPeft(kind, value(b)));
    if (magnitude === undefined) continue;
    const kernel = value(b).dims.length - 2;
    tensors.set(`${PREFIX}${module}.lora_magnitude_vector`, magnitudeToPeft(kind, value(magnitude), kernel));
  }
  const [{ r, alpha, dropout, rslora }] = records as [AdapterRecord];
  const dora = records[0]!.magnitude !== undefined;
  const differs = (other: AdapterRecord) =>
    other.rslora !== rslora || other.dropout !== dropout || (other.magnitude !== undefined) !== dora;
  if (records.some(differs))
    throw new AgdError(
      'bad-option',
      'The adapters differ in rslora, dora or dropout, of which a PEFT folder has one value: export them as .onnx_adapter.',
    );
  const differing = (key: 'r' | 'alpha', usual: number) =>
    Object.fromEntries(records.flatMap(x => (x[key] === usual ? [] : [[x.module, x[key]]])));
  const config = {
    ...{
      peft_type: 'LORA',
      r,
      lora_alpha: alpha,
      lora_dropout: dropout,
      use_rslora: rslora,
      use_dora: dora,
      bias: 'none',
    },
    ...{ rank_pattern: differing('r', r), alpha_pattern: differing('alpha', alpha) },
    ...{ target_modules: records.map(({ module }) => module), fan_in_fan_out: false },
    ...{ init_lora_weights: true, modules_to_save: null },
  };
  return { tensors, config };
}
