"""Frames as proto/holmes/log/v1/log.proto describes them: read, checked, chained. Shares no code with Holmes."""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    from blake3 import blake3
    from crc32c import crc32c
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError
    from grpc_tools import protoc
except ImportError as missing:
    sys.exit(f"error: {missing}; install what the audit needs: pip install -r tests/requirements.txt")

HEADER = struct.Struct("<HHHHQQQQI32sI")
FORMAT = 1
MOST_BYTES = HEADER.size + 384 * 1024
MOST_EVENTS = 512
MOST_ENTRY_EVENTS = MOST_EVENTS // 2
WINDOW_AGE_US = 3_600_000_000
WINDOW_AHEAD_US = 300_000_000

KINDS = ("system", "service", "staff", "account", "node", "gateway")
SYSTEM, SERVICE, STAFF, ACCOUNT, NODE, GATEWAY = range(len(KINDS))


class Broken(Exception):
    """Something that cannot be in an honest log; whoever knows the place turns it into a Fault."""


@dataclass
class Fault(Exception):
    """What does not hold, and where. Frames are counted from 1 in each file."""

    service: str
    frame: int
    seq: int
    reason: str

    def __str__(self) -> str:
        return f"{self.service}: frame {self.frame}, seq {self.seq}: {self.reason}"


def ensure(holds: bool, reason: str) -> None:
    if not holds:
        raise Broken(reason)


def short_hash(data: bytes) -> bytes:
    """BLAKE3-128."""
    return blake3(data).digest(16)


def uuid_text(raw: bytes) -> str:
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def uuid_moment_us(raw: bytes) -> int | None:
    """The moment in a UUIDv7; None when it is none."""
    if len(raw) != 16 or raw[6] >> 4 != 7 or raw[8] >> 6 != 2:
        return None
    return int.from_bytes(raw[:6], "big") * 1_000


def principal_text(raw: bytes) -> str:
    kind, number = KINDS[raw[0]], int.from_bytes(raw[1:], "big")
    return kind if kind == "system" else f"{kind}/{number if kind == 'service' else uuid_text(raw[1:])}"


def check_principal(raw: bytes) -> None:
    ensure(len(raw) == 17 and raw[0] < len(KINDS), "the principal is not one byte of kind and 16 of id")


class Protos:
    """Messages compiled from the .proto files at run time."""

    def __init__(self, root: Path) -> None:
        files = sorted(str(path.relative_to(root)) for path in root.glob("holmes/**/*.proto"))
        if not files:
            sys.exit(f"error: no .proto files under {root}/holmes: name their directory with --proto")
        with tempfile.TemporaryDirectory() as out:
            compiled = Path(out, "set.bin")
            well_known = str(Path(protoc.__file__).parent / "_proto")
            options = [
                "protoc",
                f"-I{root}",
                f"-I{well_known}",
                "--include_imports",
                f"--descriptor_set_out={compiled}",
            ]
            if protoc.main(options + files) != 0:
                sys.exit(f"error: the .proto files under {root} do not compile; protoc says why above")
            found = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes())
        self.pool = descriptor_pool.DescriptorPool()
        for file in found.file:
            self.pool.Add(file)
        self.numbers = dict(self._numbers(found))

    def _numbers(self, found: Any) -> Iterator[tuple[str, int]]:
        """Each service's number in frames: the option (holmes.service) of its events.proto."""
        options = message_factory.GetMessageClass(self.pool.FindMessageTypeByName("google.protobuf.FileOptions"))
        number = self.pool.FindExtensionByName("holmes.service")
        for file in found.file:
            read = options.FromString(file.options.SerializeToString())
            if read.HasExtension(number):
                yield file.package.split(".")[1], read.Extensions[number]

    def message(self, name: str) -> Any:
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def enum(self, name: str) -> Any:
        return self.pool.FindEnumTypeByName(name)


def decode(kind: Any, raw: bytes, what: str) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError as why:
        raise Broken(f"{what} cannot be read: {why}") from None


@dataclass(frozen=True)
class Frame:
    """One frame, its header taken apart."""

    number: int
    cell: int
    svc: int
    shard: int
    term: int
    first: int
    last: int
    ts: int
    schema: int
    prev_chain: bytes
    body: bytes
    chain: bytes


@dataclass(frozen=True)
class Meta:
    """What an event has beside itself."""

    ts: int
    seq: int
    principal: bytes
    origin: str


def split(path: Path, service: str) -> Iterator[tuple[int, bytes]]:
    """The frames of a file, each behind its length as u32 little-endian."""
    data, at, number = path.read_bytes(), 0, 0
    while at < len(data):
        number += 1
        length = int.from_bytes(data[at : at + 4], "little")
        raw = data[at + 4 : at + 4 + length]
        if at + 4 > len(data) or len(raw) < length or length < HEADER.size or length > MOST_BYTES:
            reason = f"its length of {length} bytes does not fit the file or a frame; the file was cut or altered"
            raise Fault(service, number, 0, reason)
        yield number, raw
        at += 4 + length


def read_frame(number: int, raw: bytes) -> Frame:
    cell, svc, shard, layout, term, first, last, ts, schema, prev, crc = HEADER.unpack_from(raw)
    ensure(layout == FORMAT, f"layout {layout} is not known; this audit knows {FORMAT}")
    body = raw[HEADER.size :]
    found = crc32c(body, crc32c(raw[: HEADER.size - 4]))
    ensure(found == crc, f"its checksum {crc:08x} does not match its bytes ({found:08x})")
    chain = blake3(prev + raw).digest()
    return Frame(number, cell, svc, shard, term, first, last, ts, schema, prev, body, chain)


