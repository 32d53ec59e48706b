"""What the rules of more than one service need: entries as they stand in a log, columns, shares, and other logs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from audit_frames import Log, Meta, Protos, Record, ensure, short_hash

PPB = 10**9
Table = tuple[list[str], list[list[str]]]


def system_account(name: str) -> bytes:
    return short_hash(f"account:{name}".encode())


def ids(column: bytes, width: int = 16) -> list[bytes]:
    """A column of ids, one after another."""
    ensure(len(column) % width == 0, f"a column of ids is not a multiple of {width} bytes long")
    return [column[at : at + width] for at in range(0, len(column), width)]


def wide(number: bytes) -> int:
    """A u128, 16 bytes big-endian."""
    ensure(len(number) in (0, 16), "a u128 has not 16 bytes")
    return int.from_bytes(number, "big")


def wides(column: bytes) -> list[int]:
    return [wide(number) for number in ids(column)]


def raw_id(text: str) -> bytes:
    """The bytes of a UUID in text."""
    return bytes.fromhex(text.replace("-", ""))


def ceil_div(number: int, by: int) -> int:
    return -(-number // by)


def clamp(number: Any, least: Any, most: Any) -> Any:
    return max(least, min(most, number))


def apportion(total: int, weights: Sequence[tuple[Any, int]]) -> list[int]:
    """E-0.4: floors, then one unit each to the largest remainders, ties to the smaller id."""
    whole = sum(weight for _, weight in weights)
    if whole == 0:
        return [0] * len(weights)
    shares = [total * weight // whole for _, weight in weights]
    order = sorted(range(len(weights)), key=lambda at: (-(total * weights[at][1] % whole), weights[at][0]))
    for at in order[: total - sum(shares)]:
        shares[at] += 1
    return shares


def epoch_of(ts: int, tge_us: int, epoch_s: int) -> int:
    """E-0.5."""
    return (ts - tge_us) // (epoch_s * 1_000_000) + 1


class Service:
    """What every service's rules have. `apply` leads an event to the method of its name."""

    name = ""

    def __init__(self, protos: Protos) -> None:
        self.protos = protos
        self.event = protos.message(f"holmes.{self.name}.v1.Event")
        self.params: Any = None

    def open(self, params: bytes) -> None:
        self.params = self.protos.message(f"holmes.{self.name}.v1.Params").FromString(params)

    def apply(self, event: Any, meta: Meta) -> None:
        which = event.WhichOneof("event")
        getattr(self, f"_{which}")(getattr(event, which), meta)

    def after_entry(self) -> None:
        """Nothing, unless a service says otherwise."""

    def finish(self) -> None:
        """Nothing, unless a service says otherwise."""

    def across(self, world: World) -> None:
        """Nothing, unless a service says otherwise."""

    def report(self) -> dict[str, Any]:
        return {}

    def tables(self) -> list[Table]:
        return []


@dataclass
class World:
    """All logs of a cell, entry by entry, and what was recomputed from each."""

    logs: dict[str, Log]
    machines: dict[str, Any]
    numbers: dict[str, int]
    taken: dict[tuple[str, str], dict[int, Record]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = {number: name for name, number in self.numbers.items()}
        self.ends = {name: [record.last for record in log.records] for name, log in self.logs.items()}
        for name, log in self.logs.items():
            for record in log.records:
                if record.source is not None and record.source[0] in names:
                    self.taken.setdefault((name, names[record.source[0]]), {})[record.source[1]] = record

    def has(self, *names: str) -> bool:
        return all(name in self.logs and self.logs[name].records for name in names)

    def at(self, name: str, seq: int) -> Record | None:
        """The entry that holds a sequence number."""
        at = bisect_left(self.ends[name], seq)
        return self.logs[name].records[at] if at < len(self.ends[name]) else None

    def of(self, consumer: str, source: str) -> dict[int, Record]:
        """What a service wrote for entries of another's log, by their place."""
        return self.taken.get((consumer, source), {})

    def pairs(self, consumer: str, source: str) -> Iterator[tuple[Record, Record | None]]:
        """Every entry of a log that another service may have taken in, with what that wrote for it. An entry behind
        the last one that was taken in is not yet due."""
        taken = self.of(consumer, source)
        reached = max(taken, default=0)
        for record in self.logs[source].records:
            if record.last <= reached:
                found = (taken[seq] for seq in range(record.seq, record.last + 1) if seq in taken)
                yield record, next(found, None)

    def agree(
        self,
        consumer: str,
        source: str,
        said: Callable[[Record], list[Any]],
        noted: Callable[[Record], list[Any]],
        what: str,
    ) -> None:
        """Each fact of one log stands in the other exactly once, and says the same."""
        if not self.has(consumer, source):
            return
        for cause, effect in self.pairs(consumer, source):
            expected = said(cause)
            if effect is None:
                cause.must(not expected, f"{consumer} went past it and did not take in {what}")
                continue
            found = noted(effect)
            effect.must(
                found == expected,
                f"it notes {what} of {source}@{cause.last} as {found}, which says {expected}",
            )


def events_of(record: Record, which: str) -> list[Any]:
    return [event for _, name, event in record.events if name == which]


