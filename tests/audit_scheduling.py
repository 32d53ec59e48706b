"""Scheduling recomputed: signatures, leases and what is metered under them, placements (E-10.4), attendance (E-0.6)."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from audit_common import PPB, Meta, Record, Service, World, ceil_div, ensure, epoch_of, events_of, ids, wide
from audit_frames import GATEWAY, SYSTEM, short_hash, uuid_text
from blake3 import blake3
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

FULL, QUARTER, NONE = 1, 2, 3
COMPUTE = 1
ACTIVE = 2
NODE_LOST = 4
OWN_NUMBER = 4
BEST = 3


def statement(*parts: bytes) -> bytes:
    """What is signed: each field behind its length."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def signed(key: bytes, said: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(key).verify(said, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def context_class(context: int) -> int:
    """Rounded down to a quarter of its greatest power of two."""
    step = 1 << max(0, context.bit_length() - 3)
    return context // step * step


@dataclass(frozen=True)
class Stand:
    """A node as staking's log says it stands: all that scheduling keeps of it."""

    owner: bytes = b""
    key: bytes = b""
    qualified: bool = False
    rating: int = 0
    required: int = 0


def stand_of(noted: Any) -> Stand:
    """What scheduling's log says of a node."""
    return Stand(noted.owner, noted.public_key, noted.qualified, noted.rating_milli_cu, noted.required_units)


def stands(record: Record, known: dict[bytes, Stand], most: int) -> tuple[list[tuple[Stand, bytes]], list[bytes]]:
    """What scheduling is to note of an entry of staking's log: the nodes that stand otherwise than is `known`, by their ids,
    and those that a tombstone disqualifies. A node beyond the limit is never known."""
    before, gone = dict(known), []
    for _, which, event in record.events:
        if which == "node_registered" and event.kind == COMPUTE and (event.node in known or len(known) < most):
            known[event.node] = replace(known.get(event.node, Stand(key=event.public_key)), owner=event.owner)
        elif which == "bond_changed" and event.kind == COMPUTE and event.node in known:
            so = event.qualified and event.state == ACTIVE
            here = {"owner": event.owner, "qualified": so, "rating": event.rating_milli_cu, "required": event.required_units}
            known[event.node] = replace(known[event.node], **here)
        elif which == "required_recomputed":
            for id, required in zip(ids(event.nodes), event.required_units, strict=True):
                if id in known:
                    known[id] = replace(known[id], required=required)
        elif which == "owner_tombstoned":
            gone += [id for id in ids(event.nodes) if id in before and before[id].qualified]
    changed = sorted(id for id, stand in known.items() if before.get(id) != stand)
    found = [(known[id], id) for id in changed]
    known.update((id, replace(known[id], qualified=False)) for id in gone)
    return found, gone


@dataclass
class Node:
    """A node as staking says it stands, where it is attached, and its leases."""

    owner: bytes = b""
    qualified: list[tuple[int, bool]] = field(default_factory=list)
    rating: int = 0
    required: int = 0
    gateway: bytes = b""
    generation: int = 0
    offer: Any = None
    last_lease: int = 0
    leases: set[bytes] = field(default_factory=set)

    def is_qualified(self) -> bool:
        return bool(self.qualified) and self.qualified[-1][1]

    def was_qualified(self, ts: int) -> bool:
        return next((so for at, so in reversed(self.qualified) if at <= ts), False)


@dataclass
class Lease:
    """A lease; `metered` is in pico-dollars."""

    granted: Any
    allowance: int
    expires: int
    asked_by: bytes
    metered: int = 0
    ended_at: int = 0
    calls: set[bytes] = field(default_factory=set)
    running: dict[bytes, Any] = field(default_factory=dict)

    def price(self, line: Any) -> int:
        return line.input_tokens * self.granted.input_pico_usd + line.output_tokens * self.granted.output_pico_usd

    def pending(self) -> int:
        """What was checkpointed of calls that have no receipt."""
        return sum(self.price(line) for line in self.running.values())


