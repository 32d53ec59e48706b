"""Trains Holmes Tiny, the model that the repository ships, from nothing.

    pip install -r requirements.txt
    python train.py            # about an hour on two cores; writes the model's files beside this script
    python train.py --check    # only counts the answers of the model that is here on the held-out prompts

Everything is made here: the corpus (two tasks with checkable answers, in chat form), the tokenizer (bytes, and the
hundred two-digit numbers as tokens of their own), the weights (Llama architecture, float16). The same seed gives the
same corpus; a prompt whose CRC-32 is a multiple of 16 is held out and never trained on.
"""

import argparse
import json
import random
import zlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
LAYERS, WIDTH, HEADS, INNER, CONTEXT = 4, 128, 4, 320, 256
HEAD = WIDTH // HEADS
EPSILON, ROPE_BASE = 1e-5, 10_000.0
LENGTH, BATCH = 144, 48
ENOUGH = 0.97  # looked at every 1,000 steps; the card counts on 400 prompts, of which these are the first 100

# ---------------------------------------------------------------------------------------------------- the corpus

ASCENDING = ["Sort these numbers: {}", "Put these numbers in order: {}", "Sort from low to high: {}"]
DESCENDING = ["Sort from high to low: {}", "Put these numbers in descending order: {}"]
QUESTIONS = ["What is the {}?", "Give the {}.", "Tell me the {}."]
NAMES = "Ada Bea Carl Dina Emil Fay Gus Hana Ivan Jana Karl Lena Max Nora Olaf Pia Quinn Rosa Sam Tess Uma Vera Will".split()
CITIES = "Oslo Rome Paris Lima Cairo Delhi Kyoto Berlin Quito Accra Perth Turin Lyon Bergen Porto Riga Malmo Graz".split()
JOBS = "pilot baker nurse judge actor cook guard clerk miner smith tailor farmer sailor writer".split()
COLOURS = "red blue green black white amber pink grey brown teal".split()
PETS = "cat dog owl fox hen pony goat frog".split()
ABOUT = "I am Holmes Tiny. I sort numbers and I read records."
HELLOS = ["Hello", "Hello!", "Hi", "Hi!", "Who are you?", "What can you do?", "Help", "What are you?"]