@dataclass(frozen=True)
class Record:
    """An entry as it stands in a log."""

    service: str
    frame: int
    seq: int
    last: int
    ts: int
    principal: bytes
    source: tuple[int, int] | None
    """Number of the service and place in its log that caused it."""
    refused: str
    events: list[tuple[int, str, Any]]
    """Place, name and content of each event."""

    def must(self, holds: bool, reason: str, seq: int = 0) -> None:
        """Names this entry, or one event of it, when something does not hold."""
        if not holds:
            raise Fault(self.service, self.frame, seq or self.seq, reason)


@dataclass
class Log:
    """What is known of one service's log while it is read."""

    service: str
    number: int | None
    frames: int = 0
    entries: int = 0
    events: int = 0
    cell: int = 0
    term: int = 0
    ts: int = 0
    seq: int = 0
    chain: bytes = bytes(32)
    profile: bytes = b""
    places: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Last sequence number, term and chain of every frame."""
    sightings: list[tuple[int, int, Any]] = field(default_factory=list)
    """Frame, sequence number and origin of every entry that came from another log."""
    requests: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    """Every entry, for the checks between logs; only of services whose events are known."""
    submitted: dict[bytes, int] = field(default_factory=dict)
    taken_in: dict[tuple[int, int], int] = field(default_factory=dict)

    def follow(self, frame: Frame) -> None:
        """Checks that a frame is the next one."""
        if self.frames == 0:
            self.cell, self.number = frame.cell, frame.svc if self.number is None else self.number
        ensure(frame.svc == self.number, f"it belongs to service {frame.svc}, not to {self.number}")
        ensure(frame.cell == self.cell and frame.cell > 0, f"it belongs to cell {frame.cell}, not to {self.cell}")
        ensure(frame.shard == 0, f"it belongs to shard {frame.shard}; there is only 0")
        ensure(frame.first == self.seq + 1, f"it begins at {frame.first}, the log goes on at {self.seq + 1}")
        ensure(frame.first <= frame.last < frame.first + MOST_EVENTS, f"it claims {frame.first} to {frame.last}")
        ensure(
            frame.prev_chain == self.chain,
            "it does not follow from the frame before: its prev_chain is another",
        )
        ensure(frame.ts > self.ts, f"log time does not rise: {frame.ts} after {self.ts}")
        ensure(frame.term >= self.term, f"the term falls from {self.term} to {frame.term}")
        self.frames, self.term, self.ts = frame.number, frame.term, frame.ts
        self.seq, self.chain = frame.last, frame.chain
        self.places.append((frame.last, frame.term, frame.chain))

    def enter(self, frame: Frame, seq: int, entry: Any) -> None:
        """Checks by which way an entry came in, and that it came only once."""
        way = entry.WhichOneof("origin")
        ensure(way is not None, "an entry has no origin")
        check_principal(entry.principal)
        ensure(
            not (entry.events and entry.HasField("refused")),
            "an entry is refused and has events all the same",
        )
        ensure(len(entry.events) <= MOST_ENTRY_EVENTS, f"an entry has {len(entry.events)} events")
        ensure((way == "opened") == (seq == 1), "a log is opened by its first entry and by no other")
        kind = entry.principal[0]
        ensure((kind == SYSTEM) == (way in ("due", "opened")), f"{principal_text(entry.principal)} came by {way}")
        if way == "request":
            self._request(frame, entry)
        elif way == "submitter":
            expected = self.submitted.get(entry.principal, 0) + 1
            ensure(
                entry.submitter.number == expected,
                f"submission {entry.submitter.number} where {expected} was next",
            )
            self.submitted[entry.principal] = expected
        elif way == "source":
            origin = entry.source
            before = self.taken_in.get((origin.cell, origin.svc), 0)
            ensure(
                origin.seq > before,
                f"service {origin.svc} was taken in up to {before}, now {origin.seq} again",
            )
            self.taken_in[origin.cell, origin.svc] = origin.seq
            self.sightings.append((frame.number, seq, origin))
        elif way == "opened":
            self.profile = entry.opened.profile_hash
            ensure((entry.opened.cell, entry.opened.shard) == (frame.cell, frame.shard), "it opens another log")
            ensure(len(self.profile) == 16, "the profile's hash has not 16 bytes")

    def _request(self, frame: Frame, entry: Any) -> None:
        request = entry.request.request_id
        moment = uuid_moment_us(request)
        ensure(moment is not None, f"request id {request.hex()} is not a UUIDv7")
        assert moment is not None
        young = moment + WINDOW_AGE_US >= frame.ts and moment <= frame.ts + WINDOW_AHEAD_US
        ensure(young, f"request {uuid_text(request)} is older than an hour, or of the future")
        ensure(len(entry.request.digest) == 16, "a command's digest has not 16 bytes")
        key = (entry.principal, request)
        ensure(key not in self.requests, f"request {uuid_text(request)} stands in the log twice")
        self.requests[key] = moment

    def holds_at(self, seq: int) -> tuple[int, int, bytes] | None:
        """The frame that holds a sequence number: its last one, its term, its chain."""
        return next((place for place in self.places if place[0] >= seq), None)
