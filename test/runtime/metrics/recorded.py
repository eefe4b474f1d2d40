"""Writes recorded.json: what scikit-learn and torchmetrics make of small predictions, for recorded.test.ts.

    pip install scikit-learn torch torchmetrics
    python test/runtime/metrics/recorded.py
"""

import json
from pathlib import Path

import numpy as np
import sklearn
import sklearn.metrics as m
import torch
import torchmetrics
from sklearn.preprocessing import label_binarize
from torchmetrics.classification import (
    BinaryCalibrationError,
    BinaryJaccardIndex,
    MulticlassCalibrationError,
    MulticlassJaccardIndex,
)
from torchmetrics.segmentation import DiceScore
from torchmetrics.text import Perplexity

rng = np.random.default_rng(7)


def rounded(x):
    """Few decimals: ties, and numbers that float32 does not hold exactly."""
    return np.round(x, 1)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def counts(target, predicted, labels=None):
    found = {
        "accuracy": m.accuracy_score(target, predicted),
        "balanced-accuracy": m.balanced_accuracy_score(target, predicted),
    }
    for name, score in ("precision", m.precision_score), ("recall", m.recall_score), ("f1", m.f1_score):
        found[f"{name}-macro"] = score(target, predicted, average="macro", zero_division=0)
        found[f"{name}-micro"] = score(target, predicted, average="micro", zero_division=0)
    found["iou"] = m.jaccard_score(target, predicted, average="macro", zero_division=0)
    found["dice"] = found["f1-macro"]
    return found


def multiclass():
    classes, ignored = 5, 9
    scores = rounded(rng.normal(size=(90, classes)) * 2)
    target = rng.integers(0, classes, 90)
    scores[np.arange(90), target] += rng.random(90) * 2
    scores = rounded(scores)
    target[rng.random(90) < 0.15] = ignored
    weights = [1, 0.5, 2, 0, 3]
    kept = target != ignored
    t, s = target[kept], scores[kept]
    p = softmax(s)
    best = s.argmax(1)
    found = counts(t, best)
    found["precision"], found["recall"], found["f1"] = (found[f"{k}-macro"] for k in ("precision", "recall", "f1"))
    # scikit-learn takes the last of equal scores first, the metric the first one.
    for k in 2, 3:
        found[f"top-{k}"] = m.top_k_accuracy_score(t, s - 1e-6 * np.arange(classes), k=k, labels=range(classes))
    found["auc"] = m.roc_auc_score(t, p, multi_class="ovr", average="macro")
    found["average-precision"] = m.average_precision_score(label_binarize(t, classes=range(classes)), p, average="macro")
    found["log-loss"] = m.log_loss(t, p, sample_weight=np.array(weights)[t], labels=range(classes))
    found["perplexity"] = np.exp(m.log_loss(t, p, labels=range(classes)))
    single = {"calibration-error": MulticlassCalibrationError(classes)(torch.tensor(p), torch.tensor(t)).item()}
    per_class = m.jaccard_score(t, best, average=None)
    found |= {f"iou-per-class/{i}": x for i, x in enumerate(per_class)}
    found |= {f"dice-per-class/{i}": x for i, x in enumerate(m.f1_score(t, best, average=None))}
    table = m.confusion_matrix(t, best, labels=range(classes))
    loss = {"kind": "cross-entropy", "ignoreIndex": ignored, "classWeights": weights}
    return case("classes with ignored targets and weights", loss, scores, target, found, table, single)


def binary(kind):
    scores = rounded(rng.normal(size=(70, 1)) * 2)
    target = (scores[:, 0] + rng.normal(size=70) > 0.7).astype(int)
    p = sigmoid(scores[:, 0])
    if kind == "cross-entropy":
        scores = np.concatenate([np.zeros((70, 1)), scores], 1)
    predicted = (p > 0.5).astype(int)
    found = counts(target, predicted)
    for name, score in ("precision", m.precision_score), ("recall", m.recall_score), ("f1", m.f1_score):
        found[name] = score(target, predicted)
    single = {}
    if kind != "cross-entropy":
        # A single label: yes is the only class.
        found = {k: v for k, v in found.items() if not k.endswith(("-macro", "-micro"))}
        found["iou"] = m.jaccard_score(target, predicted)
        found["dice"] = found["f1"]
        single["iou"] = BinaryJaccardIndex()(torch.tensor(p), torch.tensor(target)).item()
        single["calibration-error"] = BinaryCalibrationError()(torch.tensor(p), torch.tensor(target)).item()
    found["auc"] = m.roc_auc_score(target, p)
    found["average-precision"] = m.average_precision_score(target, p)
    found["log-loss"] = m.log_loss(target, p)
    if kind == "bce":
        scores = p[:, None]
    shown = target if kind == "cross-entropy" else target[:, None].astype(float)
    table = m.confusion_matrix(target, predicted)
    return case(f"two classes by {kind}", {"kind": kind}, scores, shown, found, table, single)


