"""Commands that services send to each other: each is carried out once, as it was asked, and its answer comes home."""

from __future__ import annotations

from typing import Any

from audit_common import World, raw_id, system_account
from audit_frames import Broken, Protos, Record, principal_text
from audit_rows import HOLD, POST, SINGLE, Row, rows_of
from google.protobuf import message_factory

ANSWERS = {
    "genesis_step_sent": ("genesis_step_done", "genesis_step_refused genesis_stalled"),
    "vesting_sent": ("vesting_released", "vesting_refused"),
    "vault_requested": ("vault_opened", "vault_refused"),
    "bond_requested": ("bond_posted", "bond_refused"),
    "payout_sent": ("payout_made", "payout_refused"),
    "system_account_requested": ("system_account_opened", "system_account_refused"),
    "session_opened": ("hold_made", "session_closed hold_sent"),
    "hold_sent": ("hold_made", "session_closed hold_sent"),
    "settlement_sent": ("settled session_closed session_funded", "settlement_refused hold_lost"),
    "owed_sent": ("owed_paid", "owed_refused"),
    "account_requested": ("account_opened", "account_refused"),
    "move_sent": ("move_made", "move_refused"),
    "payments_sent": ("payments_answered", "payments_answered"),
}
"""For each event that sends: what the sender writes when all of it happened, and when not."""


class Sends:
    """Sends and their answers."""

    def __init__(self, protos: Protos) -> None:
        self.protos = protos
        self.fields = {name: dict(self._fields(name)) for name in protos.numbers}
        self.command = protos.message("holmes.ledger.v1.Command")
        codes = protos.enum("holmes.ledger.v1.TransferCode").values_by_number
        self.codes = {number: value.name.removeprefix("TRANSFER_CODE_") for number, value in codes.items()}

    def _fields(self, service: str) -> Any:
        """Events of a service that send: the field, and to whom, by the option (holmes.sends)."""
        pool = self.protos.pool
        options = message_factory.GetMessageClass(pool.FindMessageTypeByName("google.protobuf.FieldOptions"))
        sends = pool.FindExtensionByName("holmes.sends")
        for event in pool.FindMessageTypeByName(f"holmes.{service}.v1.Event").oneofs_by_name["event"].fields:
            for part in event.message_type.fields:
                read = options.FromString(part.GetOptions().SerializeToString())
                if read.HasExtension(sends):
                    yield event.name, (part.name, read.Extensions[sends])

    def check(self, world: World) -> None:
        for name, log in world.logs.items():
            sent: dict[str, set[int]] = {}
            for record in log.records:
                for seq, which, event in record.events:
                    field, target = self.fields.get(name, {}).get(which, ("", ""))
                    if field and getattr(event, field) and world.has(target):
                        answer = self._sent(world, name, target, record, seq, which)
                        sent.setdefault(target, set())
                        if answer is not None:
                            sent[target].add(answer.seq)
                            self._carried_out(getattr(event, field), answer)
                            self._came_home(world, name, target, record, which, answer)
            if log.records and world.has("ledger") and name != "ledger":
                for record in world.of("ledger", name).values():
                    known = record.seq in sent.get("ledger", set())
                    record.must(known, f"it says that {name}@{record.source and record.source[1]} sent it, which sends nothing")

    def _sent(self, world: World, name: str, target: str, record: Record, seq: int, which: str) -> Record | None:
        taken = world.of(target, name)
        answer = taken.get(seq) or taken.get(record.last)
        late = answer is None and max(taken, default=0) > record.last
        record.must(not late, f"{target} went past its {which} and did not answer it", seq)
        return answer

    def rows(self, record: Record) -> list[Row]:
        """All transfers of an entry of the ledger."""
        found = (event for _, which, event in record.events if which == "transfers_recorded")
        return [row for event in found for row in rows_of(event, self.codes)]

    def _carried_out(self, raw: bytes, answer: Record) -> None:
        """The ledger did what the send asks for, and nothing else."""
        asked = self.command.FromString(raw)
        if answer.refused:
            return
        if asked.HasField("create_transfers"):
            try:
                rows = self.rows(answer)
            except Broken as why:
                answer.must(False, str(why))
            transfers = asked.create_transfers.transfers
            same = [raw_id(each.transfer_id) for each in transfers] == [row.id for row in rows]
            answer.must(same, f"it records {len(rows)} transfers, not the {len(transfers)} that were sent, in their order")
            for each, row in zip(transfers, rows):
                self._same(each, row, answer)
        elif asked.HasField("open_account"):
            opened = [event for _, which, event in answer.events if which == "account_opened"]
            want = asked.open_account
            account = raw_id(want.account_id) if want.account_id else system_account(want.name)
            for event in opened:
                owner = want.owner or f"service/{answer.source and answer.source[0]}"
                same = (event.account, event.asset, event.name) == (account, want.asset, want.name)
                same &= principal_text(event.owner) == owner
                answer.must(same, f"it opens another account than {want.name or want.account_id}, which was asked for")

    def _same(self, asked: Any, row: Row, answer: Record) -> None:
        name = f"transfer {asked.transfer_id}"
        answer.must(asked.kind == row.kind, f"{name} is of another kind than was sent")
        if row.code != "OK":
            return
        whole = asked.kind not in (SINGLE, HOLD, POST) or asked.balancing or (asked.kind == POST and not asked.amount_units)
        answer.must(whole or row.units == asked.amount_units, f"{name} moves {row.units}, {asked.amount_units} was sent")
        if asked.kind in (SINGLE, HOLD):
            sides = raw_id(asked.debit_account_id), raw_id(asked.credit_account_id)
            answer.must((row.debit, row.credit) == sides, f"{name} moves between other accounts than was sent")
        else:
            answer.must(row.hold == raw_id(asked.hold_id), f"{name} ends another hold than was sent")

    def _came_home(self, world: World, name: str, target: str, record: Record, which: str, answer: Record) -> None:
        """The sender wrote down what became of it, and wrote the truth."""
        taken = world.of(name, target)
        heard = next((taken[seq] for seq in range(answer.seq, answer.last + 1) if seq in taken), None)
        if heard is None:
            record.must(max(taken, default=0) <= answer.last, f"its {which} was answered at {target}@{answer.last}, which it did not take in")
            return
        if which not in ANSWERS:
            return
        failed = {answer.refused} if answer.refused else {row.code for row in self.rows(answer)} - {"OK", "EXISTS"}
        happened = not failed
        told = {event for _, event, _ in heard.events}
        expected = set(ANSWERS[which][0 if happened else 1].split())
        word = "done" if happened else f"refused ({answer.refused or 'by its transfers'})"
        heard.must(bool(told & expected) or not told, f"{target}@{answer.last} says {word} to {which}; it notes {', '.join(sorted(told))}")
        for _, event, content in heard.events:
            refusal = event.endswith("_refused") or event == "hold_lost"
            heard.must(not refusal or content.reason in failed, f"{target}@{answer.last} refuses {which} for {', '.join(sorted(failed))}; it notes {getattr(content, 'reason', '')}")
