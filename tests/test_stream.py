"""Logs on NATS streams, read with a client that is not ours, by what log.proto and the page for readers say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import pytest
from crc32c import crc32c
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

from audit_frames import Frame, Protos, read_frame, split, uuid_text
from story import ROOT, USD, Network, binary, live, new_id

PATIENCE = 60
SERVICES = ("ledger", "accounts")
PAGE = (ROOT / "docs/how-to/follow-the-streams.md").read_text()
OK = "OK"
Transfers = Counter[tuple[str, str]]
"""Ids and codes."""


class Broker:
    """A nats-server of these tests alone."""

    def __init__(self, root: Path) -> None:
        places = os.pathsep.join([str(ROOT / ".tools/venv/bin"), os.environ.get("PATH", "")])
        program = shutil.which("nats-server", path=places)
        if program is None:
            pytest.skip("streams are NOT TESTED: there is no nats-server; `cargo xtask test` installs it into .tools/venv")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        self.address = f"127.0.0.1:{port}"
        words = [program, "-js", "-a", "127.0.0.1", "-p", port, "-sd", str(root / "store")]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("nats-server to listen", self.answers)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(self.address.split(":"), timeout=1):
            return True
        return False

    @contextlib.asynccontextmanager
    async def streams(self) -> AsyncIterator[JetStreamContext]:
        client = await nats.connect(self.address)
        try:
            yield client.jetstream()
        finally:
            await client.close()


def until(what: str, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


class Carried(Network):
    """A network that remembers what it was told of its transfers."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.told: list[tuple[str, str]] = []

    def transfers(self, transfers: Sequence[Mapping[str, Any]], key: str = "", **more: Any) -> list[str]:
        named = [{"transfer_id": new_id(), **transfer} for transfer in transfers]
        codes = super().transfers(named, key, **more)
        self.told += zip((transfer["transfer_id"] for transfer in named), codes, strict=True)
        return codes

    def done(self) -> set[str]:
        return {transfer for transfer, code in self.told if code == OK}


