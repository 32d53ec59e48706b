"""Staking recomputed: bonds, the collateral that is required (E-6.2), who is qualified, what leaves (E-6.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

from audit_common import PPB, Meta, Record, Service, World, ceil_div, clamp, ensure, epoch_of, events_of, ids, raw_id
from audit_common import system_account
from audit_frames import SERVICE, STAFF, short_hash, uuid_text

COMPUTE, VERIFIER = 1, 2
REGISTERED, ACTIVE, JAILED, UNBONDING, EXITED, TOMBSTONED = 1, 2, 3, 4, 5, 6
BONDED, UNBONDED, PAID, RATED, LAPSED, RECOMPUTED, JAILING, UNJAILING = range(1, 9)


@dataclass
class Node:
    """A node, its bond and the bases that it was told of."""

    owner: bytes
    kind: int
    claim: int
    bond: int = 0
    unbonding: int = 0
    state: int = REGISTERED
    rating: int = 0
    hardware_until: int = 0
    base: int = 0
    rises: list[tuple[int, int]] = field(default_factory=list)
    payout: bytes = b""
    order: int = 0

    def base_at(self, now: int) -> int:
        """E-6.2: after a rise the old, lower base counts until it is in force."""
        return next((base for at, base in reversed(self.rises) if at <= now), self.base)


class Staking(Service):
    """Bonds."""

    name = "staking"

    def __init__(self, protos: Any) -> None:
        super().__init__(protos)
        self.command = protos.message("holmes.ledger.v1.Command")
        self.nodes: dict[bytes, Node] = {}
        self.offers: dict[bytes, Any] = {}
        self.asked: dict[int, tuple[str, bytes, int]] = {}
        self.unbondings: dict[int, list[Any]] = {}
        self.leases: dict[int, bytes] = {}
        self.base = self.sealed = self.period = 0
        self.rise_at = self.follow = 0

    def open(self, params: bytes) -> None:
        super().open(params)
        self.inflow = self.params.next_emission_units, self.params.circulating_units
        self.vault = system_account(f"bonds/{self.params.asset_name}")

    def node(self, id: bytes) -> Node:
        ensure(id in self.nodes, f"there is no node {id.hex()}")
        return self.nodes[id]

    def _ignore(self, event: Any, meta: Meta) -> None:
        """audit_sends holds it against the ledger."""

    _vault_requested = _vault_opened = _vault_refused = _ignore

    def _node_registered(self, event: Any, meta: Meta) -> None:
        ensure(event.node == short_hash(event.public_key), "E-6.1: a node's id is not that of its key")
        before = self.nodes.get(event.node)
        ensure(before is None or before.state == EXITED, "E-6.1: a node is registered that is known")
        ensure(event.owner == meta.principal, "a node is registered for another")
        least = self.params.least_rating_milli_cu if event.kind == COMPUTE else 0
        ensure(event.claim_milli_cu >= least, f"E-6.2: a node claims {event.claim_milli_cu}, the least is {least}")
        node = Node(event.owner, event.kind, event.claim_milli_cu, rating=event.claim_milli_cu, base=self.base)
        node.order = len(self.nodes) if before is None else before.order
        self.nodes[event.node] = node

    # Bonds

    def _holds_offered(self, event: Any, meta: Meta) -> None:
        for hold, node, account, units in zip(ids(event.holds), ids(event.nodes), ids(event.accounts), event.amounts_units, strict=True):
            self.offers[hold] = (node, account, units)

    def _bond_requested(self, event: Any, meta: Meta) -> None:
        offer = self.offers.pop(event.hold, None)
        told = (event.node, event.account, event.amount_units)
        ensure(offer == told, "E-6.1: a hold becomes part of a bond that was offered otherwise, or not at all")
        (post,) = self.command.FromString(event.send).create_transfers.transfers
        same = (raw_id(post.hold_id), post.amount_units) == (event.hold, event.amount_units)
        ensure(same, "a bond posts another hold than it names, or another amount")
        self.asked[meta.seq] = ("bond", event.node, event.amount_units)

    def _bond_posted(self, event: Any, meta: Meta) -> None:
        asked = self.asked.pop(event.cause_seq, None)
        ensure(asked == ("bond", event.node, event.amount_units), "a bond is posted that was not asked for")
        node = self.node(event.node)
        node.bond += event.amount_units
        node.payout = node.payout or event.account

    def _bond_refused(self, event: Any, meta: Meta) -> None:
        asked = self.asked.pop(event.cause_seq, None)
        ensure(asked is not None and asked[:2] == ("bond", event.node), "a bond is refused that was not asked for")

    def _payout_account_set(self, event: Any, meta: Meta) -> None:
        ensure(self.node(event.node).owner == meta.principal, "somebody names the payout account of another's node")
        self.node(event.node).payout = event.account

    def required(self, node: Node, now: int) -> int:
        """E-6.2: clamp(ceil(r · base), ceil(r · least), floor(r · most)) with r in CU; a verifier's is flat."""
        p, rating = self.params, node.rating
        if node.kind == VERIFIER:
            return p.verifier_bond_units
        most = rating * p.most_per_cu_units // 1_000
        return max(ceil_div(rating * p.least_per_cu_units, 1_000), min(ceil_div(rating * node.base_at(now), 1_000), most))

    def _bond_changed(self, event: Any, meta: Meta) -> None:
        """E-6.1, E-0.6: as it stands, from what went before."""
        node = self.node(event.node)
        if event.cause == RATED:
            node.rating = event.rating_milli_cu
            days = self.params.hardware_pass_days * self.params.epoch_s * 1_000_000
            ensure(event.hardware_until_us == meta.ts + days, "E-0.6: a hardware pass counts for another time than the parameters say")
            ensure(node.rating >= self.params.least_rating_milli_cu, "E-6.2: a rating below the least passes")
        node.hardware_until = event.hardware_until_us
        found = (event.owner, event.kind, event.bond_units, event.unbonding_units, event.rating_milli_cu)
        expected = (node.owner, node.kind, node.bond, node.unbonding, node.rating)
        ensure(found == expected, f"E-6.1: {uuid_text(event.node)} stands with {found[2:]} (bond, unbonding, rating), its history gives {expected[2:]}")
        required = self.required(node, meta.ts)
        ensure(event.required_units == required, f"E-6.2: {event.required_units} are required of {uuid_text(event.node)}, the rules give {required}")
        passed = node.kind != COMPUTE or event.hardware_until_us > meta.ts
        qualified = node.bond >= required and passed
        ensure(event.qualified == qualified, f"E-0.6: {uuid_text(event.node)} is said to be {'' if event.qualified else 'not '}qualified; it has {node.bond} of {required}")
        state = self._stands(node, event.cause, qualified, meta)
        ensure(event.state == state, f"E-6.1: {uuid_text(event.node)} stands in state {event.state}, its history gives {state}")
        node.state = state

    @staticmethod
    def _stands(node: Node, cause: int, qualified: bool, meta: Meta) -> int:
        """E-6.1: where a node stands by what changed it. Qualified is bond and pass alone: a jailed node may be it and does
        not serve, a tombstoned one may unbond and stays tombstoned."""
        if cause in (RATED, JAILING, UNJAILING):
            ensure(meta.principal[0] in (STAFF, SERVICE), "E-6.1: a node is rated, jailed or released by another than the platform")
        if cause == JAILING:
            ensure(node.state == ACTIVE, "E-6.1: a node is jailed that is not active")
            return JAILED
        if cause == UNJAILING:
            ensure(node.state == JAILED and qualified, "E-6.1: a node is released that is not jailed, or not qualified")
            return ACTIVE
        if cause == UNBONDED and node.bond == 0 and node.state != TOMBSTONED:
            return UNBONDING
        if cause == PAID and node.state == UNBONDING and node.unbonding == 0:
            return EXITED
        return ACTIVE if qualified and node.state == REGISTERED else node.state

    # What leaves

    def _unbonding_started(self, event: Any, meta: Meta) -> None:
        p, node = self.params, self.node(event.node)
        ensure(event.unbonding == len(self.unbondings) + 1, f"unbonding {event.unbonding} follows {len(self.unbondings)}")
        ensure(node.owner == meta.principal, "E-6.5: somebody unbonds another's node")
        ensure(0 < event.amount_units <= node.bond, f"E-6.5: {event.amount_units} unbond of a bond of {node.bond}")
        ensure(event.node not in self.leases.values(), f"E-6.5: {uuid_text(event.node)} unbonds while it holds a lease")
        days = p.compute_unbonding_days if node.kind == COMPUTE else p.verifier_unbonding_days
        ready = meta.ts + days * p.epoch_s * 1_000_000
        ensure(event.ready_at_us >= ready, f"E-6.5: an unbonding is ready at {event.ready_at_us}, before {ready}")
        node.bond, node.unbonding, node.payout = node.bond - event.amount_units, node.unbonding + event.amount_units, event.account
        self.unbondings[event.unbonding] = [event.node, event.amount_units, event.ready_at_us]

    def _leases_noted(self, event: Any, meta: Meta) -> None:
        for grant, node, until in zip(event.grants, ids(event.nodes), event.granted_until_us, strict=True):
            if until:
                self.leases[grant] = node
            else:
                self.leases.pop(grant, None)

    def _payout_sent(self, event: Any, meta: Meta) -> None:
        ensure(event.unbonding in self.unbondings, "an unbonding is paid that is not known")
        node, left, ready = self.unbondings[event.unbonding]
        ensure(event.amount_units <= left and meta.ts >= ready, f"E-6.5: {event.amount_units} of {left} are paid, ready at {ready}")
        (each,) = self.command.FromString(event.send).create_transfers.transfers
        sides = raw_id(each.debit_account_id), raw_id(each.credit_account_id), each.amount_units
        ensure(sides == (self.vault, self.node(node).payout, event.amount_units), "E-6.5: a payout moves something else than it says")
        self.asked[meta.seq] = ("payout", node, event.amount_units)

    def _payout_made(self, event: Any, meta: Meta) -> None:
        asked = self.asked.pop(event.cause_seq, None)
        ensure(asked == ("payout", event.node, event.amount_units), "a payout is made that was not sent")
        self.unbondings[event.unbonding][1] -= event.amount_units
        self.node(event.node).unbonding -= event.amount_units

    def _payout_refused(self, event: Any, meta: Meta) -> None:
        ensure(self.asked.pop(event.cause_seq, None) is not None, "a payout is refused that was not sent")

    def _owner_tombstoned(self, event: Any, meta: Meta) -> None:
        own = {id for id, node in self.nodes.items() if node.owner == event.owner}
        ensure(set(ids(event.nodes)) == own, "E-6.1: a tombstone is not of all nodes of its owner")
        ensure(meta.principal[0] in (STAFF, SERVICE) and event.cause != "", "E-6.1: an owner is tombstoned by another than the platform, or without a cause")
        for id in own:
            self.nodes[id].state = TOMBSTONED

    # The base

    def _recompute_started(self, event: Any, meta: Meta) -> None:
        """E-6.2, in exact rationals: one ceil."""
        p, of = self.params, event.inputs
        ensure((of.next_emission_units, of.circulating_units) == self.inflow, "E-6.2: the base follows from another emission or supply than was noted")
        compute = [node for node in self.nodes.values() if node.kind == COMPUTE]
        bonded = sum(node.bond for node in compute)
        ensure(of.bonded_units == bonded, f"E-6.2: S is {of.bonded_units}, all compute bonds are {bonded}")
        live = [node for node in compute if node.state == ACTIVE and node.bond >= self.required(node, meta.ts) and node.hardware_until > meta.ts]
        told = of.nodes, of.network_milli_cu
        expected = len(live), sum(node.rating for node in live)
        ensure(told == expected, f"E-6.2: N and the network's power are {told}, recomputed {expected}")
        rules = (of.bonded_share_ppb, of.reward_days, of.target_nodes, of.target_milli_cu)
        ensure(rules == (p.bonded_share_ppb, p.reward_days, p.target_nodes, p.target_milli_cu), "E-6.2: the base follows from other parameters")
        wanted = Fraction(of.bonded_share_ppb * of.circulating_units, PPB)
        m = clamp(wanted / bonded, Fraction(1, 2), Fraction(2)) if bonded else Fraction(2)
        g = clamp(Fraction(of.nodes, of.target_nodes), Fraction(1, 2), Fraction(1))
        power = Fraction(max(of.network_milli_cu, of.target_milli_cu), 1_000)
        formula = ceil((of.reward_days * of.next_emission_units + wanted * m) / power * g)
        ensure(event.formula_units == formula, f"E-6.2: the formula gives {formula}, not {event.formula_units}")
        old, step = self.base, p.base_step_ppb
        base = clamp(formula, ceil_div(old * (PPB - step), PPB), old * (PPB + step) // PPB) if old else formula
        ensure(event.base_units == base, f"E-6.2: the base is {event.base_units}, within its step it is {base}")
        rise = meta.ts + p.rise_days * p.epoch_s * 1_000_000
        ensure(event.rise_at_us >= rise, "E-6.2: a rise is in force before its time")
        ensure(event.period >= self.period, "E-6.2: periods fall")
        self.base, self.rise_at, self.follow, self.period = base, event.rise_at_us, event.nodes, event.period

    def _required_recomputed(self, event: Any, meta: Meta) -> None:
        for id, required in zip(ids(event.nodes), event.required_units, strict=True):
            node = self.node(id)
            self._told(node, meta.ts)
            expected = self.required(node, meta.ts)
            ensure(required == expected, f"E-6.2: {required} are required of {uuid_text(id)}, the rules give {expected}")
            self.follow -= 1
        ensure(self.follow >= 0, "E-6.2: more nodes follow a base than were registered")

    def _told(self, node: Node, now: int) -> None:
        """A fall counts at once and ends the rises above it; a rise waits."""
        if self.base > (node.rises[-1][1] if node.rises else node.base):
            node.rises.append((self.rise_at, self.base))
            return
        current = node.base_at(now)
        node.rises = [(at, rise) for at, rise in node.rises if at > now and rise < self.base]
        node.base = min(current, self.base)
        if self.base > node.base:
            node.rises.append((self.rise_at, self.base))

    def _emission_noted(self, event: Any, meta: Meta) -> None:
        self.inflow = event.next_emission_units, event.circulating_units

    def _epoch_sealed(self, event: Any, meta: Meta) -> None:
        p = self.params
        ensure(event.epoch == self.sealed + 1, f"epoch {event.epoch} is sealed after {self.sealed}")
        now = epoch_of(meta.ts - p.seal_after_ms * 1_000, p.tge_at_ms * 1_000, p.epoch_s)
        ensure(event.epoch < now, f"E-0.5: epoch {event.epoch} is sealed before its end")
        self.sealed = event.epoch

    # Other logs

    def across(self, world: World) -> None:
        """Emission's closes and scheduling's leases arrive; the bonds are what lies in bonds/<asset>; what is bonded was held by its owner."""

        def said(record: Record) -> list[Any]:
            return [(e.next_scheduled_units, e.circulating_units) for e in events_of(record, "epoch_closed")]

        def noted(record: Record) -> list[Any]:
            return [(e.next_emission_units, e.circulating_units) for e in events_of(record, "emission_noted")]

        world.agree("staking", "emission", said, noted, "the close")

        def leased(record: Record) -> list[Any]:
            kinds = {"lease_granted": lambda e: e.expires_at_us, "lease_ended": lambda e: 0}
            return [(int.from_bytes(e.lease[12:], "big"), e.node, kinds[which](e)) for _, which, e in record.events if which in kinds]

        def taken_in(record: Record) -> list[Any]:
            found = events_of(record, "leases_noted")
            return [row for e in found for row in zip(e.grants, ids(e.nodes), e.granted_until_us, strict=True)]

        world.agree("staking", "scheduling", leased, taken_in, "leases")
        if world.has("ledger") and not self.asked:
            account = world.machines["ledger"].accounts.get(self.vault)
            total = sum(node.bond + node.unbonding for node in self.nodes.values())
            last = world.logs["staking"].records[-1]
            held = account.balance if account else 0
            last.must(held == total, f"E-6.1: bonds come to {total}, in the ledger lie {held}")

    def report(self) -> dict[str, Any]:
        def row(id: bytes, node: Node) -> dict[str, Any]:
            return {"node": uuid_text(id), "state": node.state, "bond_units": str(node.bond), "unbonding_units": str(node.unbonding), "rating_milli_cu": node.rating}

        return {"nodes": [row(id, node) for id, node in self.nodes.items()], "base_units": str(self.base)}

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        head = ["NODE", "STATE", "BOND", "UNBONDING", "RATING"]
        return [(head, [[str(cell) for cell in row.values()] for row in self.report()["nodes"]])]
