"""Writes tests/data/minilm.json: reference embeddings of all-MiniLM-L6-v2.

An independent float64 program from the BERT paper's formulas; it shares no code with the engine except that its
token ids come from the Python package `tokenizers`, which wraps the same Rust crate.

    python -m venv v && v/bin/pip install numpy tokenizers
    v/bin/python minilm.py MODEL_DIR > ../data/minilm.json
"""
import json
import math
import struct
import sys

import numpy as np
from tokenizers import Tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A fast auburn fox leapt above a sleepy hound.",
    "Quarterly revenue rose by 12.5% to $3.4 billion, beating forecasts.",
    "Naïve café owners — déjà vu! 東京で寿司を食べる。",
    "x",
    " ".join(f"word{i} of a very long text" for i in range(80)),
]
HEADS, LAYERS, EPS, MAX_TOKENS = 12, 6, 1e-12, 256


def load(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    out = {}
    for name, t in header.items():
        if name != "__metadata__" and t["dtype"] == "F32":
            a, b = t["data_offsets"]
            out[name] = np.frombuffer(data[a:b], "<f4").reshape(t["shape"]).astype(np.float64)
    return out


def main(root):
    w = load(f"{root}/model.safetensors")
    tokenizer = Tokenizer.from_file(f"{root}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    erf = np.vectorize(math.erf)

    def norm(x, name):
        c = x - x.mean(-1, keepdims=True)
        return c / np.sqrt((c * c).mean(-1, keepdims=True) + EPS) * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        e = "embeddings."
        x = w[e + "word_embeddings.weight"][ids] + w[e + "position_embeddings.weight"][: len(ids)]
        x = norm(x + w[e + "token_type_embeddings.weight"][0], e + "LayerNorm")
        for layer in range(LAYERS):
            p = f"encoder.layer.{layer}."
            q, k, v = (
                linear(x, p + f"attention.self.{n}").reshape(len(ids), HEADS, -1).transpose(1, 0, 2)
                for n in ("query", "key", "value")
            )
            s = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
            s = np.exp(s - s.max(-1, keepdims=True))
            a = (s / s.sum(-1, keepdims=True)) @ v
            a = a.transpose(1, 0, 2).reshape(len(ids), -1)
            x = norm(x + linear(a, p + "attention.output.dense"), p + "attention.output.LayerNorm")
            h = linear(x, p + "intermediate.dense")
            h = h * 0.5 * (1 + erf(h / math.sqrt(2)))
            x = norm(x + linear(h, p + "output.dense"), p + "output.LayerNorm")
        m = x.mean(0)
        m /= np.linalg.norm(m)
        cases.append({"text": text, "tokens": ids, "embedding": [round(float(v), 8) for v in m]})
    json.dump({"model": "all-MiniLM-L6-v2", "cases": cases}, sys.stdout, ensure_ascii=False, separators=(",", ":"))
    print()


main(sys.argv[1])
