"""Any byte that is altered in the log of a whole network, or any frame that is dropped before its end, is found by the
audit and by `holmes verify` in its place. What a forger who writes every log anew changes is found where the list below
says so, and that of test_audit_life.

What no audit can find of such a forger while nobody has published a head: what no other entry and no rule depends on.
Names and labels, a hashed API key, a moment within its neighbours, an amount that came in or left by the border, a wallet's
request that was left out with all that followed from it, frames behind the last one. `test_what_nothing_depends_on…` says
so in code. What nodes and gateways have signed, and money once it is inside, is found even then."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit import audited
from audit_frames import HEADER, Fault, Protos, decode, read_frame
from blake3 import blake3
from conftest import DemoLog
from story import binary
from test_audit import Frames, altered, audit, joined, rechained, sealed, split

SERVICES = ("ledger", "accounts", "staking", "scheduling", "market", "emission", "treasury")
Change = Callable[[Any], bool]


def more(which: str, field: str) -> Change:
    """One more of a field of an event; of a column, in its first item."""

    def change(event: Any) -> bool:
        if event.WhichOneof("event") != which:
            return False
        inner = getattr(event, which)
        value = getattr(inner, field)
        if isinstance(value, int):
            setattr(inner, field, value + 1)
        elif isinstance(value, bytes):
            setattr(inner, field, (int.from_bytes(value, "big") + 1).to_bytes(len(value), "big"))
        elif len(value) > 0:
            value[0] += 1
        else:
            return False
        return True

    return change


def of_line(field: str, which: str = "calls_metered") -> Change:
    """Another value of a field of an event's first line."""

    def change(event: Any) -> bool:
        if event.WhichOneof("event") != which:
            return False
        line = getattr(event, which).lines[0]
        value = getattr(line, field)
        setattr(line, field, value + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:])
        return True

    return change


def other_winner(event: Any) -> bool:
    if event.WhichOneof("event") != "lease_granted" or len(event.lease_granted.placement.best) < 2:
        return False
    best = event.lease_granted.placement.best
    first, second = best[0].node, best[1].node
    best[0].node, best[1].node = second, first
    return True


def paid_pool(event: Any) -> bool:
    if event.WhichOneof("event") != "epoch_closed" or not event.epoch_closed.pools[1].paid_units:
        return False
    event.epoch_closed.pools[1].paid_units += 1
    return True


CHANGES: list[tuple[str, str, Change]] = [
    ("ledger", "a transfer", more("transfers_recorded", "amounts_units")),
    ("staking", "a bond that is asked for", more("bond_requested", "amount_units")),
    ("staking", "a bond", more("bond_changed", "bond_units")),
    ("staking", "the collateral", more("bond_changed", "required_units")),
    ("staking", "the base", more("recompute_started", "base_units")),
    ("staking", "which lease a node holds", more("leases_noted", "grants")),
    ("staking", "who holds a lease", more("leases_noted", "nodes")),
    ("scheduling", "tokens written", of_line("output_tokens")),
    ("scheduling", "a commitment", of_line("output_commitment")),
    ("scheduling", "a node's signature", of_line("node_signature")),
    ("scheduling", "tokens read at a checkpoint", of_line("input_tokens", "calls_checkpointed")),
    ("scheduling", "tokens written at a checkpoint", of_line("output_tokens", "calls_checkpointed")),
    ("scheduling", "how a checkpoint ends", of_line("finish", "calls_checkpointed")),
    ("scheduling", "a checkpoint's call", of_line("call", "calls_checkpointed")),
    ("scheduling", "a checkpoint's prompt", of_line("prompt_commitment", "calls_checkpointed")),
    ("scheduling", "a checkpoint's text", of_line("output_commitment", "calls_checkpointed")),
    ("scheduling", "a node's signature of a checkpoint", of_line("node_signature", "calls_checkpointed")),
    ("scheduling", "a gateway's signature of a checkpoint", of_line("gateway_signature", "calls_checkpointed")),
    ("scheduling", "a checkpoint's lease", more("calls_checkpointed", "leases")),
    ("scheduling", "whose a checkpoint is", more("calls_checkpointed", "gateway")),
    ("scheduling", "a price", more("lease_granted", "input_pico_usd")),
    ("scheduling", "a credit", more("lease_granted", "credit")),
    ("scheduling", "the best three", other_winner),
    ("scheduling", "an attach nonce", more("node_attached", "nonce")),
    ("scheduling", "attendance", more("epoch_attendance", "beats_seen")),
    ("scheduling", "a cap", more("session_noted", "cap_pico_usd")),
    ("market", "metered price", more("calls_noted", "billed_pico_usd")),
    ("market", "metered work", more("calls_noted", "billed_micro_units")),
    ("market", "a window's price", more("window_ended", "price_micro_usd")),
    ("market", "a fee", more("window_ended", "buyer_fee_micro_usd")),
    ("market", "what an owner is paid", more("settled", "paid_units")),
    ("market", "what a renter is charged", more("settled", "charged_units")),
    ("market", "a hold", more("session_opened", "hold_units")),
    ("market", "a cap", more("session_funded", "cap_pico_usd")),
    ("market", "the price of the token", more("price_sealed", "token_price_micro_usd")),
    ("emission", "work", more("work_noted", "units")),
    ("emission", "fees", more("work_noted", "fees_micro_usd")),
    ("emission", "a weight", more("nodes_weighed", "trr_weights")),
    ("emission", "a share", more("shares_floored", "br_units")),
    ("emission", "a cut of kappa", more("owner_cut", "cut_units")),
    ("emission", "what a pool pays", paid_pool),
    ("emission", "a grant", more("rewards_granted", "locked_units")),
    ("emission", "a payment", more("payments_sent", "units")),
    ("treasury", "the first moment", more("genesis_begun", "tge_at_us")),
    ("treasury", "what grants came to", more("genesis_completed", "granted_units")),
]


