"""Trains the same network on birdstrikes.csv with scikit-learn and with agd-onnx, on the same splits.

birdstrikes.py OUT    # scikit-learn, onnx, onnxruntime, pandas or csv of the standard library; after npm ci && npm run build

Prints the AUC of both on the held-out fifth for each seed. Both get the same rows; each uses encoders of its own. Then the
trained model with its preprocessing baked in runs on the raw columns in Python's onnxruntime, and must predict the same
classes and probabilities as `agd-onnx predict`.
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
SEEDS = range(5)
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


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    rows = read(DATA)
    found = []
    for seed in SEEDS:
        train, test = train_test_split(rows, test_size=0.2, random_state=seed, stratify=labels(rows))
        encode = encoder()
        x = encode.fit_transform(features(train))
        peer = MLPClassifier(HIDDEN, max_iter=EPOCHS, batch_size=32, random_state=seed, alpha=0)
        peer.fit(x, labels(train))
        theirs = roc_auc_score(labels(test), peer.predict_proba(encode.transform(features(test)))[:, 1])

        write(out / 'train.csv', train)
        write(out / 'test.csv', test)
        network(x.shape[1], seed, out / 'strikes.onnx')
        columns = [f'"{name}":one-hot' for name in TEXTS] + [f'"{SPEED}":fill(median,indicator)+standardize']
        agd_onnx(
            *('train', out / 'strikes.onnx', '--loss', 'bce-with-logits', '--data', out / 'train.csv'),
            *('--columns', f'x={",".join(columns)}', '--columns', f'target="{LABEL}":class(None,other=damage)'),
            *('--optimizer', 'adam', '--epochs', EPOCHS, '--batch-size', 32, '--seed', seed, '-o', out / 'trained.onnx'),
        )
        agd_onnx('predict', out / 'trained.onnx', '--data', out / 'test.csv', '-o', out / 'predictions.csv')
        predicted = read(out / 'predictions.csv')
        ours = roc_auc_score(labels(test), [float(row['probability']) for row in predicted])

        agd_onnx('export', out / 'trained.onnx', '--bake-preprocessing', '-o', out / 'raw.onnx')
        session = onnxruntime.InferenceSession(out / 'raw.onnx')
        names, logits = session.run([LABEL, 'logit'], raw_inputs(test))
        same = sum(row['class'] == name for row, name in zip(predicted, names.ravel()))
        far = max(abs(float(row['probability']) - 1 / (1 + np.exp(-np.float64(z)))) for row, z in zip(predicted, logits.ravel()))
        found.append((theirs, ours))
        print(f'seed {seed}: AUC scikit-learn {theirs:.4f}, agd-onnx {ours:.4f}; baked: {same} of {len(test)} classes the same, probabilities within {far:.1e}', flush=True)
    theirs, ours = np.mean(found, axis=0)
    print(f'mean: AUC scikit-learn {theirs:.4f}, agd-onnx {ours:.4f}')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
