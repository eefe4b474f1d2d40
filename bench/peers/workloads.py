"""The benchmark's models, as PyTorch modules, and a batch of data for each."""
import torch
from torch import nn
import torch.nn.functional as F

from real import MobileNetV3Large, bert_base, gpt2_small, resnet50, vit_small

def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))

class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))

class Residual(nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k)
        self.c2, self.b2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k)
        self.short = nn.Sequential() if c == k else nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))

    def forward(self, x):
        y = self.b2(self.c2(F.relu(self.b1(self.c1(x)))))
        return F.relu(y + self.short(x))

def resnet20():
    blocks, c = [], 16
    for k in (16, 32, 64):
        for i in range(3):
            blocks.append(Residual(c, k, 2 if i == 0 and k > 16 else 1))
            c = k
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks,
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

class Lstm(nn.Module):
    def __init__(self, words=10000, width=200, layers=2):
        super().__init__()
        self.e = nn.Embedding(words, width)
        self.r = nn.LSTM(width, width, layers, batch_first=True)
        self.o = nn.Linear(width, words)

    def forward(self, x):
        return self.o(self.r(self.e(x))[0])

class Block(nn.Module):
    """Normalized before its parts, with GELU (GPT), or after them, with ReLU (the first Transformer)."""
    def __init__(self, c, heads, before):
        super().__init__()
        self.heads, self.before = heads, before
        self.n1, self.qkv, self.p = nn.LayerNorm(c), nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.n2 = nn.LayerNorm(c)
        self.m = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU() if before else nn.ReLU(), nn.Linear(4 * c, c))

    def attend(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, c // self.heads).transpose(1, 2) for z in self.qkv(x).split(c, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.p(y.transpose(1, 2).reshape(b, t, c))

    def forward(self, x):
        if self.before:
            x = x + self.attend(self.n1(x))
            return x + self.m(self.n2(x))
        x = self.n1(x + self.attend(x))
        return self.n2(x + self.m(x))

class LanguageModel(nn.Module):
    def __init__(self, before, words=1000, c=128, layers=4, context=128):
        super().__init__()
        self.w, self.p = nn.Embedding(words, c), nn.Parameter(torch.randn(context, c) * 0.02)
        self.b = nn.Sequential(*(Block(c, 4, before) for _ in range(layers)))
        self.n, self.o = nn.LayerNorm(c), nn.Linear(c, words, bias=False)

    def forward(self, x):
        return self.o(self.n(self.b(self.w(x) + self.p)))

class DeepCross(nn.Module):
    def __init__(self, tables=26, rows=100000, width=8, dense=13):
        super().__init__()
        self.e = nn.ModuleList(nn.Embedding(rows, width) for _ in range(tables))
        d = tables * width + dense
        self.w = nn.ParameterList(nn.Parameter(torch.randn(d, 1) * d ** -0.5) for _ in range(3))
        self.c = nn.ParameterList(nn.Parameter(torch.zeros(d)) for _ in range(3))
        self.m = nn.Sequential(nn.Linear(d, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
        self.o = nn.Linear(d + 128, 1)

    def forward(self, ids, x):
        x0 = torch.cat([e(ids[:, i]) for i, e in enumerate(self.e)] + [x], 1)
        x1 = x0
        for w, c in zip(self.w, self.c):
            x1 = x0 * (x1 @ w) + c + x1
        return self.o(torch.cat([x1, self.m(x0)], 1)).squeeze(1)

def _classes(n, shape):
    return torch.randint(0, n, shape)

def resnet50_shapes():
    """Of ResNet-50's 161 parameters: 25.6 million elements."""
    shapes = [(64, 3, 7, 7), (64,), (64,)]
    c = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for i in range(blocks):
            for shape in ((width, c, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)):
                shapes += [shape, shape[:1], shape[:1]]
            if i == 0:
                shapes += [(4 * width, c, 1, 1), (4 * width,), (4 * width,)]
            c = 4 * width
    return [*shapes, (1000, 2048), (1000,)]

# name: (module, inputs, target, loss), each made when called
MODELS = {
    'mlp-32': (mlp, lambda: [torch.randn(32, 784)], lambda: _classes(10, (32,)), 'cross-entropy'),
    'mlp-128': (mlp, lambda: [torch.randn(128, 784)], lambda: _classes(10, (128,)), 'cross-entropy'),
    'lenet': (LeNet, lambda: [torch.randn(64, 1, 28, 28)], lambda: _classes(10, (64,)), 'cross-entropy'),
    'resnet20': (resnet20, lambda: [torch.randn(64, 3, 32, 32)], lambda: _classes(10, (64,)), 'cross-entropy'),
    'lstm': (Lstm, lambda: [_classes(10000, (20, 35))], lambda: _classes(10000, (20, 35)), 'cross-entropy'),
    'transformer': (lambda: LanguageModel(False), lambda: [_classes(1000, (16, 128))],
                    lambda: _classes(1000, (16, 128)), 'cross-entropy'),
    'gpt': (lambda: LanguageModel(True), lambda: [_classes(1000, (16, 128))],
            lambda: _classes(1000, (16, 128)), 'cross-entropy'),
    'dcn': (DeepCross, lambda: [_classes(100000, (1024, 26)), torch.randn(1024, 13)],
            lambda: torch.randint(0, 2, (1024,)).float(), 'bce-with-logits'),
}

# The same, of the size that people fine-tune.
REAL = {
    'gpt2-small': (gpt2_small, lambda: [_classes(50257, (2, 128))], lambda: _classes(50257, (2, 128)), 'cross-entropy'),
    'bert-base': (bert_base, lambda: [_classes(30522, (8, 128))], lambda: _classes(2, (8,)), 'cross-entropy'),
    'resnet50': (resnet50, lambda: [torch.randn(8, 3, 160, 160)], lambda: _classes(1000, (8,)), 'cross-entropy'),
    'mobilenetv3-large': (MobileNetV3Large, lambda: [torch.randn(16, 3, 224, 224)], lambda: _classes(1000, (16,)),
                          'cross-entropy'),
    'vit-small': (vit_small, lambda: [torch.randn(8, 3, 224, 224)], lambda: _classes(1000, (8,)), 'cross-entropy'),
}
MODELS.update(REAL)

# name: shapes of the tensors that an update alone changes
UPDATES = {
    'agd-1': [(10_000_000,)],
    'agd-100': [(100_000,)] * 100,
    'agd-resnet50': resnet50_shapes(),
}

def loss(kind, output, target):
    if kind == 'bce-with-logits':
        return F.binary_cross_entropy_with_logits(output, target)
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1))