class Logs:
    """A copy of a network's frames, to be altered."""

    def __init__(self, frames: Path, to: Path) -> None:
        self.dir = to / "frames"
        shutil.copytree(frames, self.dir)
        self.frames = {name: split(self.dir / f"{name}.frames") for name in SERVICES}

    def audited(self, service: str, frames: Frames) -> tuple[int, dict[str, Any]]:
        (self.dir / f"{service}.frames").write_bytes(joined(frames))
        return audit(self.dir)

    def forged(self, protos: Protos) -> Fault | None:
        """What the audit says of what a forger who owns every log would write: all chains made anew, and all that names
        them."""
        body = protos.message("holmes.log.v1.Body")
        names = {number: name for name, number in protos.numbers.items()}
        row = [(read_frame(at + 1, raw), name, raw) for name in SERVICES for at, raw in enumerate(self.frames[name])]
        chains: dict[str, list[tuple[int, bytes]]] = {name: [] for name in SERVICES}
        written: dict[str, Frames] = {name: [] for name in SERVICES}
        for frame, name, raw in sorted(row, key=lambda each: each[0].ts):
            inner = decode(body, raw[HEADER.size :], "body")
            for entry in inner.entries:
                if entry.HasField("source"):
                    of = chains[names[entry.source.svc]]
                    entry.source.chain = next(chain for last, chain in of if last >= entry.source.seq)
            prev = chains[name][-1][1] if chains[name] else bytes(32)
            out = sealed(raw, inner.SerializeToString(), prev)
            chains[name].append((frame.last, blake3(prev + out).digest()))
            written[name].append(out)
        for name, frames in written.items():
            (self.dir / f"{name}.frames").write_bytes(joined(frames))
        return audited(protos, [self.dir / f"{name}.frames" for name in SERVICES])[1]


@pytest.fixture
def logs(demo_log: DemoLog, tmp_path: Path) -> Logs:
    return Logs(demo_log.frames, tmp_path)


def test_the_demo_holds_and_every_service_is_recomputed(demo_log: DemoLog) -> None:
    code, told = audit(demo_log.frames)
    assert (code, told["fault"]) == (0, None)
    assert {each["service"] for each in told["services"] if each["recomputed"]} == set(SERVICES)
    assert sum(invoice["calls"] for invoice in told["market"]["invoices"]) >= 30
    assert told["emission"]["rewards"] and told["treasury"]["complete"]


def test_logs_that_are_written_anew_without_a_change_hold(protos: Protos, logs: Logs) -> None:
    """The forger's pen itself leaves no trace: what the tests below find is what they alter."""
    assert logs.forged(protos) is None


@pytest.mark.parametrize("service", SERVICES)
def test_a_flipped_byte_is_found_in_its_frame(logs: Logs, service: str) -> None:
    frames = logs.frames[service]
    for number in {1, len(frames) // 2, len(frames)}:
        raw = frames[number - 1]
        for at in (9, 50, HEADER.size, len(raw) - 1):
            flipped = raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :]
            code, told = logs.audited(service, [*frames[: number - 1], flipped, *frames[number:]])
            assert code == 1 and (told["fault"]["service"], told["fault"]["frame"]) == (service, number)


