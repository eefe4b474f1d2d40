import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { faultOf, outOfMemory, type RuntimeFiles } from '../../../src/runtime/devices/faults.js';
import { canBuild, standInLibrary, standInProvider } from '../../stand-ins.js';

const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
afterAll(() => rmSync(folder, { recursive: true }));

const files = (name: string): RuntimeFiles => ({
  package: join(folder, 'onnxruntime-node'),
  binaries: join(folder, name),
  cuda: [join(folder, 'cuda')],
});
const NOT_LOADED = new Error('OrtSessionOptionsAppendExecutionProvider_Cuda: Failed to load shared library');
const failure = (what: string) =>
  new Error(
    `/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void> onnxruntime::CudaCall(ERRTYPE) [with ERRTYPE = cudaError] CUDA failure ${what} ; GPU=-1 ; hostname=host ; file=/onnxruntime_src/cuda_execution_provider.cc ; line=345 ; expr=cudaSetDevice(info_.device_id); `,
  );

describe.runIf(process.platform === 'linux' && process.arch === 'x64')('the CUDA provider', () => {
  it('is not installed', () => {
    expect(faultOf(NOT_LOADED, 'cuda', files('none'))).toEqual({
      reason: 'the CUDA provider of onnxruntime-node is not installed',
      remedy: expect.stringMatching(
        /^Install it with: node \S+onnxruntime-node\/script\/install\.js --onnxruntime-node-install=cuda12\.$/,
      ),
    });
  });

  // The first of the names is of no machine's, whatever it has installed.
  it.runIf(canBuild).each([
    [
      'libnone.so.1',
      ['libnone.so.1', 'libcudart.so.12'],
      /libnone\.so\.1, of CUDA 12$/,
      /cuda-libraries-12-9/,
    ],
    ['libcublasLt.so.99', ['libcublasLt.so.99'], /libcublasLt\.so\.99, of CUDA 99$/, /cuda-libraries-99-0/],
    ['libcuda.so.99', ['libcuda.so.99', 'libcudart.so.13'], /NVIDIA driver is not installed/, /--gpus all/],
    [
      'libcudnn.so.99',
      ['libcudnn.so.99', 'libcublas.so.13'],
      /libcudnn\.so\.99, of cuDNN for CUDA 13$/,
      /libcudnn9-cuda-13/,
    ],
  ])('needs %s', (name, needed, reason, remedy) => {
    standInProvider(join(folder, name), needed);
    expect(faultOf(NOT_LOADED, 'cuda', files(name))).toEqual({
      reason: expect.stringMatching(reason),
      remedy: expect.stringMatching(remedy),
    });
  });

  it.runIf(canBuild)('needs a library of a folder where it is not looked for', () => {
    standInProvider(join(folder, 'elsewhere'), ['libcublas.so.98']);
    const lib = join(folder, 'cuda/cuda-12.6/lib64');
    mkdirSync(lib, { recursive: true });
    standInLibrary(join(lib, 'libcublas.so.98'));
    expect(faultOf(NOT_LOADED, 'cuda', files('elsewhere'))!.remedy).toBe(
      `Run: export LD_LIBRARY_PATH=${lib}:$LD_LIBRARY_PATH.`,
    );
  });

  it('has no cuDNN, which the runtime looks for at the first convolution', () => {
    const error = new Error(
      "Non-zero status code returned while running Conv node. Name:'conv1' Status Message: /onnxruntime_src/cuda_kernel.h:272 cuDNN is unavailable or disabled for CUDA Execution Provider: dlopen failed for libcudnn.so: libcudnn.so: cannot open shared object file: No such file or directory",
    );
    expect(faultOf(error, 'cuda', files('none'))).toEqual({
      reason: 'the provider needs libcudnn.so.9, of cuDNN for CUDA 12',
      remedy: expect.stringContaining('apt-get install libcudnn9-cuda-12'),
    });
  });
});

it.each([
  [
    '35: CUDA driver version is insufficient for CUDA runtime version',
    'cuda',
    /no NVIDIA driver, or it is older/,
  ],
  ['100: no CUDA-capable device is detected', 'cuda', /no NVIDIA GPU is visible/],
  ['101: invalid device ordinal', 'cuda:3', /no GPU number 3/],
  ['209: no kernel image is available for execution on the device', 'cuda', /no code for this GPU/],
  [
    '700: an illegal memory access was encountered',
    'cuda',
    /^CUDA failure 700: an illegal memory access was encountered$/,
  ],
] as const)('CUDA failure %s', (text, device, reason) => {
  expect(faultOf(failure(text), device, files('none'))!.reason).toMatch(reason);
});

it('a missing WebGPU adapter', () => {
  const error = new Error(
    '/onnxruntime_src/webgpu_context.cc:136 adapter_result.status == wgpu::RequestAdapterStatus::Success was false. Failed to get a WebGPU adapter: No supported adapters',
  );
  expect(faultOf(error, 'webgpu', files('none'))!.reason).toMatch(/^no WebGPU adapter was found/);
});

it('a WebGPU adapter without 16-bit floats', () => {
  const error = new Error(
    "Non-zero status code returned while running FusedConv node. Name:'conv1' Status Message: /onnxruntime_src/shader_helper.cc:416 GenerateSourceCode Program Transpose requires f16 but the device does not support it.",
  );
  expect(faultOf(error, 'webgpu', files('none'))).toEqual({
    reason: 'its adapter does not compute in float16 (it lacks shader-f16)',
    remedy: 'Use a float32 model and --precision fp32.',
  });
});

it('an error of the model is not one of the device', () => {
  const error = new Error(
    "Type Error: Type parameter (T) of Optype (Add) bound to different types in node ('a')",
  );
  expect(faultOf(error, 'cuda', files('none'))).toBeUndefined();
  expect(faultOf(error, 'webgpu', files('none'))).toBeUndefined();
  expect(faultOf(NOT_LOADED, 'cpu', files('none'))).toBeUndefined();
  expect(outOfMemory(error, 'cuda')).toBeUndefined();
});

it.each([
  [
    "Non-zero status code returned while running MatMul node. Name:'mm1' Status Message: /onnxruntime_src/bfc_arena.cc:359 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of size 16777216",
    'cuda:1',
    /^The memory of device 'cuda:1' is full: MatMul 'mm1' needs 16 MB more\. Use a smaller --batch-size; .*--accumulate.*--memory.*--checkpoint-activations.*--precision fp16/,
  ],
  ['CUDA failure 2: out of memory ; GPU=0', 'cuda', /^The memory of device 'cuda' is full\./],
  ['CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0', 'cuda', /^The memory of device 'cuda' is full\./],
  ['std::bad_alloc', 'cpu', /^The memory is full\./],
] as const)('a full memory: %s', (text, device, line) => {
  expect(outOfMemory(new Error(text), device)).toMatch(line);
});