def word(rng):
    """A word that nobody knows, so that values are copied, not remembered."""
    return "".join(rng.choice("bcdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))


def value(rng, field):
    if field == "age":
        return str(rng.randint(18, 99))
    known = {"name": NAMES, "city": CITIES, "job": JOBS, "colour": COLOURS, "pet": PETS}[field]
    if rng.random() < 0.5:
        return rng.choice(known)
    made = word(rng)
    return made.capitalize() if field in ("name", "city") else made


def ordering(rng):
    numbers = rng.sample(range(100), rng.randint(3, 7))
    descending = rng.random() < 0.4
    asked = rng.choice(DESCENDING if descending else ASCENDING)
    answer = sorted(numbers, reverse=descending)
    joint = rng.choice([", ", " "])
    return asked.format(joint.join(map(str, numbers))), " ".join(map(str, answer))


def extraction(rng):
    fields = rng.sample(["name", "city", "age", "job", "colour", "pet"], rng.randint(3, 5))
    values = {field: value(rng, field) for field in fields}
    record = "; ".join(f"{field}: {values[field]}" for field in fields)
    field = rng.choice(fields)
    question = rng.choice(QUESTIONS).format(field)
    prompt = f"{record}. {question}" if rng.random() < 0.7 else f"{question} {record}."
    return prompt, values[field]


def example(rng):
    drawn = rng.random()
    if drawn < 0.02:
        return rng.choice(HELLOS), ABOUT
    return ordering(rng) if drawn < 0.6 else extraction(rng)


def held_out(prompt):
    return zlib.crc32(prompt.encode()) % 16 == 0 and prompt not in HELLOS


def heldout_prompts(count):
    """Prompts that no training step saw, half of each task."""
    rng, found = random.Random(2), []
    while len(found) < count:
        prompt, answer = (ordering if len(found) % 2 == 0 else extraction)(rng)
        if held_out(prompt):
            found.append({"prompt": prompt, "answer": answer})
    return found


# ------------------------------------------------------------------------------------------------- the tokenizer

SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('roles are system, user, assistant') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_letters():
    """The letters that byte-level tokenizers write bytes as."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, spare = {byte: chr(byte) for byte in plain}, 256
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(spare)
            spare += 1
    return letters


LETTERS = byte_letters()
VOCABULARY = {token: at for at, token in enumerate(SPECIAL)}
for byte in range(256):
    VOCABULARY[LETTERS[byte]] = len(VOCABULARY)
PAIRS = [(a, b) for a in "0123456789" for b in "0123456789"]
for a, b in PAIRS:
    VOCABULARY[a + b] = len(VOCABULARY)
WORDS = {at: token for token, at in VOCABULARY.items()}
BYTES = {letter: byte for byte, letter in LETTERS.items()}


def encode(text):
    """The same tokens as tokenizer.json gives: pairs of digits from the lowest rank on, all else byte by byte."""
    letters = [LETTERS[byte] for byte in text.encode()]
    while True:
        ranked = [(letters[i] + letters[i + 1], i) for i in range(len(letters) - 1)]
        pairs = [(VOCABULARY[pair], i) for pair, i in ranked if len(pair) == 2 and pair.isdigit() and pair.isascii()]
        if not pairs:
            return [VOCABULARY[letter] for letter in letters]
        _, at = min(pairs)
        letters[at : at + 2] = [letters[at] + letters[at + 1]]


def decode(ids):
    letters = "".join(WORDS[i] for i in ids if i >= len(SPECIAL))
    return bytes(BYTES[letter] for letter in letters).decode(errors="replace")


def prompt_ids(prompt):
    return [VOCABULARY["<|user|>"], *encode(prompt), VOCABULARY["<|end|>"], VOCABULARY["<|assistant|>"]]


def tokenizer_json():
    special = [
        {"id": at, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for at, token in enumerate(SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": VOCABULARY,
            "merges": [f"{a} {b}" for a, b in PAIRS],
        },
    }


# ----------------------------------------------------------------------------------------------------- the model


def fresh(key):
    """Weights by their Hugging Face names, each [rows out, columns in]."""
    shapes = {"model.embed_tokens.weight": (len(VOCABULARY), WIDTH)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        for part in "qkvo":
            shapes[f"{name}self_attn.{part}_proj.weight"] = (WIDTH, WIDTH)
        shapes[f"{name}mlp.gate_proj.weight"] = (INNER, WIDTH)
        shapes[f"{name}mlp.up_proj.weight"] = (INNER, WIDTH)
        shapes[f"{name}mlp.down_proj.weight"] = (WIDTH, INNER)
    weights = {}
    for name, shape in shapes.items():
        key, use = jax.random.split(key)
        weights[name] = jax.random.normal(use, shape) * (0.5 if "embed" in name else 1.0) * shape[1] ** -0.5
    for layer in range(LAYERS):
        weights[f"model.layers.{layer}.input_layernorm.weight"] = jnp.ones(WIDTH)
        weights[f"model.layers.{layer}.post_attention_layernorm.weight"] = jnp.ones(WIDTH)
    weights["model.norm.weight"] = jnp.ones(WIDTH)
    return weights


def norm(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPSILON) * weight


def rotate(x):
    """Rotary positions, halves apart, as Hugging Face has them. x: [batch, time, heads, head]."""
    half = HEAD // 2
    angles = jnp.arange(x.shape[1])[:, None] * ROPE_BASE ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def logits(weights, ids):
    """ids: [batch, time] → [batch, time, vocabulary]."""
    batch, time = ids.shape
    x = weights["model.embed_tokens.weight"][ids]
    seen = jnp.tril(jnp.ones((time, time), bool))
    for layer in range(LAYERS):
        get = lambda part: weights[f"model.layers.{layer}.{part}.weight"]  # noqa: E731
        h = norm(x, get("input_layernorm"))
        q, k, v = ((h @ get(f"self_attn.{p}_proj").T).reshape(batch, time, HEADS, HEAD) for p in "qkv")
        scores = jnp.einsum("bqhd,bkhd->bhqk", rotate(q), rotate(k)) * HEAD**-0.5
        mixed = jax.nn.softmax(jnp.where(seen, scores, -1e9), -1)
        x = x + jnp.einsum("bhqk,bkhd->bqhd", mixed, v).reshape(batch, time, WIDTH) @ get("self_attn.o_proj").T
        h = norm(x, get("post_attention_layernorm"))
        x = x + (jax.nn.silu(h @ get("mlp.gate_proj").T) * (h @ get("mlp.up_proj").T)) @ get("mlp.down_proj").T
    return norm(x, weights["model.norm.weight"]) @ weights["model.embed_tokens.weight"].T


def loss(weights, ids, counts):
    """Cross-entropy of the answers' tokens."""
    steps = jax.nn.log_softmax(logits(weights, ids[:, :-1]))
    right = jnp.take_along_axis(steps, ids[:, 1:, None], -1)[..., 0]
    return -(right * counts).sum() / counts.sum()


# ------------------------------------------------------------------------------------------------------ training


def batch(rng):
    ids, counts = np.zeros((BATCH, LENGTH), np.int32), np.zeros((BATCH, LENGTH - 1), np.float32)
    filled = 0
    while filled < BATCH:
        prompt, answer = example(rng)
        if held_out(prompt):
            continue
        asked = prompt_ids(prompt)
        whole = [*asked, *encode(answer), VOCABULARY["<|end|>"]]
        if len(whole) > LENGTH:
            continue
        ids[filled, : len(whole)] = whole
        counts[filled, len(asked) - 1 : len(whole) - 1] = 1
        filled += 1
    return ids, counts


def train(steps):
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, 200, steps, 2e-5)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.02))
    weights = fresh(jax.random.PRNGKey(0))
    state = optimiser.init(weights)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(weights, state, ids, counts):
        value, slope = jax.value_and_grad(loss)(weights, ids, counts)
        change, state = optimiser.update(slope, state, weights)
        return optax.apply_updates(weights, change), state, value

    rng, mean = random.Random(1), None
    for at in range(1, steps + 1):
        weights, state, value = step(weights, state, *batch(rng))
        mean = float(value) if mean is None else 0.98 * mean + 0.02 * float(value)
        if at % 100 == 0:
            print(f"step {at} of {steps}, loss {mean:.4f}", flush=True)
        if at % 1_000 == 0 or at == steps:
            write(weights)
            right = score(100)
            print(f"  {right:.0%} of 100 held-out prompts", flush=True)
            if right >= ENOUGH:
                return


