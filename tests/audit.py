#!/usr/bin/env python3
"""An audit of a Holmes network that shares nothing with Holmes but its published .proto files.

It reads what `holmes replay --frames DIR` writes, one file of frames for each service, and recomputes everything from
the bytes: checksums, chains, sequence numbers, times, who came in by which way, and for the services that it knows what
their events must be by the rules, as far as the logs bear that out. Exit code 0: everything holds. 1: something does
not, and the line says which service, which frame (counted from 1 in its file), which sequence number and why. 2: it
could not begin.

What it cannot know: whether frames are missing behind the last one, or whether a whole history was written anew. Hold
the heads that it prints against those published elsewhere.

  holmes replay --frames frames && python tests/audit.py frames
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from audit_accounts import Accounts
from audit_common import World
from audit_emission import Emission
from audit_frames import Broken, Fault, Frame, Log, Meta, Protos, Record, decode, ensure, read_frame, split
from audit_ledger import Ledger
from audit_market import Market
from audit_scheduling import Scheduling
from audit_sends import Sends
from audit_staking import Staking
from audit_treasury import Treasury

SERVICES: dict[str, Any] = {
    "ledger": Ledger,
    "accounts": Accounts,
    "staking": Staking,
    "scheduling": Scheduling,
    "market": Market,
    "emission": Emission,
    "treasury": Treasury,
}
"""The services whose events are recomputed. Of any other only the chain is checked, and the audit says so.

A class has `event` (the message), `open(params)`, `apply(event, meta)`, `after_entry()`, `finish()`, `report()` for
--json and `tables()` for people; what does not hold it says by `ensure`. One that looks into other logs has
`across(world)`, and names the entry by `Record.must`."""


class Audit:
    """All logs of one directory."""

    def __init__(self, protos: Protos) -> None:
        self.protos = protos
        self.body = protos.message("holmes.log.v1.Body")
        self.logs: dict[str, Log] = {}
        self.machines: dict[str, Any] = {}

    def read(self, path: Path) -> None:
        """Audits one service's file."""
        name = path.stem
        log = self.logs[name] = Log(name, self.protos.numbers.get(name))
        machine = self.machines[name] = SERVICES[name](self.protos) if name in SERVICES else None
        for number, raw in split(path, name):
            place = [log.seq + 1]
            try:
                frame = read_frame(number, raw)
                log.follow(frame)
                self._entries(log, machine, frame, place)
            except Broken as why:
                raise Fault(name, number, place[0], str(why)) from None
        if machine and log.frames:
            try:
                machine.finish()
            except Broken as why:
                raise Fault(name, log.frames, log.seq, str(why)) from None

    def _entries(self, log: Log, machine: Any, frame: Frame, place: list[int]) -> None:
        seq = frame.first
        for entry in decode(self.body, frame.body, "its body").entries:
            place[0] = seq
            log.enter(frame, seq, entry)
            log.entries += 1
            if machine and entry.HasField("opened"):
                machine.open(entry.opened.params)
            events: list[tuple[int, str, Any]] = []
            for at, raw in enumerate(entry.events):
                place[0] = seq + at
                log.events += 1
                if machine:
                    event = decode(machine.event, raw, "an event")
                    which = event.WhichOneof("event")
                    ensure(which is not None, "an event is not known to these .proto files")
                    ensure(hasattr(machine, f"_{which}"), f"the audit has no rule for the event {which} yet")
                    events.append((seq + at, which, getattr(event, which)))
                    machine.apply(event, Meta(frame.ts, seq + at, entry.principal, entry.WhichOneof("origin")))
            last = seq + max(1, len(entry.events)) - 1
            if machine:
                machine.after_entry()
                source = (entry.source.svc, entry.source.seq) if entry.HasField("source") else None
                by, why = entry.principal, entry.refused.reason
                log.records.append(
                    Record(log.service, frame.number, seq, last, frame.ts, by, source, why, events)
                )
            seq = last + 1
        ensure(seq == frame.last + 1, f"its entries end at {seq - 1}, its header says {frame.last}")

    def across(self) -> None:
        """What the logs say of each other."""
        logs = [log for log in self.logs.values() if log.frames]
        by_number = {log.number: log for log in logs}
        for log in logs:
            same = (log.cell, log.profile) == (logs[0].cell, logs[0].profile)
            if not same:
                raise Fault(log.service, 1, 1, f"it belongs to another network or cell than {logs[0].service}")
            for frame, seq, origin in log.sightings:
                source = by_number.get(origin.svc)
                if source is None or origin.cell != log.cell:
                    continue
                found = source.holds_at(origin.seq)
                if found is None or found[1:] != (origin.term, origin.chain):
                    reason = f"it took in {source.service} at {origin.seq}, which that log does not have"
                    raise Fault(log.service, frame, seq, reason)
        world = World(self.logs, self.machines, self.protos.numbers)
        Sends(self.protos).check(world)
        for name, machine in self.machines.items():
            if hasattr(machine, "across") and self.logs[name].frames:
                machine.across(world)


def audited(protos: Protos, files: list[Path]) -> tuple[Audit, Fault | None]:
    """Audits files of frames, each called after its service."""
    audit = Audit(protos)
    try:
        for path in sorted(files, key=lambda path: (protos.numbers.get(path.stem, 1 << 16), path.stem)):
            audit.read(path)
        audit.across()
    except Fault as found:
        return audit, found
    return audit, None


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def tell(audit: Audit, fault: Fault | None) -> None:
    """For people."""
    head = ["SERVICE", "FRAMES", "ENTRIES", "EVENTS", "LAST SEQ", "HEAD"]
    logs = audit.logs.values()
    rows = [[log.service, *map(str, (log.frames, log.entries, log.events, log.seq)), log.chain.hex()] for log in logs]
    print(table(head, rows))
    for name, machine in audit.machines.items():
        if machine is None:
            print(f"\n{name}: the audit has no rules for its events; only its chain was checked")
        elif not fault and audit.logs[name].frames:
            for head, rows in machine.tables():
                print(f"\n{name}\n{table(head, rows)}")
    print(f"\nFAULT in {fault}" if fault else "\neverything that was checked holds")


def as_json(audit: Audit, fault: Fault | None) -> str:
    """For programs."""

    def log(log: Log) -> dict[str, Any]:
        known = audit.machines.get(log.service) is not None
        head = {"seq": log.seq, "chain": log.chain.hex()}
        counts = {"frames": log.frames, "entries": log.entries, "events": log.events}
        return {"service": log.service, "number": log.number, **counts, "head": head, "recomputed": known}

    found = None if fault is None else dict(vars(fault))
    told = {"holds": fault is None, "fault": found, "services": [log(each) for each in audit.logs.values()]}
    machines = {name: machine for name, machine in audit.machines.items() if machine and audit.logs[name].frames}
    return json.dumps(told | {name: machine.report() for name, machine in machines.items()}, indent=2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path, help="directory that `holmes replay --frames` has written")
    own = Path(__file__).resolve().parent.parent / "proto"
    parser.add_argument("--proto", type=Path, default=own, help="directory of the .proto files")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    files = sorted(args.frames.glob("*.frames"))
    if not files:
        print(
            f"error: no *.frames in {args.frames}: make them with `holmes replay --frames DIR`",
            file=sys.stderr,
        )
        return 2
    audit, fault = audited(Protos(args.proto), files)
    if args.json:
        print(as_json(audit, fault))
    else:
        tell(audit, fault)
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main())
