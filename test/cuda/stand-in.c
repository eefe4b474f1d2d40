/*
 * Stand-ins for the CUDA runtime: memory is the host's, and kernels do nothing. With them, the CUDA provider makes
 * sessions on machines without a GPU, and says where each node would run; what a session computes means nothing.
 * Functions that are not here return 0, which is success. Needs no header of the CUDA toolkit.
 */
#include <stdlib.h>
#include <string.h>

typedef int Status;
typedef void *Pointer;
enum { SUCCESS = 0, MAJOR = 9, MINOR = 0, PROCESSORS = 132 };
static const size_t MEMORY = (size_t)16 << 30;

static Status take(Pointer *to, size_t bytes) {
  *to = calloc(1, bytes ? bytes : 1);
  return SUCCESS;
}
static Status put(int *to, int value) {
  *to = value;
  return SUCCESS;
}
static Status handle(Pointer *to) { return take(to, 64); }

/* One device, of a recent kind. */
Status cudaGetDeviceCount(int *n) { return put(n, 1); }
Status cudaGetDevice(int *device) { return put(device, 0); }
Status cudaRuntimeGetVersion(int *version) { return put(version, CUDA_VERSION); }
Status cudaDriverGetVersion(int *version) { return put(version, CUDA_VERSION); }
Status cudaMemGetInfo(size_t *unused, size_t *total) {
  *unused = *total = MEMORY;
  return SUCCESS;
}

/* The fields that the provider reads, at their places in cudaDeviceProp. */
Status cudaGetDeviceProperties(char *properties, int device) {
  const struct { int at, value; } fields[] = {
    { 304, 65536 } /* registers of a block */, { 308, 32 } /* warp */, { 320, 1024 } /* threads of a block */,
    { 324, 1024 }, { 328, 1024 }, { 332, 64 } /* block */, { 336, 2147483647 }, { 340, 65535 }, { 344, 65535 } /* grid */,
    { 360, MAJOR }, { 364, MINOR },
#if CUDA_VERSION >= 13000
    { 384, PROCESSORS }, { 596, 50 << 20 } /* cache */, { 604, 2048 } /* threads of a processor */,
#else
    { 388, PROCESSORS }, { 616, 50 << 20 }, { 624, 2048 },
#endif
  };
  const size_t shared = 49152;
  memset(properties, 0, 1008);
  strcpy(properties, "stand-in");
  memcpy(properties + 288, &MEMORY, sizeof MEMORY);
  memcpy(properties + 296, &shared, sizeof shared);
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    memcpy(properties + fields[i].at, &fields[i].value, sizeof(int));
  return SUCCESS;
}
Status cudaGetDeviceProperties_v2(char *properties, int device) { return cudaGetDeviceProperties(properties, device); }

/* Numbers as in cudaDeviceAttr. */
Status cudaDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case 1: return put(value, 1024); /* threads of a block */
    case 8: return put(value, 49152); /* shared memory of a block */
    case 10: return put(value, 32); /* warp */
    case 16: return put(value, PROCESSORS);
    case 39: return put(value, 2048); /* threads of a processor */
    case 75: return put(value, MAJOR);
    case 76: return put(value, MINOR);
    case 81: return put(value, 233472); /* shared memory of a processor */
    case 97: return put(value, 232448); /* the same of a block that asks for it */
    default: return put(value, 1);
  }
}

/* Memory. */
Status cudaMalloc(Pointer *to, size_t bytes) { return take(to, bytes); }
Status cudaMallocHost(Pointer *to, size_t bytes) { return take(to, bytes); }
Status cudaHostAlloc(Pointer *to, size_t bytes, unsigned flags) { return take(to, bytes); }
Status cudaMallocFromPoolAsync(Pointer *to, size_t bytes, Pointer pool, Pointer stream) { return take(to, bytes); }
static Status drop(Pointer memory) {
  free(memory);
  return SUCCESS;
}
Status cudaFree(Pointer memory) { return drop(memory); }
Status cudaFreeHost(Pointer memory) { return drop(memory); }
Status cudaFreeAsync(Pointer memory, Pointer stream) { return drop(memory); }
Status cudaMemcpy(Pointer to, const void *from, size_t bytes, int kind) {
  memmove(to, from, bytes);
  return SUCCESS;
}
Status cudaMemcpyAsync(Pointer to, const void *from, size_t bytes, int kind, Pointer stream) {
  return cudaMemcpy(to, from, bytes, kind);
}
Status cudaMemcpy2DAsync(char *to, size_t toPitch, const char *from, size_t fromPitch, size_t width, size_t height,
                         int kind, Pointer stream) {
  for (size_t row = 0; row < height; row++) memmove(to + row * toPitch, from + row * fromPitch, width);
  return SUCCESS;
}
Status cudaMemset(Pointer to, int value, size_t bytes) {
  memset(to, value, bytes);
  return SUCCESS;
}
Status cudaMemsetAsync(Pointer to, int value, size_t bytes, Pointer stream) { return cudaMemset(to, value, bytes); }

/* Handles. */
Status cudaStreamCreate(Pointer *stream) { return handle(stream); }
Status cudaStreamCreateWithFlags(Pointer *stream, unsigned flags) { return handle(stream); }
Status cudaStreamIsCapturing(Pointer stream, int *status) { return put(status, 0); }
Status cudaEventCreate(Pointer *event) { return handle(event); }
Status cudaEventCreateWithFlags(Pointer *event, unsigned flags) { return handle(event); }
Status cudaMemPoolCreate(Pointer *pool, const void *properties) { return handle(pool); }
Status cudaEventElapsedTime(float *ms, Pointer from, Pointer to) {
  *ms = 1;
  return SUCCESS;
}
Status cudaLaunchHostFunc(Pointer stream, void (*function)(Pointer), Pointer data) {
  function(data);
  return SUCCESS;
}

/* Kernels. */
Status cudaFuncGetAttributes(char *attributes, const void *kernel) {
  const int threads = 1024;
  memset(attributes, 0, 144);
  memcpy(attributes + 24, &threads, sizeof threads);
  return SUCCESS;
}
Status cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int size, size_t shared,
                                                              unsigned flags) {
  return put(blocks, 1);
}
Status __cudaGetKernel(Pointer *kernel, const void *function) { return handle(kernel); }
Pointer *__cudaRegisterFatBinary(Pointer binary) {
  static Pointer registered;
  return &registered;
}
Status __cudaPopCallConfiguration(unsigned grid[3], unsigned block[3], size_t *shared, Pointer *stream) {
  for (int i = 0; i < 3; i++) grid[i] = block[i] = 1;
  *shared = 0;
  *stream = 0;
  return SUCCESS;
}

const char *cudaGetErrorName(Status status) { return "stand-in"; }
const char *cudaGetErrorString(Status status) { return "stand-in"; }
