"""Transfers as they stand in the ledger's log: columns, content digests (E-2.3), linked chains (E-2.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from audit_frames import ensure, short_hash, uuid_text

NOBODY = bytes(16)
SINGLE, HOLD, POST, VOID = 1, 2, 3, 4
BALANCING, DEBIT_OWNER = 0x80, 0x40
"""What a content's digest has beside the kind."""


@dataclass(frozen=True)
class Row:
    """One transfer of a TransfersRecorded."""

    id: bytes
    debit: bytes
    credit: bytes
    units: int
    burned: int
    kind: int
    code: str
    digest: bytes
    tag: int
    hold: bytes
    expires: int
    coordinator: bytes


def rows_of(event: Any, codes: dict[int, str]) -> Iterator[Row]:
    """The columns of a TransfersRecorded as rows."""
    count = len(event.ids) // 16
    ends = sum(kind in (POST, VOID) for kind in event.kinds)
    holds = sum(kind == HOLD for kind in event.kinds)
    whole = [len(event.ids), len(event.debits), len(event.credits)] == [16 * count] * 3
    whole &= [len(event.amounts_units), len(event.kinds), len(event.codes)] == [count] * 3
    whole &= len(event.digests) == 8 * count and len(event.holds) == 16 * ends
    whole &= len(event.expiries_us) == holds and len(event.coordinators) in (0, 18 * holds)
    whole &= len(event.burned_units) in (0, count) and len(event.tags) in (0, count)
    ensure(count > 0 and whole, "the columns of a row of transfers differ in length")
    opened = ended = 0
    for at in range(count):
        kind, code = event.kinds[at], codes.get(event.codes[at], "UNSPECIFIED")
        ensure(SINGLE <= kind <= VOID and code != "UNSPECIFIED", f"transfer {at} has no kind or no code")
        hold, expires, coordinator = NOBODY, 0, bytes(18)
        if kind == HOLD:
            expires = event.expiries_us[opened]
            coordinator = event.coordinators[18 * opened : 18 * opened + 18] or coordinator
            opened += 1
        elif kind != SINGLE:
            hold = event.holds[16 * ended : 16 * ended + 16]
            ended += 1
        id, debit, credit = (column[16 * at : 16 * at + 16] for column in (event.ids, event.debits, event.credits))
        units, digest = event.amounts_units[at], event.digests[8 * at : 8 * at + 8]
        burned = event.burned_units[at] if event.burned_units else 0
        tag = event.tags[at] if event.tags else 0
        yield Row(id, debit, credit, units, burned, kind, code, digest, tag, hold, expires, coordinator)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def linked_by_digest(row: Row, contents: list[bytes], flags: int = 0) -> bool | None:
    """Whether a row says that it is linked; None when its digest fits neither (E-2.3)."""
    kind = bytes([row.kind | flags])
    for linked in (False, True):
        for content in contents:
            if short_hash(struct.pack("<IB", row.tag, linked) + kind + content)[:8] == row.digest:
                return linked
    return None


def check_chains(rows: list[Row], linked: list[bool]) -> None:
    """E-2.2, as far as it shows: what is linked to a transfer that happened has happened too, and what failed for
    another's failure has one beside it."""
    for at, row in enumerate(rows):
        if linked[at]:
            ensure(at + 1 < len(rows), "E-2.2: a chain ends with a linked transfer")
            ensure(
                rows[at + 1].code == "OK",
                f"E-2.2: half a chain happened: {uuid_text(row.id)} without the next",
            )
    run: list[str] = []
    for code in [row.code for row in rows] + ["OK"]:
        if code != "OK":
            run.append(code)
            continue
        ensure(not run or set(run) != {"LINKED_FAILED"}, "E-2.2: a chain failed although no transfer of it did")
        run = []


def check_refusal(row: Row, debit: Any, credit: Any) -> None:
    """E-2.5, as far as it shows: what an account stands in the way of was refused while it did. The accounts are None where
    the ledger has none."""
    so = {
        "DEBIT_NOT_FOUND": debit is None,
        "CREDIT_NOT_FOUND": credit is None,
        "ACCOUNT_FROZEN": debit is not None and debit.frozen,
        "ACCOUNT_CLOSED": any(account is not None and account.closed for account in (debit, credit)),
    }
    ensure(so.get(row.code, True), f"transfer {uuid_text(row.id)} is refused with {row.code}, which its accounts do not bear out")