@pytest.mark.parametrize("service", SERVICES)
def test_a_dropped_frame_is_found_where_it_is_missing(logs: Logs, service: str) -> None:
    frames = logs.frames[service]
    for number in {1, len(frames) // 2, len(frames) - 1}:
        code, told = logs.audited(service, [*frames[: number - 1], *frames[number:]])
        assert code == 1 and (told["fault"]["service"], told["fault"]["frame"]) == (service, number)


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "accounts"])
def test_a_log_whose_chains_are_made_anew_is_found_by_the_logs_that_cite_it(logs: Logs, service: str) -> None:
    """All but that of accounts, whose entries no other log takes in: there a published head is what finds it."""
    frames = logs.frames[service]
    frames[0] = sealed(frames[0], frames[0][HEADER.size :] + b"\x12\x00")  # a field that no reader knows
    code, told = logs.audited(service, rechained(frames))
    assert code == 1 and told["fault"]["service"] != service, told["fault"]
    assert re.search(f"it took in {service} at \\d+, which that log does not have", told["fault"]["reason"])


@pytest.mark.parametrize(("service", "what", "change"), CHANGES, ids=[f"{each[0]}: {each[1]}" for each in CHANGES])
def test_an_amount_is_found_though_every_log_is_written_anew(
    protos: Protos, logs: Logs, service: str, what: str, change: Change
) -> None:
    frames = logs.frames[service]
    for at, raw in enumerate(frames):
        if (forged := altered(protos, service, raw, change)) is not None:
            frames[at] = forged
            break
    else:
        pytest.fail(f"the demo has no event of {service} that holds {what}")
    fault = logs.forged(protos)
    assert fault is not None and fault.seq > 0 and fault.reason, what


def test_what_nothing_depends_on_is_not_found_when_every_log_is_written_anew(protos: Protos, logs: Logs) -> None:
    def other_name(event: Any) -> bool:
        if event.WhichOneof("event") != "account_created":
            return False
        event.account_created.name = "eve"
        return True

    frames = logs.frames["accounts"]
    at, forged = next((at, out) for at, raw in enumerate(frames) if (out := altered(protos, "accounts", raw, other_name)))
    frames[at] = forged
    assert logs.forged(protos) is None, "publish heads: they are what finds this"


def verify_finds(demo_log: DemoLog, tmp_path: Path, service: str, frame: bytes, at: int) -> None:
    """Flips a bit of a frame's body in the journal: `holmes verify` names the service and the frame, in one line."""
    copy = tmp_path / "data"
    shutil.copytree(demo_log.data, copy)
    for path in sorted(path for path in (copy / "journal").rglob("*") if path.is_file()):
        data = bytearray(path.read_bytes())
        if (found := data.find(frame[HEADER.size :])) >= 0:
            data[found + at] ^= 0x10
            path.write_bytes(data)
            break
    else:
        pytest.fail("the journal does not keep this frame's bytes as they are: the test must find another way to damage it")
    done = subprocess.run([binary(), "verify", "--dir", copy, "-o", "json"], capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "panicked" not in said, said
    assert f"the log of {service} is damaged behind {read_frame(1, frame).first - 1}: " in said, said


@pytest.mark.parametrize("service", SERVICES)
def test_verify_names_service_and_frame_of_a_flipped_byte(demo_log: DemoLog, tmp_path: Path, service: str) -> None:
    frames = split(demo_log.frames / f"{service}.frames")
    for number in {1, len(frames) // 2, len(frames)}:
        verify_finds(demo_log, tmp_path / str(number), service, frames[number - 1], 1)


def test_verify_names_the_frame_of_an_altered_checkpoint(demo_log: DemoLog, protos: Protos, tmp_path: Path) -> None:
    """Calls that ran for long enough were checkpointed; nobody is paid by another checkpoint than was signed."""
    frames = split(demo_log.frames / "scheduling.frames")
    change = of_line("output_tokens", "calls_checkpointed")
    raw, forged = next((raw, out) for raw in frames if (out := altered(protos, "scheduling", raw, change)))
    at = next(at for at in range(HEADER.size, len(raw)) if raw[at] != forged[at])
    verify_finds(demo_log, tmp_path, "scheduling", raw, at - HEADER.size)
