"""Emission recomputed: targets, weights, κ, shares, grants (E-4, E-5), from what the other logs say of each epoch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from audit_common import PPB, Meta, Record, Service, World, apportion, ensure, epoch_of, events_of, ids, raw_id
from audit_common import system_account, wide, wides
from audit_frames import uuid_text
from audit_grants import Clocks, Grant, exit_burn, median, presence

POOLS = ("trr", "br", "verifier")
COMPUTE, FULL, QUARTER, NONE = 1, 1, 2, 3
TOMBSTONED = 6
U64 = 2**64 - 1
MOST_WEIGHT = (2**128 - 1) >> 24


@dataclass
class Stand:
    """How a node stands in an epoch."""

    least: int = 0
    slashable: int = 0
    required: int = 0
    rating: int = 0


@dataclass
class Node(Clocks):
    """A node: how it stood by epoch, and what it is owed."""

    owner: bytes = b""
    kind: int = 0
    barred: bool = False
    payout: bytes = b""
    owed: int = 0
    paid: int = 0
    stands: dict[int, Stand] = field(default_factory=dict)
    grants: dict[int, Grant] = field(default_factory=dict)

    def stand(self, epoch: int) -> Stand:
        """E-4.6: the least of the whole epoch counts, so an epoch begins with what stood at the end of the last."""
        if epoch not in self.stands:
            before = max((known for known in self.stands if known < epoch), default=None)
            last = Stand() if before is None else self.stands[before]
            self.stands[epoch] = Stand(last.slashable, last.slashable, last.required, last.rating)
        return self.stands[epoch]


@dataclass
class Row:
    """What the sources say of a node in an epoch."""

    full: int = 0
    quarter: int = 0
    beats: int = 0
    active: bool = False


@dataclass
class Epoch:
    """An epoch's facts, and its close as far as it is."""

    rows: dict[bytes, Row] = field(default_factory=dict)
    fees: dict[bytes, list[int]] = field(default_factory=dict)
    price: int | None = None
    units: dict[bytes, int] = field(default_factory=dict)
    weights: tuple[dict[bytes, int], dict[bytes, int]] = field(default_factory=lambda: ({}, {}))
    floors: tuple[dict[bytes, int], dict[bytes, int]] = field(default_factory=lambda: ({}, {}))
    cuts: Counter[bytes] = field(default_factory=Counter)
    shares: tuple[dict[bytes, int], dict[bytes, int]] = field(default_factory=lambda: ({}, {}))
    told: dict[bytes, tuple[int, int, int]] = field(default_factory=dict)
    unlocked: int = 0


