/* The part of ONNX Runtime's C API that docs/guide/languages.md calls; the package of npm has the library without its
 * header. The slots of OrtApi keep their place in all versions. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 22

typedef struct OrtAllocator OrtAllocator;
typedef struct OrtEnv OrtEnv;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef enum { OrtArenaAllocator = 1 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum { ORT_LOGGING_LEVEL_WARNING = 2 } OrtLoggingLevel;
typedef enum {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
} ONNXTensorElementDataType;

typedef struct {
  void *to_2[2];
  const char *(*GetErrorMessage)(const OrtStatus *);
  OrtStatus *(*CreateEnv)(OrtLoggingLevel, const char *id, OrtEnv **);
  void *to_7[3];
  OrtStatus *(*CreateSession)(const OrtEnv *, const char *path, const OrtSessionOptions *, OrtSession **);
  void *to_9[1];
  OrtStatus *(*Run)(OrtSession *, const OrtRunOptions *, const char *const *inputs, const OrtValue *const *, size_t,
                    const char *const *outputs, size_t, OrtValue **);
  OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **);
  void *to_31[20];
  OrtStatus *(*SessionGetOutputCount)(const OrtSession *, size_t *);
  void *to_37[5];
  OrtStatus *(*SessionGetOutputName)(const OrtSession *, size_t, OrtAllocator *, char **);
  void *to_49[11];
  OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *, size_t bytes, const int64_t *shape,
                                               size_t rank, ONNXTensorElementDataType, OrtValue **);
  void *to_51[1];
  OrtStatus *(*GetTensorMutableData)(OrtValue *, void **);
  void *to_69[17];
  OrtStatus *(*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo **);
  void *to_78[8];
  OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **);
  void *to_94[15];
  void (*ReleaseMemoryInfo)(OrtMemoryInfo *);
  void *to_96[1];
  void (*ReleaseValue)(OrtValue *);
  void *to_100[3];
  void (*ReleaseSessionOptions)(OrtSessionOptions *);
} OrtApi;

typedef struct {
  const OrtApi *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase *OrtGetApiBase(void);
