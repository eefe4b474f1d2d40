"""Writes classifier.onnx and classifier.onnx.data: a small convolutional network as PyTorch exports it, for ten classes.

Needs torch, onnx and onnxscript: python examples/studio/sample/make-model.py
"""

from pathlib import Path

import onnx
import torch
from torch import nn

FOLDER = Path(__file__).parent


class Classifier(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden = nn.Linear(32 * 4 * 4, 48)
        self.head = nn.Linear(48, classes)

    def forward(self, image):
        x = self.features(image).flatten(1)
        return self.head(torch.relu(self.hidden(x)))


torch.manual_seed(7)
path = FOLDER / "classifier.onnx"
torch.onnx.export(
    Classifier().eval(),
    (torch.zeros(2, 3, 32, 32),),
    path,
    input_names=["image"],
    output_names=["scores"],
    dynamic_shapes=({0: torch.export.Dim("batch")},),
    dynamo=True,
    external_data=True,
)

# Paths and stack traces of the machine that exported it are no part of the model.
model = onnx.load(path, load_external_data=False)
for node in [*model.graph.node, *(n for f in model.functions for n in f.node)]:
    del node.metadata_props[:]
    node.doc_string = ""
for value in [*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer]:
    del value.metadata_props[:]
del model.graph.metadata_props[:]
del model.metadata_props[:]
onnx.save(model, path)
