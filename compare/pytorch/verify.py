"""Whether the injected and the trained files of these folders pass onnx.checker and run in onnxruntime: JSON by name."""

import json
import math
import sys
from pathlib import Path

import onnx
import onnxruntime as ort
from safetensors.numpy import load_file

ort.set_default_logger_severity(4)


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def signature(path):
    graph = onnx.load(path).graph
    fed = {t.name for t in graph.initializer}
    return [(v.name, v.type.SerializeToString()) for v in [*graph.input, *graph.output] if v.name not in fed]


def is_valid(path):
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError:
        return False
    return True


def problem(folder):
    # ONNX Runtime's optimizer writes operators that the checker does not know.
    checks = is_valid(folder / 'model.onnx')
    batch = load_file(folder / 'batch.safetensors')
    for name in ('injected.onnx', 'trained.onnx'):
        if not (folder / name).exists():
            return None
        if checks:
            onnx.checker.check_model(str(folder / name))
        runner = session(folder / name)
        feeds = {i.name: batch[i.name] for i in runner.get_inputs() if i.name in batch}
        wanted = 'loss' if name == 'injected.onnx' and 'loss' in [o.name for o in runner.get_outputs()] else None
        results = runner.run([wanted] if wanted else None, feeds)
        if wanted and not math.isfinite(results[0]):
            return f'the loss of {name} is {results[0]} in onnxruntime'
    if signature(folder / 'model.onnx') != signature(folder / 'trained.onnx'):
        return 'the trained model has other inputs or outputs'
    return None


found = {}
for folder in map(Path, sys.argv[1:]):
    try:
        found[folder.name] = problem(folder)
    except Exception as error:
        found[folder.name] = str(error).strip().splitlines()[0]
print(json.dumps(found))