def multilabel():
    scores = rounded(rng.normal(size=(60, 4)))
    target = (scores + rng.normal(size=(60, 4)) > 0.5).astype(int)
    predicted = (scores > 0).astype(int)
    found = {"accuracy": (predicted == target).mean()}
    columns = [(target[:, c], predicted[:, c]) for c in range(4)]
    found["balanced-accuracy"] = np.mean([m.balanced_accuracy_score(*c) for c in columns])
    for name, score in ("precision", m.precision_score), ("recall", m.recall_score), ("f1", m.f1_score):
        found[name] = score(target, predicted, average="macro")
        found[f"{name}-micro"] = score(target, predicted, average="micro")
    found["iou"] = m.jaccard_score(target, predicted, average="macro")
    found["auc"] = m.roc_auc_score(target, sigmoid(scores), average="macro")
    found["average-precision"] = m.average_precision_score(target, sigmoid(scores), average="macro")
    found["log-loss"] = m.log_loss(target.ravel(), sigmoid(scores).ravel())
    return case("several labels", {"kind": "bce-with-logits"}, scores, target.astype(float), found)


def log_probabilities():
    scores = np.log(softmax(rounded(rng.normal(size=(40, 3)))))
    target = rng.integers(0, 3, 40)
    found = {
        "log-loss": m.log_loss(target, np.exp(scores)),
        "auc": m.roc_auc_score(target, np.exp(scores), multi_class="ovr"),
        "accuracy": m.accuracy_score(target, scores.argmax(1)),
    }
    return case("log-probabilities", {"kind": "nll"}, scores, target, found)


def regression():
    target = rng.normal(size=(50, 3)) * [1, 10, 100] + [0, 1000, 0]
    scores = target + rng.normal(size=(50, 3))
    found = {
        "mae": m.mean_absolute_error(target, scores),
        "rmse": np.sqrt(m.mean_squared_error(target, scores)),
        "r2": m.r2_score(target, scores),
    }
    return case("numbers", {"kind": "mse"}, scores, target, found)


def segmentation():
    """[batch, classes, height, width]"""
    classes = 4
    scores = rounded(rng.normal(size=(6, classes, 5, 7)))
    target = rng.integers(0, classes - 1, (6, 5, 7))
    predicted = torch.tensor(scores.argmax(1))
    iou = MulticlassJaccardIndex(classes, average="macro")
    each = MulticlassJaccardIndex(classes, average="none")
    dice = DiceScore(classes, input_format="index", aggregation_level="global", average="none")
    truth = torch.tensor(target)
    flat = target.ravel(), predicted.numpy().ravel()
    found = {"accuracy": m.accuracy_score(*flat), "iou": m.jaccard_score(*flat, average="macro")}
    single = {
        "iou": iou(predicted, truth).item(),
        **{f"iou-per-class/{i}": x.item() for i, x in enumerate(each(predicted, truth))},
        **{f"dice-per-class/{i}": x.item() for i, x in enumerate(dice(predicted, truth).flatten())},
    }
    return case("images", {"kind": "cross-entropy"}, scores, target, found, single=single)


def text():
    """[batch, time, classes]"""
    classes, ignored = 11, -100
    scores = rounded(rng.normal(size=(6, 8, classes)) * 2)
    target = rng.integers(0, classes, (6, 8))
    target[:, -2:] = ignored
    loss = Perplexity(ignore_index=ignored)(torch.tensor(scores), torch.tensor(target)).item()
    found = {"perplexity": loss, "bits-per-byte": np.log2(loss)}
    return case("text", {"kind": "cross-entropy", "ignoreIndex": ignored}, scores, target, found)


def case(name, loss, scores, target, metrics, table=None, single=None):
    """`single` are values of torchmetrics, which computes them in float32."""
    return {
        "name": name,
        "loss": loss,
        "dims": scores.shape,
        "scores": scores.ravel().tolist(),
        "targetDims": target.shape,
        "target": target.ravel().tolist(),
        "metrics": {k: float(v) for k, v in metrics.items()},
        "single": single or {},
        **({} if table is None else {"table": table.tolist()}),
    }


torch.set_default_dtype(torch.float64)
cases = [
    multiclass(),
    *(binary(kind) for kind in ("cross-entropy", "bce-with-logits", "bce")),
    multilabel(),
    log_probabilities(),
    regression(),
    segmentation(),
    text(),
]
versions = {"scikit-learn": sklearn.__version__, "torchmetrics": torchmetrics.__version__}
path = Path(__file__).with_name("recorded.json")
path.write_text(json.dumps({"versions": versions, "cases": cases}) + "\n")
