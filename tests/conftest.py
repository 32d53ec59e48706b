"""What more than one file of tests needs: one demo for all of them, and its log when it is over."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from audit_frames import Protos
from story import ROOT, binary, tests_of

PATIENCE = 240


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """What looks into the demo's log ends the demo: it comes behind everything that speaks to it."""
    items.sort(key=lambda item: "demo_log" in item.fixturenames)


class Demo:
    """`holmes demo --keep` with the model of the binary, and where it can be reached."""

    def __init__(self, root: Path) -> None:
        self.dir = root / "demo"
        self.said = root / "said.txt"
        env = os.environ | {"HOLMES__MODELS__DIR": str(ROOT / ".tools/models")}
        command = [binary(), "demo", "--keep", "--model", "holmes-tiny", "--dir", str(self.dir)]
        with self.said.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        places = self.dir / "demo.json"
        deadline = time.monotonic() + PATIENCE
        while not places.exists():
            assert self.process.poll() is None, f"the demo ended:\n{self.words()}"
            assert time.monotonic() < deadline, f"the demo hangs:\n{self.words()}"
            time.sleep(0.2)
        self.places: dict[str, Any] = json.loads(places.read_text())

    def words(self) -> str:
        return self.said.read_text()

    def client(self, key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.places["http"], api_key=key or self.places["api_key"], max_retries=0)

    def busy(self, seconds: float) -> None:
        """Calls one behind the other, of which some run when scheduling hears of what runs: once a second."""
        until = time.monotonic() + seconds

        def ask() -> None:
            client = self.client()
            while time.monotonic() < until:
                with contextlib.suppress(openai.APIStatusError):  # all slots are in use
                    client.completions.create(model="holmes-tiny", prompt="1 2 3", max_tokens=200)

        with ThreadPoolExecutor(3) as askers:
            for each in [askers.submit(ask) for _ in range(3)]:
                each.result()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait()


@dataclass
class DemoLog:
    """What the demo has left: its data directory, and its frames as anybody gets them."""

    data: Path
    frames: Path


@pytest.fixture(scope="session")
def demo_log(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> DemoLog:
    demo.busy(6.0)
    demo.stop()
    log = DemoLog(demo.dir / "data", tmp_path_factory.mktemp("log") / "frames")
    subprocess.run([binary(), "replay", "--dir", log.data, "--frames", log.frames], check=True, timeout=120)
    return log


@pytest.fixture(scope="session")
def life_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames of a network's long life on virtual time: services/holmes/tests/whole/life.rs writes them."""
    frames = tmp_path_factory.mktemp("life")
    lives = [tests_of("whole"), "--exact", "life::a_long_life_keeps_every_invariant_and_is_told_again_by_its_logs"]
    done = subprocess.run(lives, env=os.environ | {"HOLMES_LIFE": str(frames)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
    return frames


@pytest.fixture(scope="session")
def protos() -> Protos:
    return Protos(ROOT / "proto")
