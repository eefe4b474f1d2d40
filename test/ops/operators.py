"""Fills in what ONNX and ONNX Runtime say of themselves in operators.json: `since`, `inputs` and, of kernels, `cpu`.

    python operators.py [FILE]

The operators listed, and all else that is said of them, stay as they are: what a judgement is (`differentiable`,
`function`, `limits`, `missing`), what only the runtime's source tells (`cuda`, `webgpu`), and the operators of its
former training builds. Made with onnx 1.23 and onnxruntime 1.30. Afterwards: npm run format.
"""

import json
import re
import sys
from collections import defaultdict
from itertools import groupby
from pathlib import Path

import onnx.defs
from onnxruntime.capi import onnxruntime_pybind11_state as ort

OPSETS = range(18, 27)
FLOATS = {"float16": "f16", "bfloat16": "bf16", "float": "f32", "double": "f64"}
OPEN = 2**31 - 1

# Kernels that are registered for float64 and refuse it when they run.
REFUSED = {"GRU", "LSTM", "MelWeightMatrix"}
# What runs as the operators that the runtime writes it as, in types or versions of which it has no kernel.
WRITTEN = {("ai.onnx", op): {"f64"} for op in "Elu HardSigmoid LeakyRelu PRelu Selu Softplus Softsign".split()} | {
    ("ai.onnx", "ThresholdedRelu"): {"f64"},
    ("ai.onnx", "Attention"): {"f16", "f32", "f64"},
    ("com.microsoft", "FastGelu"): {"f64"},
}


def schemas() -> dict:
    found = defaultdict(dict)
    for schema in onnx.defs.get_all_schemas_with_history():
        found[schema.domain or "ai.onnx", schema.name][schema.since_version] = schema
    of_onnx = set(found)
    for schema in ort.get_all_operator_schema():
        key = (schema.domain or "ai.onnx", schema.name)
        if key not in of_onnx:
            found[key][schema.since_version] = schema
    return found


def kernels() -> dict:
    found = defaultdict(list)
    for kernel in ort.get_all_opkernel_def():
        if kernel.provider == "CPUExecutionProvider":
            found[kernel.domain or "ai.onnx", kernel.op_name].append(kernel)
    return found


def runs(kernel, since: int) -> bool:
    """Whether the runtime takes the kernel for a version: one without an end is for that which it begins with."""
    first, last = kernel.version_range
    return first == since or (first < since <= last < OPEN)


def types(key: tuple, since: int, known: dict) -> str | None:
    """The floating-point types of the kernels for that version, * where they are of other types."""
    found = [kernel for kernel in known[key] if runs(kernel, since)]
    allowed = [t for kernel in found for names in kernel.type_constraints.values() for t in names]
    # Those of sequences count where nothing else does.
    for form in (r"tensor\((\w+)\)", r"seq\(tensor\((\w+)\)\)"):
        names = {FLOATS[m[1]] for t in allowed if (m := re.fullmatch(form, t)) and m[1] in FLOATS}
        if names:
            break
    if key[1] in REFUSED:
        names -= {"f64"}
    if not found and key not in WRITTEN:
        return None
    return " ".join(t for t in FLOATS.values() if t in names | WRITTEN.get(key, set())) or "*"


def ranges(key: tuple, versions: list[int], known: dict) -> str | None:
    """The types, or where they differ between opsets, those of each range of opsets."""
    domain = [opset for opset in OPSETS if opset >= versions[0]] if key[0] == "ai.onnx" else [1]
    at = [(opset, types(key, max(v for v in versions if v <= opset), known)) for opset in domain]
    runs_of = [(told, [opset for opset, _ in run]) for told, run in groupby(at, key=lambda pair: pair[1])]
    if len(runs_of) == 1:
        return runs_of[0][0]
    return "; ".join(f"{opsets[0]}-{opsets[-1]}: {told}" for told, opsets in runs_of if told) or None


def main(file: str = str(Path(__file__).with_name("operators.json"))) -> None:
    facts = json.loads(Path(file).read_text())
    known, of_cpu = schemas(), kernels()
    for domain, operators in facts.items():
        for name, own in operators.items() if domain != "source" else ():
            every = sorted(known[domain, name])
            versions = [v for v in every if v <= OPSETS[-1]] or every
            if not versions:
                continue
            own["since"] = versions
            own["inputs"] = [value.name for value in known[domain, name][versions[-1]].inputs]
            own["cpu"] = ranges((domain, name), versions, of_cpu)
            if not own["cpu"]:
                del own["cpu"]
    Path(file).write_text(json.dumps(facts, ensure_ascii=False) + "\n")


main(*sys.argv[1:])
