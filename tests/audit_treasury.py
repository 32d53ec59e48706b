"""The treasury recomputed: the cap shared out (E-1.2), grants of genesis, time vesting (E-1.5)."""

from __future__ import annotations

from typing import Any

from audit_common import PPB, Meta, Service, World, apportion, ensure, raw_id, system_account


class Treasury(Service):
    """Genesis and vesting."""

    name = "treasury"

    def __init__(self, protos: Any) -> None:
        super().__init__(protos)
        self.command = protos.message("holmes.ledger.v1.Command")
        self.steps: list[Any] = []
        self.sent: Any = None
        self.completed = False
        self.released: dict[int, int] = {}
        self.releasing: dict[int, Any] = {}
        self.tge = self.day_us = 0

    def open(self, params: bytes) -> None:
        super().open(params)
        p = self.params
        ensure(sum(each.share_ppb for each in p.allocations) == PPB, "E-1.2: the shares do not come to the whole cap")
        shares = apportion(p.cap_units, [(at, each.share_ppb) for at, each in enumerate(p.allocations)])
        self.parts = dict(zip((each.name for each in p.allocations), shares))

    def _lies_in(self, allocation: Any) -> bytes:
        vests = "vesting_" if allocation.vesting_days else ""
        return system_account(f"{vests}{allocation.name}/{self.params.asset_name}")

    def _genesis_begun(self, event: Any, meta: Meta) -> None:
        p = self.params
        ensure((event.asset, event.epoch_s) == (p.asset, p.epoch_s), "genesis begins with other constants than its parameters")
        ensure(p.tge_at_ms * 1_000 in (0, event.tge_at_us), "E-0.5: genesis begins at another moment than its parameters say")
        self.tge, self.day_us = event.tge_at_us, event.epoch_s * 1_000_000

    def _genesis_step_sent(self, event: Any, meta: Meta) -> None:
        ensure(event.step == len(self.steps), f"step {event.step} of genesis is sent, {len(self.steps)} is next")
        self.sent = self.command.FromString(event.command)

    def _genesis_step_done(self, event: Any, meta: Meta) -> None:
        ensure(self.sent is not None and event.step == len(self.steps), "a step of genesis is done that was not sent")
        self.steps.append(self.sent)
        self.sent = None

    def _waits(self, event: Any, meta: Meta) -> None:
        """The same step is sent again."""

    _genesis_step_refused = _genesis_stalled = _genesis_resumed = _waits

    def _genesis_completed(self, event: Any, meta: Meta) -> None:
        """E-1.2: every allocation got its part once, every grant its amount; nothing else moved."""
        p, name = self.params, self.params.asset_name
        moves = [each for step in self.steps for each in step.create_transfers.transfers]
        left = [(raw_id(each.debit_account_id), raw_id(each.credit_account_id), each.amount_units) for each in moves]
        genesis, payer = system_account(f"genesis/{name}"), system_account(f"{p.grants_from}/{name}")
        for allocation, told in zip(p.allocations, event.allocations, strict=True):
            expected = (allocation.name, self._lies_in(allocation), self.parts[allocation.name])
            found = (told.name, told.account, told.amount_units)
            ensure(found == expected, f"E-1.2: {allocation.name} has {told.amount_units}, its share of the cap is {expected[2]}")
            move = (genesis, told.account, told.amount_units)
            ensure(left.count(move) == 1, f"E-1.2: {allocation.name} was not paid its {told.amount_units} once")
            left.remove(move)
        owners = {step.open_account.owner: step.open_account.account_id for step in self.steps if step.HasField("open_account")}
        for grant in p.grants:
            ensure(grant.owner in owners, f"no account was opened for the grant {grant.name}")
            move = (payer, raw_id(owners[grant.owner]), grant.amount_units)
            ensure(left.count(move) >= 1, f"the grant {grant.name} of {grant.amount_units} was not paid")
            left.remove(move)
        ensure(not left, "genesis moves tokens that no allocation and no grant names")
        granted = sum(grant.amount_units for grant in p.grants)
        told = (event.asset, event.cap_units, event.granted_units)
        ensure(told == (p.asset, p.cap_units, granted), f"E-1.1: genesis ends with {told}, the parameters give {granted} for grants")
        self.completed = True

    def _vested(self, allocation: Any, day: int) -> int:
        """E-1.5, in whole days; the cliff counts from the start."""
        if day < allocation.cliff_days:
            return 0
        return self.parts[allocation.name] * min(day, allocation.vesting_days) // allocation.vesting_days

    def _vesting_sent(self, event: Any, meta: Meta) -> None:
        ensure(event.allocation < len(self.params.allocations), "an allocation vests that is none")
        allocation, before = self.params.allocations[event.allocation], self.released.get(event.allocation, 0)
        ensure(allocation.vesting_days > 0 and self.completed, "what does not vest is released, or genesis is not complete")
        ensure(event.day <= (meta.ts - self.tge) // self.day_us, "E-1.5: a day vests that has not come")
        due = self._vested(allocation, event.day) - before
        ensure(event.amount_units == due > 0, f"E-1.5: {event.amount_units} of {allocation.name} are released, {due} have vested")
        for each in self.command.FromString(event.command).create_transfers.transfers:
            sides = self._lies_in(allocation), system_account(f"{allocation.name}/{self.params.asset_name}")
            same = (raw_id(each.debit_account_id), raw_id(each.credit_account_id)) == sides and each.amount_units == due
            ensure(same, f"E-1.5: the release of {allocation.name} moves something else")
        self.releasing[event.allocation] = event

    def _vesting_released(self, event: Any, meta: Meta) -> None:
        sent = self.releasing.pop(event.allocation, None)
        ensure(sent is not None and (sent.day, sent.amount_units) == (event.day, event.amount_units), "a release is noted that was not sent")
        self.released[event.allocation] = self.released.get(event.allocation, 0) + event.amount_units
        ensure(event.released_units == self.released[event.allocation], "E-1.5: what was released in all does not add up")

    _vesting_refused = _waits

    def across(self, world: World) -> None:
        """E-1.1: the cap of the ledger is the cap that was shared out."""
        if world.has("ledger"):
            first = world.logs["treasury"].records[0]
            asset = world.machines["ledger"].assets.get(self.params.asset)
            first.must(asset is not None and asset.cap == self.params.cap_units, "E-1.1: the ledger has another cap")

    def report(self) -> dict[str, Any]:
        return {"allocations": {name: str(units) for name, units in self.parts.items()}, "complete": self.completed}

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        rows = [[each.name, str(self.parts[each.name]), str(self.released.get(at, 0)) if each.vesting_days else ""] for at, each in enumerate(self.params.allocations)]
        return [(["ALLOCATION", "BASE UNITS", "VESTED"], rows)]
