"""The derivatives as files, in Python: onnx.checker passes them, and onnxruntime gives PyTorch's numbers.

python verify.py [NAME...] (onnx, onnxruntime, safetensors; the command line has to be built)
"""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from safetensors.numpy import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
CLI = os.path.join(HERE, '../../../../bin/agd-onnx.js')
MODES = ('gradient', 'vjp', 'jvp', 'jacobian', 'hvp', 'hessian')
OF_LOSS = ('gradient', 'hvp', 'hessian')


def wanted(mode, result):
    if mode == 'jvp':
        return 'jvp'
    kind = 'gradient' if mode == 'hvp' and not result['output'].endswith('_hvp') else mode
    return f'{kind}|{result.get("by", result["of"])}'


def check(name, mode, path):
    """The largest error of the derivatives, relative to the largest element, over all batch sizes."""
    tensors = load_file(f'{HERE}/{name}.safetensors')
    variables = [key[len('2|gradient|'):] for key in tensors if key.startswith('2|gradient|')]
    only = [key[len('2|jacobian|'):] for key in tensors if key.startswith('2|jacobian|')]
    loss = 'cross-entropy' if tensors['2|target'].dtype == np.int64 else 'mse'
    target = ['--loss', loss] if mode in OF_LOSS else ['--of', 'y']
    wrt = ','.join(only if mode in ('jacobian', 'hessian') else variables)
    command = ['node', CLI, 'differentiate', f'{HERE}/{name}.onnx', *target, '--wrt', wrt, '--mode', mode, '-o', path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    names = json.loads(next(p.value for p in model.metadata_props if p.key == 'agd.derivatives'))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options)
    outputs = [result['output'] for result in names['results']]
    worst = 0.0
    for size in sorted({key.split('|')[0] for key in tensors}):
        of_size = {key[len(size) + 1:]: value for key, value in tensors.items() if key.startswith(f'{size}|')}
        feeds = {key[len('input|'):]: value for key, value in of_size.items() if key.startswith('input|')}
        if mode in OF_LOSS:
            feeds['target'] = of_size['target']
        for direction in names['directions']:
            of = direction['of']
            feeds[direction['input']] = of_size['cotangent' if mode == 'vjp' else f'tangent|{of}']
        for result, found in zip(names['results'], session.run(outputs, feeds)):
            want = of_size[wanted(mode, result)]
            assert found.shape == want.shape, (name, mode, result, found.shape, want.shape)
            worst = max(worst, np.abs(found - want).max() / max(1e-2, np.abs(want).max()))
    return worst, model.ir_version, model.opset_import[0].version


def main(names):
    names = names or sorted(file[:-5] for file in os.listdir(HERE) if file.endswith('.onnx'))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for mode in MODES:
                error, ir, opset = check(name, mode, f'{folder}/derivative.onnx')
                failed += int(error > 2e-5)
                print(f'{name:20} {mode:9} {error:.1e}  IR {ir}, opset {opset}', flush=True)
    print(f'{len(names) * len(MODES) - failed} passed, {failed} failed')
    sys.exit(1 if failed else 0)


main(sys.argv[1:])