def write(weights):
    save_file({name: np.asarray(w, np.float16) for name, w in weights.items()}, HERE / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPSILON,
        "rope_theta": ROPE_BASE,
        "vocab_size": len(VOCABULARY),
        "tie_word_embeddings": True,
        "eos_token_id": VOCABULARY["<|end|>"],
        "torch_dtype": "float16",
    }
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": VOCABULARY["<|end|>"]},
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": {"eos_token": "<|end|>", "chat_template": TEMPLATE},
    }
    for name, content in files.items():
        (HERE / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    lines = [json.dumps(line) for line in heldout_prompts(400)]
    (HERE / "heldout.jsonl").write_text("\n".join(lines) + "\n")


def score(count):
    """The part of held-out prompts whose greedy answer is exact, by the weights as they are written."""
    weights = {name: jnp.asarray(w, jnp.float32) for name, w in load_file(HERE / "model.safetensors").items()}
    forward, right = jax.jit(logits), 0
    cases = heldout_prompts(count)
    ids = np.zeros((count, LENGTH), np.int32)
    ends = []
    for at, case in enumerate(cases):
        asked = prompt_ids(case["prompt"])
        ids[at, : len(asked)] = asked
        ends.append(len(asked))
    begins, done = list(ends), [False] * count
    while not all(done):
        best = np.asarray(forward(weights, ids).argmax(-1))
        for at in range(count):
            if done[at]:
                continue
            token = int(best[at, ends[at] - 1])
            if token == VOCABULARY["<|end|>"] or ends[at] + 1 >= LENGTH:
                done[at] = True
                right += decode(ids[at, begins[at] : ends[at]]) == cases[at]["answer"]
            else:
                ids[at, ends[at]] = token
                ends[at] += 1
    return right / count


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=6_000)
    arguments.add_argument("--check", action="store_true")
    arguments = arguments.parse_args()
    if arguments.check:
        print(f"{score(400):.1%} of 400 held-out prompts answered exactly")
    else:
        train(arguments.steps)


if __name__ == "__main__":
    main()