class Emission(Service):
    """Epochs, pools, rewards."""

    name = "emission"

    def __init__(self, protos: Any) -> None:
        super().__init__(protos)
        self.command = protos.message("holmes.ledger.v1.Command")
        self.nodes: dict[bytes, Node] = {}
        self.epochs: dict[int, Epoch] = {}
        self.closed: list[Any] = []
        self.sealed: dict[int, int] = {}
        self.legs: Counter[tuple[str, str]] = Counter()
        self.moves: dict[int, Counter[tuple[str, str]]] = {}
        self.sent: dict[int, list[tuple[bytes, int]]] = {}
        self.next, self.price, self.paid, self.closing = 1, 0, 0, 0
        self.rewards: list[list[str]] = []

    def open(self, params: bytes) -> None:
        super().open(params)
        p = self.params
        self.left = [p.trr_units, p.br_units, p.verifier_units]
        self.decay = [int(each) for each in (p.trr_lambda_q128, p.br_lambda_q128, p.verifier_lambda_q128)]
        places = {"trr": p.trr_pool, "br": p.br_pool, "verifier": p.verifier_pool}
        places |= {"vesting": "vesting_work", "pot": "emission_pot", "burn": "burn_inbox"}
        self.places = {system_account(f"{place}/{p.asset_name}"): key for key, place in places.items()}

    def epoch(self, number: int) -> Epoch:
        """E-0.5: a fact of an epoch that is closed already counts in the next that is open."""
        return self.epochs.setdefault(max(number, self.next), Epoch())

    def node(self, id: bytes) -> Node:
        return self.nodes.setdefault(id, Node())

    def _ignore(self, event: Any, meta: Meta) -> None:
        """Nothing follows from it that is not checked elsewhere."""

    _account_requested = _account_opened = _account_refused = _owners_checked = _move_refused = _ignore

    # Facts

    def _node_noted(self, event: Any, meta: Meta) -> None:
        node = self.node(event.node)
        node.owner, node.kind, node.barred = event.owner, event.kind, node.barred or event.barred
        stand = node.stand(event.epoch)
        stand.slashable, stand.required, stand.rating = event.slashable_units, event.required_units, event.rating_milli_cu
        stand.least = min(stand.least, stand.slashable)

    def _required_noted(self, event: Any, meta: Meta) -> None:
        for id, required in zip(ids(event.nodes), event.required_units):
            self.node(id).stand(event.epoch).required = required

    def _payout_noted(self, event: Any, meta: Meta) -> None:
        self.node(event.node).payout = event.account

    def _nodes_barred(self, event: Any, meta: Meta) -> None:
        for id in ids(event.nodes):
            self.node(id).barred = True

    def _work_noted(self, event: Any, meta: Meta) -> None:
        epoch = self.epoch(event.epoch)
        rows = zip(ids(event.nodes), ids(event.owners, 17), event.credits, event.units, event.fees_micro_usd, strict=True)
        for id, owner, credit, units, fees in rows:
            ensure(credit in (FULL, QUARTER), "E-3.2: work that counts nothing is noted")
            row = epoch.rows.setdefault(id, Row())
            row.full, row.quarter = row.full + units * (credit == FULL), row.quarter + units * (credit == QUARTER)
            epoch.fees.setdefault(owner, [0, 0])[credit - 1] += fees

    def _attendance_noted(self, event: Any, meta: Meta) -> None:
        for id, beats, active in zip(ids(event.nodes), event.beats_seen, event.active, strict=True):
            row = self.epoch(event.epoch).rows.setdefault(id, Row())
            row.beats, row.active = row.beats + beats, row.active or active

    def _price_noted(self, event: Any, meta: Meta) -> None:
        ensure(event.token_price_micro_usd > 0, "E-14.5: a price of 0 is noted")
        self.epoch(event.epoch).price = event.token_price_micro_usd

    def _source_sealed(self, event: Any, meta: Meta) -> None:
        before = self.sealed.get(event.service, 0)
        ensure(event.epoch > before, f"service {event.service} seals epoch {event.epoch} after {before}")
        self.sealed[event.service] = event.epoch

    _source_skipped = _source_sealed

    # The close

    def target(self, pool: int) -> int:
        """E-4.1: R − floor(R·λ)."""
        return self.left[pool] - (self.left[pool] * self.decay[pool] >> 128)

    def _close_begun(self, event: Any, meta: Meta) -> None:
        ensure(event.epoch == self.next and not self.closing, f"epoch {event.epoch} is closed where {self.next} is next")
        for source in self.params.sources:
            due = source.first_epoch <= event.epoch
            ensure(not due or self.sealed.get(source.service, 0) >= event.epoch, f"E-0.5: service {source.service} has not sealed epoch {event.epoch}")
        ensure(event.epoch < epoch_of(meta.ts, self.params.tge_at_ms * 1_000, self.params.epoch_s), "E-0.5: an epoch is closed before its end")
        self.closing = event.epoch
        price = self.epoch(event.epoch).price
        self.price = self.price if price is None else price

    def _class(self, rating: int) -> int:
        reached = [at for at, each in enumerate(self.params.classes) if each.rating_milli_cu <= rating]
        return max(reached, default=0)

    def _nodes_weighed(self, event: Any, meta: Meta) -> None:
        """E-4.6 with E-3.2 and E-0.6."""
        p, epoch = self.params, self.epochs[self.closing]
        columns = wides(event.trr_weights), wides(event.br_weights), wides(event.units), event.classes
        for id, trr, br, units, kind in zip(ids(event.nodes), *columns, strict=True):
            ensure(id in epoch.rows and id not in epoch.weights[0], "a node is weighed twice, or without any fact of it")
            row, node = epoch.rows[id], self.node(id)
            stand = node.stand(self.closing)
            work = row.full + row.quarter * p.quarter_ppb // PPB
            most = stand.rating * p.epoch_s
            capacity = most if stand.slashable >= stand.required else most * stand.slashable // stand.required
            expected = min(min(work, capacity) * (2_000 + 3 * p.score), MOST_WEIGHT) * (not node.barred)
            name = uuid_text(id)
            ensure(units == work, f"E-3.2: {name} has {units} units, its work comes to {work}")
            ensure(trr == expected, f"E-4.6: {name} weighs {trr} in TRR, the rules give {expected}")
            ensure(p.stake_quarters % 4 == 0 == p.score_quarters % 4, "this audit knows whole exponents in E-4.6 only")
            expected = min(stand.least, stand.required) ** (p.stake_quarters // 4) * p.score ** (p.score_quarters // 4)
            counts = row.active and node.kind == COMPUTE and not node.barred
            expected = min(expected * row.beats, MOST_WEIGHT) * counts
            ensure(br == expected, f"E-4.6: {name} weighs {br} in BR, the rules give {expected}")
            ensure(kind == self._class(stand.rating), f"E-3.1: {name} is put into class {kind}")
            epoch.units[id], epoch.weights[0][id], epoch.weights[1][id] = work, trr, br
            if row.beats and presence(node, self.closing, p) and row.active:
                node.work, node.days = node.work + work, node.days + 1

    def _actual(self, pool: int) -> tuple[int, int, int]:
        """E-4.1 to E-4.3: m, and what is paid with it."""
        weights = self.epochs[self.closing].weights
        target, active = self.target(pool), sum(row.active for row in self.epochs[self.closing].rows.values())
        if pool == 2 or not any(weights[pool].values()) or (pool == 0 and self.price == 0):
            return 0, 0, 1
        if pool == 0 or active <= self.params.target_nodes:
            return target, 1, 1
        return target * self.params.target_nodes // active, self.params.target_nodes, active

    def _shares_floored(self, event: Any, meta: Meta) -> None:
        """E-0.4."""
        epoch = self.epochs[self.closing]
        columns = (event.trr_units, wides(event.trr_remainders)), (event.br_units, wides(event.br_remainders))
        for pool, (units, rests) in enumerate(columns):
            total, whole = self._actual(pool)[0], sum(epoch.weights[pool].values())
            for id, share, rest in zip(ids(event.nodes), units, rests, strict=True):
                expected = divmod(total * epoch.weights[pool][id], whole) if whole else (0, 0)
                ensure((share, rest) == expected, f"E-0.4: {uuid_text(id)} gets {share} of {POOLS[pool]} and {rest} remain, the rules give {expected}")
                epoch.floors[pool][id] = share

    def _shares_rounded(self, event: Any, meta: Meta) -> None:
        for pool, column in enumerate((event.trr_nodes, event.br_nodes)):
            for id in ids(column):
                self.epochs[self.closing].floors[pool][id] += 1

    def _shared(self) -> None:
        """Whole shares of both pools, before κ."""
        epoch = self.epochs[self.closing]
        for pool in (0, 1):
            shares = epoch.shares[pool]
            weights = list(epoch.weights[pool].items())
            shares.update(zip(epoch.weights[pool], apportion(self._actual(pool)[0], weights)))
            found = {id: epoch.floors[pool].get(id, 0) for id in shares}
            ensure(found == shares, f"E-0.4: {POOLS[pool]} is not shared out by the largest remainders")

    def _owner_cut(self, event: Any, meta: Meta) -> None:
        """E-3.2, κ."""
        p, epoch = self.params, self.epochs[self.closing]
        if not epoch.shares[0]:
            self._shared()
        nodes = ids(event.nodes)
        own = [id for id in epoch.shares[0] if self.node(id).owner == event.owner and epoch.weights[0][id]]
        ensure(sorted(nodes) == sorted(own), "κ does not bound all nodes of an owner together")
        ensure(event.bound_units == self._bound(event.owner), f"E-3.2: κ bounds an owner at {event.bound_units}, the rules give {self._bound(event.owner)}")
        over = sum(epoch.shares[0][id] for id in nodes) - event.bound_units
        expected = apportion(over, [(id, epoch.shares[0][id]) for id in nodes])
        ensure(over > 0 and list(event.cut_units) == expected, f"E-3.2: κ cuts {list(event.cut_units)}, the rules give {expected}")
        epoch.cuts.update(dict(zip(nodes, expected)))

    def _bound(self, owner: bytes) -> int:
        p, fees = self.params, self.epochs[self.closing].fees.get(owner, [0, 0])
        weighed = fees[0] * p.kappa_full_ppb + fees[1] * p.kappa_quarter_ppb
        return min(weighed * p.token_units // (self.price * PPB), U64) if self.price else 0

    def _epoch_closed(self, event: Any, meta: Meta) -> None:
        p, epoch = self.params, self.epochs[self.closing]
        ensure(event.epoch == self.closing and set(epoch.weights[0]) == set(epoch.rows), "an epoch is closed without all its nodes")
        if not epoch.shares[0]:
            self._shared()
        owners: Counter[bytes] = Counter()
        for id, share in epoch.shares[0].items():
            epoch.shares[0][id] = share - epoch.cuts[id]
            owners[self.node(id).owner] += epoch.shares[0][id]
        for owner, got in owners.items():
            ensure(got <= self._bound(owner), f"E-3.2: an owner gets {got} of TRR, κ bounds it at {self._bound(owner)}")
        targets = [self.target(pool) for pool in range(3)]
        scheduled = sum(targets)
        ensure(len(event.pools) == 3, "an epoch closes other than three pools")
        for at, pool in enumerate(event.pools):
            actual, *m = self._actual(at)
            paid = sum(epoch.shares[at].values()) if at < 2 else 0
            weights = sum(epoch.weights[at].values()) if at < 2 else 0
            self.left[at] -= paid
            found = (pool.pool, pool.target_units, pool.m_numerator, pool.m_denominator, pool.actual_units, pool.paid_units, pool.remaining_units, wide(pool.weights))
            expected = (at + 1, targets[at], *m, actual, paid, self.left[at], weights)
            ensure(found == expected, f"E-4.1: pool {POOLS[at]} closes with {found}, the rules give {expected}")
        values = {
            "scheduled_units": scheduled,
            "next_scheduled_units": sum(self.target(pool) for pool in range(3)),
            "ceiling_units": scheduled * p.ceiling_ppb // PPB,
            "active_nodes": sum(row.active for row in epoch.rows.values()),
            "token_price_micro_usd": self.price,
            "circulating_units": p.circulating_units + self.paid,
            "cut_units": sum(epoch.cuts.values()),
            "nodes": len(epoch.rows),
        }
        for name, expected in values.items():
            ensure(getattr(event, name) == expected, f"E-4: {name} of epoch {event.epoch} is {getattr(event, name)}, the rules give {expected}")
        for name in ("full", "quarter"):
            expected = sum(getattr(row, name) for row in epoch.rows.values())
            ensure(wide(getattr(event, f"{name}_units")) == expected, f"E-3.2: {name} work of epoch {event.epoch} is not {expected}")
        before = self.closed[-1] if self.closed else None
        ensure(before is None or scheduled <= before.scheduled_units, "E-4.7: scheduled_k rises")
        ensure(sum(pool.paid_units for pool in event.pools) <= values["ceiling_units"], "E-4.7: more is paid than the ceiling allows")
        self.closed.append(event)

    def _rewards_granted(self, event: Any, meta: Meta) -> None:
        """E-5.1, E-5.4."""
        p, epoch = self.params, self.epochs[self.closing]
        columns = event.liquid_units, event.locked_units, wides(event.full_work_units)
        for id, liquid, locked, full_work in zip(ids(event.nodes), *columns, strict=True):
            ensure(id in epoch.weights[0] and id not in epoch.told, "a node is granted a reward twice, or without a weight")
            trr, br, node = epoch.shares[0][id], epoch.shares[1][id], self.node(id)
            rating = node.stand(self.closing).rating
            at_once = trr * p.liquid_ppb // PPB
            # N: the median of the work in this epoch of all of the class that were Active or have worked.
            of = [units for other, units in epoch.units.items() if (units or epoch.rows[other].active) and self._class(self.node(other).stand(self.closing).rating) == self._class(rating)]
            work = max(1, median(of) * p.median_days, rating * p.epoch_s * p.capacity_days) if trr else 0
            expected = (at_once + br, trr - at_once, work)
            found = (liquid, locked, full_work)
            ensure(found == expected, f"E-5.1: {uuid_text(id)} is granted {found} (liquid, locked, N), the rules give {expected}")
            epoch.told[id] = (trr, br, epoch.cuts[id])
            node.owed += liquid
            self.legs.update({("trr", "vesting"): locked, ("trr", "pot"): at_once, ("br", "pot"): br})
            if locked:
                node.grants[self.closing] = Grant(locked, full_work, work=node.work, days=node.days)

    def _grants_unlocked(self, event: Any, meta: Meta) -> None:
        """E-5.1: nodes are looked at in the order in which their facts came."""
        epoch, p = self.epochs[self.closing], self.params
        nodes = list(epoch.rows)[epoch.unlocked : epoch.unlocked + event.looked_at]
        epoch.unlocked += event.looked_at
        expected = []
        for id in nodes:
            node = self.node(id)
            for number, grant in () if node.barred else sorted(node.grants.items()):
                if units := grant.unlocks(node, p):
                    expected.append((id, number, units))
                    grant.unlocked += units
                    node.owed += units
                    self.legs["vesting", "pot"] += units
        found = list(zip(ids(event.nodes), event.epochs, event.units, strict=True))
        ensure(sorted(found) == sorted(expected), f"E-5.1: {[units for *_, units in found]} are unlocked, the rules give {[units for *_, units in expected]}")

    def _close_ended(self, event: Any, meta: Meta) -> None:
        epoch = self.epochs.pop(self.closing)
        ensure(event.epoch == self.closing and epoch.unlocked == len(epoch.rows), "a close ends before all nodes were looked at")
        paid = sum(sum(shares.values()) for shares in epoch.shares)
        ensure(set(epoch.told) == set(epoch.rows) or paid == 0, "a close ends before all nodes have their rewards")
        for id, (trr, br, cut) in epoch.told.items():
            self.rewards.append([str(self.closing), uuid_text(id), str(epoch.units[id]), str(epoch.rows[id].beats), str(trr), str(br), str(cut)])
        self.next, self.closing = self.closing + 1, 0

    def _grant_exited(self, event: Any, meta: Meta) -> None:
        """E-5.2."""
        node = self.node(event.node)
        grant = node.grants.pop(event.epoch, None)
        ensure(grant is not None, "a grant is exited that is not there")
        burn = exit_burn(grant, node, self.params)
        expected = (grant.locked - burn, burn)
        ensure((event.paid_units, event.burned_units) == expected, f"E-5.2: an exit pays and burns {(event.paid_units, event.burned_units)}, the rules give {expected}")
        node.owed += event.paid_units
        self.legs.update({("vesting", "pot"): event.paid_units, ("vesting", "burn"): event.burned_units})

    def _locked_burned(self, event: Any, meta: Meta) -> None:
        for id, units in zip(ids(event.nodes), event.units, strict=True):
            node = self.node(id)
            locked = sum(grant.locked for grant in node.grants.values())
            ensure(node.barred and units == locked, f"E-5.2: {units} are burnt of a node that has {locked} locked")
            node.grants.clear()
            self.legs["vesting", "burn"] += units

    # Money

    def _move_sent(self, event: Any, meta: Meta) -> None:
        found: Counter[tuple[str, str]] = Counter()
        for each in self.command.FromString(event.send).create_transfers.transfers:
            sides = [self.places.get(raw_id(side)) for side in (each.debit_account_id, each.credit_account_id)]
            ensure(None not in sides, "emission moves money of an account that is not its own")
            found[sides[0], sides[1]] += each.amount_units
        if event.number not in self.moves:
            ensure(event.number == len(self.moves) + 1, f"movement {event.number} follows {len(self.moves)}")
            self.moves[event.number], self.legs = +self.legs, Counter()
        expected = self.moves[event.number]
        ensure(found == expected, f"E-4.1: between accounts {dict(found)} moves, the rules give {dict(expected)}")

    def _move_made(self, event: Any, meta: Meta) -> None:
        ensure(event.number in self.moves, "a movement is made that was not sent")
        self.moves[event.number] = Counter()

    def _payments_sent(self, event: Any, meta: Meta) -> None:
        chain = self.command.FromString(event.send).create_transfers.transfers
        rows = list(zip(ids(event.nodes), event.units, strict=True))
        for (id, units), each in zip(rows, chain, strict=True):
            node = self.node(id)
            ensure(units == node.owed, f"{uuid_text(id)} is paid {units}, it is owed {node.owed}")
            sides = raw_id(each.debit_account_id), raw_id(each.credit_account_id), each.amount_units
            expected = system_account(f"emission_pot/{self.params.asset_name}"), node.payout, units
            ensure(sides == expected, f"{uuid_text(id)} is paid otherwise than its payout account says")
        self.sent[meta.seq] = rows

    def _payments_answered(self, event: Any, meta: Meta) -> None:
        rows = self.sent.pop(event.cause_seq, None)
        ensure(rows is not None and len(rows) == len(event.reasons), "payments are answered that were not sent")
        for (id, units), reason in zip(rows or [], event.reasons):
            if not reason:
                self.node(id).owed -= units
                self.node(id).paid += units
                self.paid += units

    # Other logs

    def across(self, world: World) -> None:
        def of(which: str, *names: str) -> Any:
            return lambda record: [tuple(getattr(event, name) for name in names) for event in events_of(record, which)]

        def columns(which: str, *names: str) -> Any:
            return lambda record: [tuple(tuple(v) if not isinstance(v := getattr(event, name), (bytes, int)) else v for name in names) for event in events_of(record, which)]

        def bonds(record: Record) -> list[Any]:
            return [(e.node, e.owner, e.kind, e.bond_units + e.unbonding_units, e.required_units, e.rating_milli_cu, e.state == TOMBSTONED) for e in events_of(record, "bond_changed")]

        def noted(record: Record) -> list[Any]:
            return [(e.node, e.owner, e.kind, e.slashable_units, e.required_units, e.rating_milli_cu, e.barred) for e in events_of(record, "node_noted") if not e.registered]

        def settled(record: Record) -> list[Any]:
            rows = [(e.epoch, *row) for e in events_of(record, "settled") for row in zip(ids(e.nodes), ids(e.owners, 17), e.credits, e.units, e.fees_micro_usd)]
            return [row for row in rows if row[3] != NONE]

        def work(record: Record) -> list[Any]:
            return [(e.epoch, *row) for e in events_of(record, "work_noted") for row in zip(ids(e.nodes), ids(e.owners, 17), e.credits, e.units, e.fees_micro_usd)]

        attendance = "epoch", "nodes", "beats_seen", "active"
        world.agree("emission", "staking", bonds, noted, "bonds")
        world.agree("emission", "market", settled, work, "work")
        world.agree("emission", "scheduling", columns("epoch_attendance", *attendance), columns("attendance_noted", *attendance), "attendance")
        world.agree("emission", "market", of("price_sealed", "epoch", "token_price_micro_usd"), of("price_noted", "epoch", "token_price_micro_usd"), "the price")
        for source in ("staking", "scheduling", "market"):
            world.agree("emission", source, of("epoch_sealed", "epoch"), of("source_sealed", "epoch"), "the seal")
        if world.has("ledger") and not any(self.moves.values()) and not self.legs:
            accounts = world.machines["ledger"].accounts
            names = self.params.trr_pool, self.params.br_pool, self.params.verifier_pool
            for name, left in zip(names, self.left):
                account = accounts.get(system_account(f"{name}/{self.params.asset_name}"))
                if account is not None and world.has("treasury") and world.machines["treasury"].completed:
                    last = world.logs["emission"].records[-1]
                    last.must(account.balance == left, f"E-4.1: {name} holds {account.balance} in the ledger, R is {left}")

    def report(self) -> dict[str, Any]:
        head = ("epoch", "node", "units", "beats_seen", "trr_units", "br_units", "cut_units")
        return {"closed": len(self.closed), "rewards": [dict(zip(head, row)) for row in self.rewards]}

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        return [(["EPOCH", "NODE", "WORK", "BEATS", "TRR", "BR", "CUT BY KAPPA"], self.rewards)]