@dataclass
class World:
    """A life that is over, what it has left on the broker, and its log."""

    broker: Broker
    network: Carried
    frames: dict[str, list[Frame]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("streams")
    broker, network = Broker(root), Carried(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLMES__BUS__NATS", broker.address)
        try:
            network.run("migrate", "--nats", broker.address)
            live(network)
            network.run("replay", "--dir", str(network.data), "--frames", str(root / "frames"))
            yield World(broker, network, {name: frames(root / f"frames/{name}.frames", name) for name in SERVICES})
        finally:
            for process in (network.server, broker.process):
                if process is not None:
                    process.kill()
                    process.wait()


def frames(path: Path, service: str) -> list[Frame]:
    return [read_frame(number, raw) for number, raw in split(path, service)]


def subject(service: str) -> str:
    return f"evt.v1.1.{service}"


def stream(service: str) -> str:
    return f"EVT_1_{service.upper()}"


async def everything(broker: Broker, service: str) -> list[Msg]:
    """All that a durable pull consumer is given."""
    async with broker.streams() as streams:
        pull = await streams.pull_subscribe(subject(service), durable=f"all-{service}", stream=stream(service))
        messages: list[Msg] = []
        pending = 1
        while pending:
            for message in await pull.fetch(7, timeout=5):
                await message.ack()
                messages.append(message)
            pending = messages[-1].metadata.num_pending
        return messages


@pytest.fixture(scope="module")
def messages(world: World) -> dict[str, list[Msg]]:
    return {name: asyncio.run(everything(world.broker, name)) for name in SERVICES}


def public(protos: Protos, message: Msg) -> Any:
    return protos.message("holmes.log.v1.PublicFrame").FromString(message.data)


def events(protos: Protos, service: str, frame: Any) -> Iterator[tuple[int, Any]]:
    """What others may see of a frame, each with its number."""
    kind = protos.message(f"holmes.{service}.v1.Event")
    for entry in frame.entries:
        offsets = list(entry.offsets) or range(len(entry.entry.events))
        for offset, event in zip(offsets, entry.entry.events, strict=True):
            yield entry.first + offset, kind.FromString(event)


def transfers(protos: Protos, frame: Any) -> Transfers:
    found: Transfers = Counter()
    codes = protos.enum("holmes.ledger.v1.TransferCode").values_by_number
    for _, event in events(protos, "ledger", frame):
        row = event.transfers_recorded  # empty where the event is another
        for item, code in enumerate(row.codes):
            name = codes[code].name.removeprefix("TRANSFER_CODE_")
            found[uuid_text(row.ids[16 * item : 16 * item + 16]), name] += 1
    return found


def test_a_durable_consumer_reads_every_frame_in_one_chain(
    world: World, messages: dict[str, list[Msg]], protos: Protos
) -> None:
    seq, chain, found = 0, bytes(32), Counter[tuple[str, str]]()
    for message in messages["ledger"]:
        frame = public(protos, message)
        assert message.subject == subject("ledger") and message.headers is not None
        assert (message.headers["Holmes-First"], message.headers["Holmes-Last"]) == (str(frame.first), str(frame.last))
        assert message.data[-5] == 15 << 3 | 5 and crc32c(message.data[:-5]) == frame.crc32c
        assert (frame.cell, frame.svc, frame.shard) == (1, protos.numbers["ledger"], 0)
        assert frame.first == seq + 1 and frame.prev_chain == chain
        seq, chain = frame.last, frame.chain
        found += transfers(protos, frame)
    assert found == Counter(world.network.told)


@pytest.mark.parametrize("service", SERVICES)
def test_a_stream_is_the_log_and_nothing_private_leaves(
    world: World, messages: dict[str, list[Msg]], protos: Protos, service: str
) -> None:
    log, carried = world.frames[service], [public(protos, message) for message in messages[service]]
    assert {frame.term for frame in log} >= {0, 1}, "it was opened, and served"
    heads = [(f.term, f.first, f.last, f.ts, f.prev_chain, f.chain) for f in log]
    assert [(f.term, f.first, f.last, f.ts_us, f.prev_chain, f.chain) for f in carried] == heads
    body = protos.message("holmes.log.v1.Body")
    kind = protos.message(f"holmes.{service}.v1.Event")
    hidden = 0
    for frame, theirs in zip(log, carried, strict=True):
        written, seq = {}, frame.first
        for entry in body.FromString(frame.body).entries:
            numbered = dict(enumerate(map(kind.FromString, entry.events), seq))
            written |= {number: event for number, event in numbered.items() if leaves(protos, event)}
            hidden += len(numbered) - len(written.keys() & numbered.keys())
            seq += max(len(entry.events), 1)
        assert dict(events(protos, service, theirs)) == written
    assert hidden, "the story has private events in it"


def leaves(protos: Protos, event: Any) -> bool:
    """Whether the option (holmes.public) stands at an event's type."""
    what = getattr(event, event.WhichOneof("event")).DESCRIPTOR
    options = protos.message("google.protobuf.MessageOptions").FromString(what.GetOptions().SerializeToString())
    return bool(options.Extensions[protos.pool.FindExtensionByName("holmes.public")])


@dataclass
class Reader:
    """The rule of PublicFrame, and what it has said."""

    position: int = 0
    applied: list[int] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)

    def take(self, frame: Any, numbers: list[int]) -> str:
        what = "drop" if frame.last <= self.position else "apply" if frame.first == self.position + 1 else "gap"
        if what == "apply":
            self.position = frame.last
            self.applied += numbers
        self.said[what] += 1
        return what


@pytest.mark.parametrize("ahead", [1, 1_000])
def test_what_comes_again_or_out_of_order_is_applied_once_and_in_order(
    world: World, messages: dict[str, list[Msg]], protos: Protos, ahead: int
) -> None:
    carried = [public(protos, message) for message in messages["ledger"]]
    numbers = {frame.first: [number for number, _ in events(protos, "ledger", frame)] for frame in carried}
    head, reader = world.frames["ledger"][-1].last, Reader()

    async def follow(most: int | None) -> None:
        """To the end; or for so many messages, of which each third is lost: behind what is done with it, or before that."""
        async with world.broker.streams() as streams:
            config = ConsumerConfig(ack_wait=0.5, max_ack_pending=ahead)
            pull = await streams.pull_subscribe(subject("ledger"), f"rule-{ahead}", stream("ledger"), config)
            count, end = 0, time.monotonic() + PATIENCE
            while reader.position < head and (most is None or count < most):
                assert time.monotonic() < end, reader
                with contextlib.suppress(nats.errors.TimeoutError):
                    for message in await pull.fetch(min(4, ahead), timeout=0.5):
                        count += 1
                        lost = most is not None and count % 3 == 0
                        if lost and count % 6 == 0:
                            continue
                        frame = public(protos, message)
                        what = reader.take(frame, numbers[frame.first])
                        if what == "gap":
                            await message.nak(delay=0.1)
                        elif not lost:
                            await message.ack()

    asyncio.run(follow(most=12))
    assert 0 < reader.position < head, "it was stopped on its way"
    asyncio.run(follow(most=None))
    assert reader.applied == sorted(number for each in numbers.values() for number in each)
    assert reader.said["apply"] == len(numbers) and reader.said["drop"] > 0
    assert (reader.said["gap"] > 0) == (ahead > 1), "one at a time, nothing overtakes what comes again"


class Typed:
    """The page's programs and commands, in a directory of their own."""

    def __init__(self, world: World, root: Path) -> None:
        self.world, self.root = world, root
        (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        (root / "follow.py").write_text(program)
        (root / "proto").symlink_to(ROOT / "proto")
        (root / "holmes-data").symlink_to(world.network.data)
        (root / "bin").mkdir()
        (root / "bin/holmes").symlink_to(binary().resolve())
        self.type(self.line("grpc_tools.protoc"))

    def line(self, words: str) -> str:
        """The one line of the page's commands with these words."""
        blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", "")
        (line,) = [line for line in blocks.splitlines() if words in line]
        return line.replace("127.0.0.1:4222", self.world.broker.address)

    def listen(self, out: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        return self.start(f"exec {self.line('python follow.py nats://')}", out)

    def fill(self, change: Callable[[str], str] = lambda line: line) -> None:
        self.type("\n".join([self.line("staff() {"), change(self.line("follow.py fill"))]))

    def start(self, line: str, out: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        network = self.world.network
        env = os.environ | {"HOLMES_SERVER": network.address, "HOLMES__CELL__PROFILE": str(network.profile)}
        env["PATH"] = os.pathsep.join([str(self.root / "bin"), str(Path(sys.executable).parent), env["PATH"]])
        return subprocess.Popen(["sh", "-c", line], cwd=self.root, env=env, stdout=out, stderr=subprocess.PIPE, text=True)

    def type(self, line: str) -> None:
        process = self.start(line)
        err = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, err

    def rows(self) -> list[tuple[int, int, str, int]]:
        with contextlib.closing(sqlite3.connect(self.root / "transfers.db")) as db:
            try:
                return db.execute("SELECT * FROM transfers ORDER BY seq, item").fetchall()
            except sqlite3.OperationalError:  # it is not made yet
                return []

    @contextlib.contextmanager
    def following(self) -> Iterator[Path]:
        """While the program runs; it ends as programs do that nobody has asked."""
        said = self.root / "said.txt"
        with said.open("w") as out:
            process = self.listen(out)
            try:
                yield said
                assert process.poll() is None, process.stderr.read()
            finally:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[World]:
    """The same, with its server running again."""
    world.network.start()
    yield world
    world.network.stop()


def test_the_page_s_reader_does_what_the_page_says(served: World, tmp_path: Path) -> None:
    typed, network = Typed(served, tmp_path), served.network
    with typed.following() as said:
        until("all transfers", lambda: len(typed.rows()) >= len(network.done()))
    shape = re.compile(r"\d+ [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12} TRANSFER_KIND_(SINGLE|HOLD|POST|VOID) \d+")
    (shown,) = re.findall(r"```text\n(\d+ [0-9a-f]{8}-[^`]*)```", PAGE, re.DOTALL)
    for line in shown.splitlines() + said.read_text().splitlines():
        assert shape.fullmatch(line), line
    before = typed.rows()
    assert [(f"{seq} {transfer}", units) for seq, _, transfer, units in before] == [
        (f"{seq} {transfer}", int(units)) for seq, transfer, _, units in map(str.split, said.read_text().splitlines())
    ]
    key = network.party("carol")[1]
    pair = [network.open(USD, key) for _ in range(2)]
    network.call("Ledger/RecordDeposit", {"account_id": pair[0], "amount_units": "100", "reference": "wire 3"})
    with typed.following() as said:
        pay = {"debit_account_id": pair[0], "credit_account_id": pair[1], "amount_units": "5"}
        assert network.transfers([pay], key) == [OK]
        until("the transfer", lambda: len(typed.rows()) > len(before))
        assert said.read_text().split()[1:] == [network.told[-1][0], "TRANSFER_KIND_SINGLE", "5"], "nothing is said again"
    assert {transfer for _, _, transfer, _ in typed.rows()} == network.done()
    assert len(typed.rows()) == len(network.done())


def test_a_gap_ends_the_page_s_reader_until_it_is_filled(served: World, tmp_path: Path) -> None:
    """The last one: it takes away what the others read."""
    whole, behind = (tmp_path / name for name in ("whole", "behind"))
    whole.mkdir(), behind.mkdir()
    one, other = Typed(served, whole), Typed(served, behind)
    one.fill(lambda line: line.replace(', "after": 7', ""))
    assert {transfer for _, _, transfer, _ in one.rows()} == served.network.done()
    other.fill(lambda line: line.replace('"after"', '"upto"'))

    async def forget() -> None:
        async with served.broker.streams() as streams:
            await streams.purge_stream(stream("ledger"), seq=15)

    asyncio.run(forget())
    reader = other.listen()
    why = reader.communicate(timeout=PATIENCE)[1]
    assert reader.returncode == 1 and re.search(r"7 is applied, and \d+ comes next", why), why
    other.fill()
    assert other.rows() == one.rows()
    with other.following():
        time.sleep(1)
    assert other.rows() == one.rows()
