"""Writes recorded-tokenizers.json: small tokenizers of each kind, with what the tokenizers library of Python makes of some texts, and
the bits per byte of a model that gives each token its own score wherever it is. Needs tokenizers, numpy."""

import json
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    "the cat sat on the mat",
    "the dog, which barks: na\u00efve \u20ac5 \U0001f600!",
    "zzz  two spaces\nand a line<|end|>the mat",
]
CORPUS = ["the cat sat on the mat", "the dog sat on the cat", "a dog barks at the mat", "which mat?"] * 4


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|end|>"],
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("line", normalized=False)])
    return tokenizer


def metaspace():
    """As Llama's: spaces are replaced, unknown characters are bytes."""
    alphabet = sorted({c for text in CORPUS for c in text.replace(" ", "\u2581")})
    tokens = ["<unk>", "<|end|>", *[f"<0x{i:02X}>" for i in range(256)], *alphabet]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("a", "t")]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    return tokenizer


def unigram():
    pieces = [("<unk>", 0.0), ("<|end|>", 0.0)]
    characters = sorted({c for text in [*CORPUS, *TEXTS] for c in text.replace(" ", "\u2581")})
    pieces += [(c, -6.0 - 0.01 * i) for i, c in enumerate(characters)]
    pieces += [("\u2581the", -2.0), ("\u2581ma", -3.0), ("at", -3.5), ("\u2581sat", -3.2)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    return tokenizer


def word_level():
    words = ["[UNK]", "the", "cat", "sat", "mat", ",", "dog"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def record(tokenizer):
    count = tokenizer.get_vocab_size()
    scores = np.sin(np.arange(count)) * 3
    log_p = scores - np.log(np.exp(scores).sum())
    texts = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        # Special tokens are no text.
        size = len(text.replace("<|end|>", "").encode())
        texts.append({"text": text, "ids": ids, "bitsPerByte": float(-log_p[ids].sum() / np.log(2) / size)})
    return {"tokenizer": json.loads(tokenizer.to_str()), "texts": texts}


made = {
    "byte-level BPE": byte_level(),
    "SentencePiece BPE": metaspace(),
    "SentencePiece Unigram": unigram(),
    "WordLevel": word_level(),
}
(Path(__file__).parent / "recorded-tokenizers.json").write_text(
    json.dumps({name: record(tokenizer) for name, tokenizer in made.items()}, indent=1, ensure_ascii=True) + "\n"
)
