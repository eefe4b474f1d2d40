"""Trains the same network on birdstrikes.csv with scikit-learn and with agd-onnx, on the same splits.

birdstrikes.py OUT [SPLITS]    # as 0,1,2; needs scikit-learn, onnx, onnxruntime; after npm ci && npm run build

Prints the AUC of both on the held-out fifth of each split, with several initial weights and orders of the samples: the mean,
and the standard deviation between these. Both get the same rows; each uses encoders of its own. Then each trained model with its preprocessing baked in runs on the raw columns in Python's onnxruntime, and must predict the same classes and
probabilities as `agd-onnx predict`.
"""

import csv
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / 'node_modules/vega-datasets/data/birdstrikes.csv'
TEXTS = ['Phase of flight', 'Wildlife Size', 'Wildlife Species', 'Time of day', 'Aircraft Airline Operator', 'Origin State']
SPEED = 'Speed IAS in knots'
LABEL = 'Effect Amount of damage'
HIDDEN = (64, 32)
EPOCHS = 20
SPLITS = range(5)
SEEDS = range(3)
warnings.filterwarnings('ignore')


def read(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with open(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def features(rows):
    speeds = [float(row[SPEED]) if row[SPEED] else np.nan for row in rows]
    return np.array([[row[name] for name in TEXTS] + [speed] for row, speed in zip(rows, speeds)], dtype=object)


def labels(rows):
    return np.array([int(row[LABEL] != 'None') for row in rows])


def encoder():
    speed = make_pipeline(SimpleImputer(strategy='median', add_indicator=True), StandardScaler())
    texts = list(range(len(TEXTS)))
    return make_column_transformer((OneHotEncoder(handle_unknown='ignore', sparse_output=False), texts), (speed, [len(TEXTS)]))


def network(inputs, seed, path):
    """Linear layers with ReLU, with the initial weights that scikit-learn uses."""
    draw = np.random.default_rng(seed)
    sizes = [inputs, *HIDDEN, 1]
    nodes, weights, value = [], [], 'x'
    for i, (n, m) in enumerate(zip(sizes, sizes[1:])):
        bound = np.sqrt(6 / (n + m))
        for name, shape in (('weight', (n, m)), ('bias', (m,))):
            weights.append(numpy_helper.from_array(draw.uniform(-bound, bound, shape).astype('float32'), f'layer{i}.{name}'))
        last = i == len(sizes) - 2
        nodes.append(helper.make_node('Gemm', [value, f'layer{i}.weight', f'layer{i}.bias'], ['logit' if last else f'z{i}']))
        if not last:
            nodes.append(helper.make_node('Relu', [f'z{i}'], [f'h{i}']))
        value = f'h{i}'
    x = helper.make_tensor_value_info('x', TensorProto.FLOAT, ['N', inputs])
    y = helper.make_tensor_value_info('logit', TensorProto.FLOAT, ['N', 1])
    graph = helper.make_graph(nodes, 'strikes', [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9), path)


def agd_onnx(*args):
    subprocess.run(['node', str(ROOT / 'bin/agd-onnx.js'), *map(str, args)], check=True, capture_output=True)


def raw_inputs(rows):
    inputs = {name: np.array([[row[name]] for row in rows], dtype=object) for name in TEXTS}
    inputs[SPEED] = np.array([[float(row[SPEED]) if row[SPEED] else np.nan] for row in rows])
    return inputs


def train_theirs(train, test, seed):
    """AUC, and the number of inputs."""
    encode = encoder()
    x = encode.fit_transform(features(train))
    peer = MLPClassifier(HIDDEN, max_iter=EPOCHS, batch_size=32, random_state=seed, alpha=0)
    peer.fit(x, labels(train))
    return roc_auc_score(labels(test), peer.predict_proba(encode.transform(features(test)))[:, 1]), x.shape[1]


def train_ours(out, test, inputs, seed):
    network(inputs, seed, out / 'strikes.onnx')
    columns = [f'"{name}":one-hot' for name in TEXTS] + [f'"{SPEED}":fill(median,indicator)+standardize']
    agd_onnx(
        *('train', out / 'strikes.onnx', '--loss', 'bce-with-logits', '--data', out / 'train.csv'),
        *('--columns', f'x={",".join(columns)}', '--columns', f'target="{LABEL}":class(None,other=damage)'),
        *('--optimizer', 'adam', '--epochs', EPOCHS, '--batch-size', 32, '--seed', seed, '-o', out / 'trained.onnx'),
    )
    agd_onnx('predict', out / 'trained.onnx', '--data', out / 'test.csv', '-o', out / 'predictions.csv')
    predicted = read(out / 'predictions.csv')
    check_baked(out, test, predicted)
    return roc_auc_score(labels(test), [float(row['probability']) for row in predicted])


def check_baked(out, test, predicted):
    agd_onnx('export', out / 'trained.onnx', '--bake-preprocessing', '-o', out / 'raw.onnx')
    session = onnxruntime.InferenceSession(out / 'raw.onnx')
    names, logits = session.run([LABEL, 'logit'], raw_inputs(test))
    assert all(row['class'] == name for row, name in zip(predicted, names.ravel()))
    far = max(abs(float(row['probability']) - 1 / (1 + np.exp(-np.float64(z)))) for row, z in zip(predicted, logits.ravel()))
    assert far < 1e-6, far


def main(out, splits):
    out.mkdir(parents=True, exist_ok=True)
    rows = read(DATA)
    means = []
    for split in splits:
        train, test = train_test_split(rows, test_size=0.2, random_state=split, stratify=labels(rows))
        write(out / 'train.csv', train)
        write(out / 'test.csv', test)
        found = []
        for seed in SEEDS:
            theirs, inputs = train_theirs(train, test, seed)
            found.append((theirs, train_ours(out, test, inputs, seed)))
        mean, spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
        means.append(mean)
        shown = [f'{name} {m:.4f} (sd {s:.4f})' for name, m, s in zip(('scikit-learn', 'agd-onnx'), mean, spread)]
        print(f'split {split}: {", ".join(shown)}; {[(round(a, 4), round(b, 4)) for a, b in found]}', flush=True)
    theirs, ours = np.mean(means, axis=0)
    print(f'mean: scikit-learn {theirs:.4f}, agd-onnx {ours:.4f}')


if __name__ == '__main__':
    main(Path(sys.argv[1]), [int(split) for split in sys.argv[2].split(',')] if len(sys.argv) > 2 else SPLITS)
