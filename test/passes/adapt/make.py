"""Small classifiers as PyTorch's two exporters write them, and PyTorch's gradients of a new head on a frozen backbone.

python make.py (torch, transformers, onnx, safetensors): writes NAME-EXPORTER.onnx and NAME.safetensors beside this file, and
NAME-derivatives.safetensors with derivatives of the model as it was.
"""

import os
import sys
import warnings

import onnx
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

HERE = os.path.dirname(os.path.abspath(__file__))
CLASSES = 5


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, classes)

    def forward(self, image):
        x = torch.relu(self.bn1(self.conv1(image)))
        return self.fc(torch.flatten(self.avgpool(self.layer1(x)), 1))


class SqueezeNet(nn.Module):
    """The head is a convolution before the pooling, as in SqueezeNet."""

    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(12, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, image):
        return torch.flatten(self.classifier(self.features(image)), 1)


class Bert(nn.Module):
    def __init__(self, classes):
        super().__init__()
        config = BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=12, num_labels=classes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            attn_implementation='eager',
        )
        self.net = BertForSequenceClassification(config)

    def forward(self, input_ids, attention_mask):
        return self.net(input_ids, attention_mask).logits


def image_inputs():
    return {'image': torch.randn(6, 1, 8, 8)}


def text_inputs():
    return {'input_ids': torch.randint(0, 40, (6, 7)), 'attention_mask': torch.ones(6, 7, dtype=torch.int64)}


# By what derivatives are taken: parameters, and an input where that is of floating point.
WRT = {
    'resnet': ['fc.weight', 'image'],
    'squeezenet': ['features.2.bias', 'classifier.1.weight', 'image'],
    'bert': ['net.bert.encoder.layer.0.output.dense.bias', 'net.bert.embeddings.LayerNorm.weight'],
}

CASES = {
    'resnet': (ResNet, image_inputs, 'fc', {'image': {0: 'batch'}}),
    'squeezenet': (SqueezeNet, image_inputs, 'classifier.1', {'image': {0: 'batch'}}),
    'bert': (Bert, text_inputs, 'net.classifier', {n: {0: 'batch', 1: 'length'} for n in ('input_ids', 'attention_mask')}),
}


def train_statistics(model, inputs):
    """Running statistics and weights that are not those of a fresh model."""
    for p in model.parameters():
        p.data += 0.02 * torch.randn_like(p)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(**inputs())
    model.eval()


def strip(path):
    """Removes the stack traces, which are most of a small file."""
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key == 'pkg.torch.onnx.fx_node']
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        node.doc_string = ''
    onnx.save(model, path)


def derivatives(name, model, feed):
    """Of the logits, and of their cross-entropy, of the first two samples."""
    feed = {key: value[:2] for key, value in feed.items()}
    target = torch.tensor([3, 1])
    wrt = WRT[name]
    start = tuple(feed[key] if key in feed else model.get_parameter(key).detach() for key in wrt)

    def logits(*values):
        changed = dict(zip(wrt, values))
        parameters = {key: value for key, value in changed.items() if key not in feed}
        return torch.func.functional_call(model, parameters, (), {key: changed.get(key, x) for key, x in feed.items()})

    def loss(*values):
        return nn.functional.cross_entropy(logits(*values), target)

    torch.manual_seed(1)
    tangents = tuple(torch.randn_like(x) for x in start)
    cotangent = torch.randn(2, 10)
    _, vjp = torch.autograd.functional.vjp(logits, start, cotangent)
    # By the double backward pass, as not all operators have a forward derivative.
    _, jvp = torch.autograd.functional.jvp(logits, start, tangents)
    _, hvp = torch.autograd.functional.hvp(loss, start, tangents)
    jacobian = torch.autograd.functional.jacobian(logits, start[:1])
    hessian = torch.autograd.functional.hessian(loss, start[:1])
    found = {**feed, 'target': target, 'cotangent': cotangent, 'jvp': jvp,
             'jacobian': jacobian[0], 'hessian': hessian[0][0], 'gradient_loss': loss(*start)}
    for i, key in enumerate(wrt):
        found |= {f'{key}|tangent': tangents[i], f'{key}|vjp': vjp[i], f'{key}|hvp': hvp[i]}
        found[f'{key}|gradient'] = torch.autograd.functional.jacobian(loss, start)[i]
    save_file({key: value.detach().contiguous().clone() for key, value in found.items()}, f'{HERE}/{name}-derivatives.safetensors')


def main(names):
    warnings.simplefilter('ignore')
    for name in names:
        make, inputs, head, axes = CASES[name]
        torch.manual_seed(0)
        model = make(10).eval()
        train_statistics(model, inputs)
        feed = inputs()
        for exporter, how in {
            'legacy': dict(dynamo=False, opset_version=17, dynamic_axes=axes | {'logits': {0: 'batch'}}),
            'dynamo': dict(dynamo=True, opset_version=18, dynamic_shapes=axes, verbose=False),
        }.items():
            path = f'{HERE}/{name}-{exporter}.onnx'
            torch.onnx.export(model, tuple(feed.values()), path, input_names=list(feed), output_names=['logits'],
                              **({**how, 'external_data': False} if how['dynamo'] else how))
            strip(path)
        derivatives(name, model, feed)
        old = model.get_submodule(head)
        new = nn.Linear(old.in_features, CLASSES) if isinstance(old, nn.Linear) else nn.Conv2d(old.in_channels, CLASSES, 1)
        for p in model.parameters():
            p.requires_grad_(False)
        parent, _, last = head.rpartition('.')
        setattr(model.get_submodule(parent), last, new)
        target = torch.arange(6) % CLASSES
        loss = nn.functional.cross_entropy(model(**feed), target)
        loss.backward()
        assert [n for n, p in model.named_parameters() if p.grad is not None] == [f'{head}.weight', f'{head}.bias']
        save_file({
            **feed, 'target': target, 'loss': loss.detach(),
            'weight': new.weight.detach(), 'bias': new.bias.detach(),
            'weight_grad': new.weight.grad, 'bias_grad': new.bias.grad,
        }, f'{HERE}/{name}.safetensors')


main(sys.argv[1:] or CASES)