@dataclass
class Session:
    """A session as the market has funded it."""

    renter: bytes
    cap: int
    metered: int = 0
    leases: set[bytes] = field(default_factory=set)
    draining: bool = False
    last_ended: int = 0
    drained: bool = False
    ended: bool = False


class Scheduling(Service):
    """Nodes, leases, calls, presence."""

    name = "scheduling"

    def __init__(self, protos: Any) -> None:
        super().__init__(protos)
        self.offer = protos.message("holmes.scheduling.v1.Capabilities")
        self.nodes: dict[bytes, Node] = {}
        self.keys: dict[bytes, bytes] = {}
        self.models: dict[str, Any] = {}
        self.sessions: dict[bytes, Session] = {}
        self.leases: dict[bytes, Lease] = {}
        self.beats: dict[int, dict[bytes, set[int]]] = {}
        self.told: dict[bytes, tuple[int, bool]] = {}
        self.active: dict[bytes, int] = {}
        self.sealed = 0
        self.lines: Counter[str] = Counter()

    def node(self, id: bytes) -> Node:
        ensure(id in self.nodes, f"there is no node {id.hex()}")
        return self.nodes[id]

    # What others say

    def _nodes_noted(self, event: Any, meta: Meta) -> None:
        for each in event.nodes:
            ensure(each.node == short_hash(each.public_key), "a node's id is not that of its key")
            node = self.nodes.setdefault(each.node, Node())
            node.owner, node.rating, node.required = each.owner, each.rating_milli_cu, each.required_units
            node.qualified.append((meta.ts, each.qualified))
            self.keys[each.node] = each.public_key
        for id in ids(event.unqualified):
            self.node(id).qualified.append((meta.ts, False))

    def _model_noted(self, event: Any, meta: Meta) -> None:
        self.models[event.model] = event

    def _session_noted(self, event: Any, meta: Meta) -> None:
        session = self.sessions.setdefault(event.session, Session(event.renter, 0))
        ensure(wide(event.cap_pico_usd) >= session.cap, "a session's cap falls")
        session.cap = wide(event.cap_pico_usd)

    def _session_ended(self, event: Any, meta: Meta) -> None:
        if event.session in self.sessions:
            self.sessions[event.session].ended = True
            for each in self.sessions[event.session].leases:
                self.leases[each].running.clear()  # nobody pays them

    def _session_draining(self, event: Any, meta: Meta) -> None:
        if event.session in self.sessions:
            self.sessions[event.session].draining = True

    def _session_drained(self, event: Any, meta: Meta) -> None:
        session = self.sessions.get(event.session)
        ensure(session is not None and session.draining, "a session is drained that does not close")
        assert session is not None
        leases = [self.leases[each] for each in session.leases]
        ensure(all(lease.ended_at for lease in leases), "a session is drained with open leases")
        ensure(not any(lease.running for lease in leases), "E-9.2: a session is drained before what was checkpointed on it is metered")
        ensure(meta.ts >= session.last_ended + self.params.late_close_ms * 1_000, "a session is drained while late calls may come")
        session.drained = True

    # Gateways and attachments

    def _gateway_started(self, event: Any, meta: Meta) -> None:
        ensure(event.gateway == short_hash(event.public_key) == meta.principal[1:], "a gateway's id is not that of its key")
        self.keys[event.gateway] = event.public_key

    def _ignore(self, event: Any, meta: Meta) -> None:
        """Nothing follows from it."""

    _gateway_heard = _gateway_lost = _beats_weighed = _lines_answered = _ignore

    def _node_attached(self, event: Any, meta: Meta) -> None:
        node = self.node(event.node)
        ensure(event.generation == meta.seq, "an attachment's generation is not its own place")
        ensure(meta.principal == bytes([GATEWAY]) + event.gateway and event.gateway in self.keys, "a node attaches to another gateway than says so")
        node.gateway, node.generation = event.gateway, event.generation
        node.offer = self.offer.FromString(event.capabilities)

    def _node_detached(self, event: Any, meta: Meta) -> None:
        node = self.node(event.node)
        ensure(event.generation == node.generation, "a node is detached of an attachment that it has not")
        node.gateway, node.generation = b"", 0

    # Leases

    def _lease_granted(self, event: Any, meta: Meta) -> None:
        node, session, model = self.node(event.node), self.sessions.get(event.session), self.models.get(event.model)
        ensure(session is not None and not session.ended and session.renter == event.renter, "a lease is granted to a session that is not funded, or another's")
        assert session is not None
        ensure(not session.draining, "a lease is granted to a session that closes")
        ensure(node.is_qualified() and node.owner == event.owner, "a lease is granted on a node that may not serve, or is another's")
        ensure((node.gateway, node.generation) == (event.gateway, event.generation), "a lease is granted on an attachment that is gone")
        prices = ("input_pico_usd", "output_pico_usd", "input_micro_units", "output_micro_units")
        same = model is not None and not model.withdrawn and all(getattr(event, name) == getattr(model, name) for name in prices)
        ensure(same, f"E-9.1: a lease has other prices than the market offers for {event.model}")
        ensure(event.lease[2:4] == struct.pack(">H", OWN_NUMBER) and event.lease[12:] == struct.pack(">Q", meta.seq), "a lease's id is not its own place")
        ensure(meta.ts < event.expires_at_us <= meta.ts + self.params.longest_lease_ms * 1_000, "a lease is longer than the parameters allow")
        self._placement(event)
        self.leases[event.lease] = Lease(event, event.allowance_pico_usd, event.expires_at_us, meta.principal)
        session.leases.add(event.lease)
        node.leases.add(event.lease)
        node.last_lease = meta.seq
        self._within(event.session)

    def _within(self, id: bytes) -> None:
        """Nothing may be metered that no hold covers: allowances of open leases are reserved in the session, and checkpoints of others."""
        session = self.sessions[id]
        leases = [self.leases[each] for each in session.leases]
        reserved = sum(lease.pending() if lease.ended_at else lease.allowance - lease.metered for lease in leases)
        total = session.metered + reserved
        ensure(total <= session.cap, f"E-9.1: {total} pico-dollars are metered or reserved on a session that has {session.cap}")

    def _serves(self, node: Node, model: str, context: int = 0) -> bool:
        offered = node.offer.models if node.generation else ()
        return any(each.name == model and context_class(each.context) >= context for each in offered)

    def _placement(self, event: Any) -> None:
        """E-10.4, E-3.2: the choice made again from the log."""
        of = event.placement
        serving = {id: node for id, node in self.nodes.items() if self._serves(node, event.model)}
        able = {id: node for id, node in serving.items() if node.is_qualified() and len(node.leases) < node.offer.slots}
        shares: Counter[bytes] = Counter()
        excluded = 0
        for node in serving.values():
            if node.is_qualified():
                shares[node.owner] += node.rating
                excluded += 0 if self._serves(node, event.model, of.context) else node.rating
        whole = max(1, sum(shares.values()))
        largest = ceil_div(max(shares.values(), default=0) * PPB, whole)
        found = (of.serving, of.able, of.owners, of.largest_owner_ppb)
        expected = (len(serving), len(able), len(shares), largest)
        ensure(found == expected, f"E-10.4: a placement counts {found} (serving, able, owners, largest), recomputed {expected}")
        avoided = set(ids(of.avoided_nodes))

        def order(item: tuple[bytes, Node]) -> tuple[Any, ...]:
            id, node = item
            slots = max(1, node.offer.slots)
            return (len(node.leases) << 40) // slots, -self.params.score, -node.rating, node.last_lease, id

        able = {id: node for id, node in able.items() if self._serves(node, event.model, of.context) and id not in avoided}
        if of.named_node:
            able = {id: node for id, node in able.items() if id == of.named_node}
        best = sorted(able.items(), key=order)[:BEST]
        rows = [(id, len(node.leases), node.offer.slots, self.params.score, node.rating, node.last_lease) for id, node in best]
        told = [(each.node, each.used, each.slots, each.score, each.rating_milli_cu, each.last_lease_seq) for each in of.best]
        ensure(bool(told) and told == rows, f"E-10.4: the best three are {[uuid_text(row[0]) for row in told]}, by the matcher's order {[uuid_text(row[0]) for row in rows]}")
        ensure(told[0][0] == event.node, "E-10.4: the winner is not the first of the best three")
        few = len(shares) < self.params.least_owners or largest > self.params.owner_share_ppb
        few = few or bool(of.named_node) or ceil_div(excluded * PPB, whole) > self.params.owner_share_ppb
        credit = NONE if event.owner == event.renter else QUARTER if few else FULL
        ensure(event.credit == credit, f"E-3.2: its work counts by credit {event.credit}, the rules give {credit}")

    def _lease(self, id: bytes) -> Lease:
        ensure(id in self.leases, f"there is no lease {id.hex()}")
        return self.leases[id]

    def _lease_renewed(self, event: Any, meta: Meta) -> None:
        lease = self._lease(event.renewed.lease)
        ensure(not lease.ended_at, "a lease is renewed that has ended")
        ensure(not self.sessions[lease.granted.session].draining, "a lease is renewed of a session that closes")
        ensure(event.renewed.allowance_pico_usd >= lease.allowance, "a lease's allowance falls")
        ensure(event.renewed.expires_at_us <= meta.ts + self.params.longest_lease_ms * 1_000, "a lease is longer than the parameters allow")
        lease.allowance, lease.expires = event.renewed.allowance_pico_usd, event.renewed.expires_at_us
        self._within(lease.granted.session)

    def _lease_ended(self, event: Any, meta: Meta) -> None:
        lease = self._lease(event.lease)
        ensure(not lease.ended_at, "a lease ends twice")
        ensure((event.session, event.node) == (lease.granted.session, lease.granted.node), "a lease ends under another session or node")
        lease.ended_at = meta.ts
        session = self.sessions[event.session]
        session.last_ended = max(session.last_ended, meta.ts)
        if session.ended:
            lease.running.clear()
        self.node(event.node).leases.discard(event.lease)

    def _calls_metered(self, event: Any, meta: Meta) -> None:
        """E-9.2: at the lease's prices, within its allowance and the session's cap, each call once."""
        lease = self._lease(event.lease)
        for name in ("session", "renter", "node", "owner", "model", "input_pico_usd", "output_pico_usd", "input_micro_units", "output_micro_units", "credit"):
            found, expected = getattr(event, name), getattr(lease.granted, name)
            ensure(found == expected, f"E-9.2: {name} of metered calls is {found}, the lease's {expected}")
        session = self.sessions[event.session]
        last = lease.ended_at + self.params.late_calls_ms * 1_000
        if meta.principal[0] == SYSTEM:
            ensure(event.gateway == lease.asked_by[1:], "checkpoints are metered for another gateway than delivers the calls")
            ensure(all(lease.running.get(line.call) == line for line in event.lines), "E-9.2: time meters what was not checkpointed last")
            waited = lease.ended_at and (session.draining or meta.ts >= last)
            ensure(bool(waited), "checkpoints are metered while the calls can still be reported")
        else:
            ensure(meta.principal == bytes([GATEWAY]) + event.gateway, "calls are metered for another gateway than reports them")
            ensure(not lease.ended_at or meta.ts <= last, "calls are metered long after their lease")
        for line in event.lines:
            ensure(line.call not in lease.calls, f"E-9.2: call {uuid_text(line.call)} is metered twice")
            lease.calls.add(line.call)
            lease.running.pop(line.call, None)
            lease.metered += lease.price(line)
            session.metered += lease.price(line)
        self._allowed(lease)
        ensure(not session.drained, "calls are metered on a session that is drained")
        ensure(session.metered <= session.cap, f"E-9.1: {session.metered} pico-dollars are metered on a session that has {session.cap}")
        self.lines[uuid_text(event.node)] += len(event.lines)

    def _allowed(self, lease: Lease) -> None:
        total = lease.metered + lease.pending()
        ensure(total <= lease.allowance, f"{total} pico-dollars are metered or checkpointed under a lease that allows {lease.allowance}")

    def _calls_checkpointed(self, event: Any, meta: Meta) -> None:
        """What calls that run have come to: only more than before, of open leases, by the gateway that delivers them."""
        ensure(meta.principal == bytes([GATEWAY]) + event.gateway, "calls are checkpointed for another gateway than says so")
        for id, line in zip(ids(event.leases, 20), event.lines, strict=True):
            lease = self._lease(id)
            ensure(lease.asked_by == meta.principal and not lease.ended_at, "a call is checkpointed under a lease that is over, or another gateway's")
            ensure(not self.sessions[lease.granted.session].drained, "a call is checkpointed on a session that is drained")
            ensure(line.call not in lease.calls and line.finish == NODE_LOST, "a call is checkpointed that has its receipt")
            before = lease.running.get(line.call)
            ensure(before is None or lease.price(line) > lease.price(before), "a checkpoint takes something back")
            lease.running[line.call] = line
            self._allowed(lease)

    # Presence

    def _presence_recorded(self, event: Any, meta: Meta) -> None:
        size, nodes = ceil_div(event.beats, 8), ids(event.nodes)
        ensure(event.epoch > self.sealed, "presence is recorded of an epoch that is sealed")
        whole = len(event.bitmaps) == size * len(nodes) and event.first_beat + event.beats <= self.params.epoch_s // self.params.beat_s
        ensure(whole, "E-0.6: bitmaps have another length than their beats, or reach behind the epoch")
        for at, id in enumerate(nodes):
            ensure(self.node(id).gateway == meta.principal[1:], "a gateway reports presence of a node that is not attached to it")
            bits = int.from_bytes(event.bitmaps[size * at : size * (at + 1)], "little")
            ensure(bits >> event.beats == 0, "E-0.6: a bitmap speaks of more beats than it says")
            seen = self.beats.setdefault(event.epoch, {}).setdefault(id, set())
            seen |= {event.first_beat + beat for beat in range(event.beats) if bits >> beat & 1}

    def _counted(self, epoch: int) -> set[int]:
        """E-0.6: beats in which nodes with enough of the last Active nodes' required collateral were seen."""
        total, seen = sum(self.active.values()), self.beats.get(epoch, {})
        least = ceil_div(total * self.params.beat_quorum_ppb, PPB)
        beats = range(self.params.epoch_s // self.params.beat_s)
        weight: Counter[int] = Counter()
        for id, required in self.active.items():
            for beat in seen.get(id, ()):
                weight[beat] += required
        return {beat for beat in beats if weight[beat] >= least}

    def _epoch_attendance(self, event: Any, meta: Meta) -> None:
        p, counted = self.params, self._counted(event.epoch)
        end = (p.tge_at_ms + event.epoch * p.epoch_s * 1_000) * 1_000
        for id, beats, active in zip(ids(event.nodes), event.beats_seen, event.active, strict=True):
            seen = len(self.beats.get(event.epoch, {}).get(id, set()) & counted)
            is_active = self.node(id).was_qualified(end) and bool(counted) and 2 * seen >= len(counted)
            ensure(id not in self.told, "a node's attendance stands twice")
            ensure((beats, active) == (seen, is_active), f"E-0.6: {uuid_text(id)} was there for {beats} beats (Active: {active}), recomputed {seen} ({is_active})")
            self.told[id] = (beats, active)

    def _epoch_sealed(self, event: Any, meta: Meta) -> None:
        p = self.params
        ensure(not self.sealed or event.epoch == self.sealed + 1, f"epoch {event.epoch} is sealed after {self.sealed}")
        now = epoch_of(meta.ts - p.seal_after_ms * 1_000, p.tge_at_ms * 1_000, p.epoch_s)
        ensure(event.epoch < now, f"E-0.5: epoch {event.epoch} is sealed before its end")
        counted = len(self._counted(event.epoch))
        ensure(event.beats == counted, f"E-0.6: {event.beats} beats counted, recomputed {counted}")
        seen = set(self.beats.pop(event.epoch, {}))
        ensure(seen == set(self.told), "E-0.6: an epoch is sealed without the attendance of all nodes that were seen")
        self.active = {id: self.node(id).required for id, (_, active) in self.told.items() if active}
        self.sealed, self.told = event.epoch, {}

    # Signatures and other logs

    def across(self, world: World) -> None:
        log = world.logs["scheduling"]
        network = log.profile, struct.pack("<H", log.cell)
        for record in log.records:
            for seq, which, event in record.events:
                if which == "node_attached":
                    said = statement(b"holmes attach v1", *network, event.gateway, event.nonce, blake3(event.capabilities).digest())
                    record.must(signed(self.keys[event.node], said, event.signature), "the node has not signed that it attaches here", seq)
                elif which in ("calls_metered", "calls_checkpointed"):
                    one = which == "calls_metered"
                    leases = [event.lease] * len(event.lines) if one else ids(event.leases, 20)
                    for at, (lease, line) in enumerate(zip(leases, event.lines, strict=True)):
                        node = self.leases[lease].granted.node
                        counts = struct.pack("<Q", line.input_tokens), struct.pack("<Q", line.output_tokens), struct.pack("<I", line.finish)
                        said = statement(b"holmes call v1", *network, lease, line.call, *counts, line.prompt_commitment, line.output_commitment)
                        for who, key, signature in (("node", node, line.node_signature), ("gateway", event.gateway, line.gateway_signature)):
                            record.must(signed(self.keys[key], said, signature), f"E-9.2: the {who} has not signed line {at}", seq)

        prices = ("model", "input_pico_usd", "output_pico_usd", "input_micro_units", "output_micro_units", "withdrawn")

        def models(which: str) -> Callable[[Record], list[Any]]:
            return lambda record: [tuple(getattr(event, name) for name in prices) for event in events_of(record, which)]

        world.agree("scheduling", "market", models("model_priced"), models("model_noted"), "what is offered")

        def funded(record: Record) -> list[Any]:
            return [(e.session, e.renter, wide(e.cap_pico_usd)) for e in events_of(record, "session_funded")]

        def noted(record: Record) -> list[Any]:
            return [(e.session, e.renter, wide(e.cap_pico_usd)) for e in events_of(record, "session_noted")]

        world.agree("scheduling", "market", funded, noted, "what is funded")

        def closing(record: Record) -> list[Any]:
            return [(e.session, e.drains_until_us) for e in events_of(record, "session_closing") if e.session in self.sessions]

        def draining(record: Record) -> list[Any]:
            return [(e.session, e.drains_until_us) for e in events_of(record, "session_draining")]

        world.agree("scheduling", "market", closing, draining, "which sessions close")

        if world.has("staking", "scheduling"):
            known: dict[bytes, Stand] = {}
            for cause, effect in world.pairs("scheduling", "staking"):
                said = stands(cause, known, self.params.most_nodes)
                events = events_of(effect, "nodes_noted") if effect else []
                told = [(stand_of(each), each.node) for event in events for each in event.nodes], [id for event in events for id in ids(event.unqualified)]
                (effect or cause).must(told == said, f"it notes nodes of staking@{cause.last} as {told}, which says {said}")

    def report(self) -> dict[str, Any]:
        return {"calls": dict(self.lines), "leases": len(self.leases), "sealed": self.sealed}

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        return [(["NODE", "CALLS"], [[node, str(calls)] for node, calls in self.lines.items()])]


