"""The demo as a visitor runs it, and the `openai` package, which we did not write, against what it leaves up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from itertools import takewhile
from typing import Any

import openai
import pytest

from conftest import Demo, DemoLog
from story import ROOT, binary

TASK = "Sort these numbers: 41, 7, 93, 18"
SORTED = "7 18 41 93"


def chat(client: openai.OpenAI, content: str = TASK, **more: Any) -> Any:
    message = {"role": "user", "content": content}
    return client.chat.completions.create(model="holmes-tiny", messages=[message], **more)


def test_the_demo_tells_its_story(demo: Demo) -> None:
    said = demo.words()
    for part in ("is killed while it answers", "goes on at", "hung up after", "receipts/", "Supply", "answers again after"):
        assert part in said, f"{part!r} is not in:\n{said}"
    seen = re.findall(r"goes on at .*, from token (\d+)", said)
    assert seen and all(int(tokens) >= 16 for tokens in seen), f"killed before enough of it was seen: {seen}"


def test_tables_of_epochs_say_which(demo: Demo) -> None:
    lines = [line.split() for line in demo.words().splitlines()]
    closed = next(int(line[3]) for line in lines if line[2:3] == ["epoch"] and line[4:6] == ["is", "closed,"])

    def epochs(column: str) -> list[int]:
        at = next(n for n, line in enumerate(lines) if line[:2] == ["EPOCH", column])
        rows = takewhile(lambda line: line and line[0].isdigit(), lines[at + 1 :])
        return [int(line[0]) for line in rows]

    pools, rewards = epochs("POOL"), epochs("OPERATOR")
    assert pools == sorted(pools) and set(pools) == set(range(1, closed + 1))
    # On a slow machine an epoch ends before every operator is there: it has fewer rows, or none.
    assert rewards == sorted(rewards) and closed in rewards and set(rewards) <= set(pools)


def test_a_question_is_answered_with_its_usage_and_receipt(demo: Demo) -> None:
    answer = chat(demo.client())
    assert answer.choices[0].message.content == SORTED
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.holmes["receipts"][0].startswith("receipts/")


def test_a_stream_says_the_same_in_parts_and_ends_with_its_usage(demo: Demo) -> None:
    parts = list(chat(demo.client(), stream=True, stream_options={"include_usage": True}))
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == SORTED
    assert parts[-1].usage.completion_tokens > 0
    assert [part.choices[0].finish_reason for part in parts if part.choices][-1] == "stop"


def test_models_and_completions(demo: Demo) -> None:
    client = demo.client()
    assert "holmes-tiny" in [model.id for model in client.models.list()]
    answer = client.completions.create(model="holmes-tiny", prompt="1 2 3", max_tokens=3)
    assert answer.usage.completion_tokens <= 3 and answer.choices[0].finish_reason in ("length", "stop")


def test_embeddings_are_vectors_where_the_model_is(demo: Demo) -> None:
    client = demo.client()
    if "all-minilm-l6-v2" not in [model.id for model in client.models.list()]:
        pytest.skip("all-minilm-l6-v2 is not here: cargo xtask models")
    texts = ["a node serves a model", "a node that serves a model", "the sea is blue"]
    near, same, far = (line.embedding for line in client.embeddings.create(model="all-minilm-l6-v2", input=texts).data)

    def alike(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert alike(near, same) > 0.8 > 0.5 > alike(near, far)


def test_what_is_wrong_is_said_as_openai_says_it(demo: Demo) -> None:
    with pytest.raises(openai.AuthenticationError):
        chat(demo.client("hk_wrong"))
    with pytest.raises(openai.NotFoundError):
        demo.client().chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "x"}])
    for more in ({"n": 2}, {"temperature": 1_000}, {"max_tokens": 0}, {"tools": [{"type": "function", "function": {"name": "f"}}]}):
        with pytest.raises(openai.BadRequestError):
            chat(demo.client(), **more)


def test_answers_while_a_visitor_kills_a_node_are_whole(demo: Demo) -> None:
    offered = [line.strip() for line in demo.words().splitlines()]
    script = "\n".join(line for line in offered if line.startswith(("export ", "seq ", "grep ")))
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=180)
    assert ran.stdout.split()[-1] == re.search(r"^seq (\d+) ", script, re.M)[1], ran.stdout + ran.stderr


def test_a_node_dies_in_the_middle_of_an_answer_whenever_a_visitor_asks_for_it(demo: Demo) -> None:
    told = demo.words()
    command = re.search(r"^ *(kill -USR1 \d+)$", told, re.M)[1]
    for _ in range(3):
        before, deadline = len(demo.words()), time.monotonic() + 60
        subprocess.run(command.split(), check=True)
        while "runs again, as process" not in demo.words()[before:] or "whole answer" not in demo.words()[before:]:
            assert time.monotonic() < deadline and demo.process.poll() is None, demo.words()[before:]
            time.sleep(0.1)
        seen = re.findall(r"goes on at .*, from token (\d+)", demo.words()[before:])
        assert seen and all(int(tokens) >= 16 for tokens in seen), demo.words()[before:]
        time.sleep(0.3)


def test_the_log_of_it_all_is_verified_and_audited(demo_log: DemoLog) -> None:
    command = [binary(), "verify", "--dir", demo_log.data, "-o", "json"]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert verified.returncode == 0, verified.stderr
    names = {row["service"] for row in json.loads(verified.stdout) if row["ok"]}
    assert {"ledger", "accounts", "treasury", "staking", "scheduling", "market", "emission"} <= names
    command = [sys.executable, ROOT / "tests/audit.py", demo_log.frames]
    audited = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert audited.returncode == 0, audited.stdout + audited.stderr
