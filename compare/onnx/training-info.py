"""
A file that `inject --format training-info` wrote, read by the words of ONNX's specification alone: the lists of the
algorithm's graph after those of the inference graph, run in the reference evaluator, the bindings carried from step to
step. Compared with the step that `inject` writes without --format, in ONNX Runtime, over three steps:

    python training-info.py model.training.onnx model.agd.onnx batch.npz

It needs onnx and onnxruntime. Exits with 1 where a state differs by more than 1e-4 of its largest element (or 1e-6).
"""

import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

LISTS = ("input", "initializer", "output", "node", "value_info", "sparse_initializer")


def read(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model, {b.key: b.value for info in model.training_info for b in info.update_binding}


def stored(graph, names):
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name in names}


training, updates = read(sys.argv[1])
(info,) = training.training_info
combined = onnx.GraphProto(name="combined")
for graph in (training.graph, info.algorithm):
    for name in LISTS:
        getattr(combined, name).extend(getattr(graph, name))
model = helper.make_model(combined, opset_imports=training.opset_import, ir_version=training.ir_version)
onnx.checker.check_model(model, full_check=True)
evaluator = ReferenceEvaluator(model)
outputs = [o.name for o in combined.output]

step, own = read(sys.argv[2])
assert set(own) == set(updates), "other states are bound"
options = ort.SessionOptions()
options.log_severity_level = 3
session = ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
feeds = dict(np.load(sys.argv[3]))

ours, theirs = stored(step.graph, own), stored(combined, updates)
worst = 0.0
for _ in range(3):
    a = dict(zip((o.name for o in session.get_outputs()), session.run(None, {**feeds, **ours})))
    b = dict(zip(outputs, evaluator.run(outputs, {**feeds, **theirs})))
    ours, theirs = ({state: out[value] for state, value in bound.items()} for out, bound in ((a, own), (b, updates)))
    for state, wanted in ours.items():
        found = theirs[state]
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), state
        difference, largest = (np.max(np.abs(x.astype("f8")), initial=0) for x in (found - wanted, wanted))
        # What should be zero is noise.
        worst = max(worst, difference / largest if largest > 1e-6 else 0)
print(f"{len(updates)} states, largest difference {worst:.1e}")
sys.exit(int(worst > 1e-4))
