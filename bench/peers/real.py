"""Models of the size that people fine-tune, with random weights and without dropout; needs transformers."""
from torch import nn
import torch.nn.functional as F


class Logits(nn.Module):
    """A model of transformers whose output is the logits alone."""
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits

def gpt2_small():
    from transformers import GPT2Config, GPT2LMHeadModel
    return Logits(GPT2LMHeadModel(GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, use_cache=False)))

def bert_base():
    from transformers import BertConfig, BertForSequenceClassification
    return Logits(BertForSequenceClassification(BertConfig(hidden_dropout_prob=0, attention_probs_dropout_prob=0)))

def resnet50():
    from transformers import ResNetConfig, ResNetForImageClassification
    return Logits(ResNetForImageClassification(ResNetConfig(num_labels=1000)))

def vit_small():
    from transformers import ViTConfig, ViTForImageClassification
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000,
                       hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    return Logits(ViTForImageClassification(config))

def _divisible(n):
    near = max(8, int(n + 4) // 8 * 8)
    return near if near >= 0.9 * n else near + 8

def _unit(c, k, size, stride=1, groups=1, activation=nn.Identity):
    return nn.Sequential(nn.Conv2d(c, k, size, stride, size // 2, groups=groups, bias=False),
                         nn.BatchNorm2d(k, eps=1e-3, momentum=0.01), activation())

class SqueezeExcite(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.down, self.up = nn.Conv2d(c, _divisible(c // 4), 1), nn.Conv2d(_divisible(c // 4), c, 1)

    def forward(self, x):
        return x * F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))

class InvertedResidual(nn.Module):
    def __init__(self, c, size, wide, k, squeeze, activation, stride):
        super().__init__()
        self.adds = stride == 1 and c == k
        self.parts = nn.Sequential(*([_unit(c, wide, 1, activation=activation)] if wide != c else []),
                                   _unit(wide, wide, size, stride, wide, activation),
                                   *([SqueezeExcite(wide)] if squeeze else []), _unit(wide, k, 1))

    def forward(self, x):
        return x + self.parts(x) if self.adds else self.parts(x)

class MobileNetV3Large(nn.Module):
    """Table 1 of Searching for MobileNetV3 (arXiv:1905.02244)."""
    ROWS = [(3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2), (5, 120, 40, 1, 0, 1),
            (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
            (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1), (5, 960, 160, 1, 1, 1)]

    def __init__(self):
        super().__init__()
        blocks, c = [_unit(3, 16, 3, 2, activation=nn.Hardswish)], 16
        for size, wide, k, squeeze, hard, stride in self.ROWS:
            blocks.append(InvertedResidual(c, size, wide, k, squeeze, nn.Hardswish if hard else nn.ReLU, stride))
            c = k
        self.features = nn.Sequential(*blocks, _unit(c, 960, 1, activation=nn.Hardswish))
        self.classifier = nn.Sequential(nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))
