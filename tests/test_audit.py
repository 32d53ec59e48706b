"""Whatever is altered in a log, the audit and `holmes verify` say so, and where."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from crc32c import crc32c

from audit_frames import HEADER, Protos, decode
from story import ROOT, Network, live, system_account

SERVICES = ("ledger", "accounts")
Frames = list[bytes]


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    network = Network(tmp_path_factory.mktemp("network"))
    try:
        live(network)
    finally:
        if network.server is not None:
            network.server.kill()
            network.server.wait()
    network.run("replay", "--dir", str(network.data), "--frames", str(network.root / "frames"))
    return network


def audit(frames: Path) -> tuple[int, dict[str, Any]]:
    words = [sys.executable, str(ROOT / "tests/audit.py"), str(frames), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def split(path: Path) -> Frames:
    data, frames, at = path.read_bytes(), [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        frames.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return frames


def joined(frames: Frames) -> bytes:
    return b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)


def sealed(frame: bytes, body: bytes, prev: bytes | None = None) -> bytes:
    """A frame with another body (and place in the chain), its checksum made anew."""
    head = frame[: HEADER.size - 36] + (prev or frame[HEADER.size - 36 : HEADER.size - 4])
    return head + struct.pack("<I", crc32c(body, crc32c(head))) + body


def rechained(frames: Frames) -> Frames:
    """What a forger who owns the whole log would write: every chain made anew."""
    out, prev = [], bytes(32)
    for frame in frames:
        out.append(sealed(frame, frame[HEADER.size :], prev))
        prev = blake3(prev + out[-1]).digest()
    return out


def altered(protos: Protos, service: str, frame: bytes, change: Callable[[Any], bool]) -> bytes | None:
    """A frame with its first event changed that `change` takes; None when it takes none."""
    body = decode(protos.message("holmes.log.v1.Body"), frame[HEADER.size :], "body")
    kind = protos.message(f"holmes.{service}.v1.Event")
    for entry in body.entries:
        for at, raw in enumerate(entry.events):
            event = kind.FromString(raw)
            if change(event):
                entry.events[at] = event.SerializeToString()
                return sealed(frame, body.SerializeToString())
    return None


def more_money(event: Any) -> bool:
    """One unit more for whom money came to."""
    if event.WhichOneof("event") != "transfers_recorded" or 1 not in event.transfers_recorded.codes:
        return False
    at = event.transfers_recorded.codes.index(1)
    event.transfers_recorded.amounts_units[at] += 1
    return True


def other_account(event: Any) -> bool:
    """An API key opens another account than it did."""
    if event.WhichOneof("event") != "api_key_created":
        return False
    event.api_key_created.account = bytes(16)
    return True


CHANGES = {"ledger": more_money, "accounts": other_account}


class Tampered:
    """A copy of the network's frames to be altered."""

    def __init__(self, network: Network, to: Path, service: str) -> None:
        self.dir, self.service = to / "frames", service
        shutil.copytree(network.root / "frames", self.dir)
        self.file = self.dir / f"{service}.frames"
        self.frames = split(self.file)

    def refused_at(self, frames: Frames, number: int) -> dict[str, Any]:
        self.file.write_bytes(joined(frames))
        code, told = audit(self.dir)
        fault = told["fault"]
        assert code == 1 and fault is not None and not told["holds"]
        assert (fault["service"], fault["frame"]) == (self.service, number), fault
        return dict(fault)


@pytest.fixture(params=SERVICES)
def tampered(request: pytest.FixtureRequest, network: Network, tmp_path: Path) -> Tampered:
    return Tampered(network, tmp_path, request.param)


def changed(protos: Protos, tampered: Tampered) -> list[tuple[int, bytes]]:
    """Every frame in which something can be changed, by its number, changed."""
    change = CHANGES[tampered.service]
    found = [(at + 1, altered(protos, tampered.service, raw, change)) for at, raw in enumerate(tampered.frames)]
    return [(number, frame) for number, frame in found if frame is not None]


def test_an_honest_log_holds_and_its_balances_are_those_that_the_network_answers(network: Network) -> None:
    code, told = audit(network.root / "frames")
    assert (code, told["fault"], told["holds"]) == (0, None, True)
    assert [each["service"] for each in told["services"]] == list(SERVICES)
    assert all(each["recomputed"] and each["events"] > 5 for each in told["services"])
    holds = told["ledger"]["holds"]
    assert holds == {"open": 1, "posted": 1, "voided": 1, "expired": 1}
    verified = json.loads(network.run("verify", "--dir", str(network.data), "-o", "json").stdout)
    assert [each["ok"] for each in verified] == [True, True]
    for ours, theirs in zip(told["services"], verified):
        assert (ours["service"], ours["frames"], ours["head"]["seq"]) == tuple(
            theirs[key] for key in ("service", "frames", "events")
        )
    network.start()
    pages = network.call("Ledger/ListAccounts", {"owner": "*"})["accounts"]
    network.stop()
    audited = {row["account"]: row for row in told["ledger"]["accounts"]}
    assert audited.keys() == {row["accountId"] for row in pages}
    for row in pages:
        net = int(row["balanceUnits"]) - int(row["overdrawnUnits"])
        pending = (row["debitsPendingUnits"], row["creditsPendingUnits"], row["frozenOut"], row["closed"])
        own = audited[row["accountId"]]
        assert int(own["balance_units"]) == net
        assert pending == tuple(
            own[key] for key in ("debits_pending_units", "credits_pending_units", "frozen", "closed")
        )


def profile_without_staff_spends(protos: Protos, frame: bytes) -> bytes:
    """The log's opening, by whose parameters staff pays from nothing of the platform."""
    body = decode(protos.message("holmes.log.v1.Body"), frame[HEADER.size :], "body")
    params = decode(protos.message("holmes.ledger.v1.Params"), body.entries[0].opened.params, "parameters")
    assert list(params.staff_spends) == ["genesis"]
    del params.staff_spends[:]
    body.entries[0].opened.params = params.SerializeToString()
    return sealed(frame, body.SerializeToString())


def paid_to_the_platform(event: Any) -> bool:
    """What a party was paid, the ledger's own account was."""
    if event.WhichOneof("event") != "transfers_recorded" or 1 not in event.transfers_recorded.codes:
        return False
    at = 16 * event.transfers_recorded.codes.index(1)
    row = event.transfers_recorded
    digits = system_account("burn_inbox/HOL").replace("-", "")
    row.credits = row.credits[:at] + bytes.fromhex(digits) + row.credits[at + 16 :]
    return True


def test_money_that_moves_behind_a_services_back_is_found(network: Network, protos: Protos, tmp_path: Path) -> None:
    ledger = Tampered(network, tmp_path, "ledger")
    change = [altered(protos, "ledger", raw, more_money) for raw in ledger.frames]
    first, second = [at for at, raw in enumerate(change) if raw is not None][:2]
    opening = profile_without_staff_spends(protos, ledger.frames[0])
    told = ledger.refused_at(rechained([opening, *ledger.frames[1:]]), first + 1)
    assert "may not debit" in told["reason"], told
    forged = altered(protos, "ledger", ledger.frames[second], paid_to_the_platform)
    assert forged is not None
    told = ledger.refused_at(rechained([*ledger.frames[:second], forged, *ledger.frames[second + 1 :]]), second + 1)
    assert "into the platform's account" in told["reason"], told


def test_people_get_tables_and_a_verdict(network: Network) -> None:
    words = [sys.executable, str(ROOT / "tests/audit.py"), str(network.root / "frames")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.endswith("\neverything that was checked holds\n")
    assert "genesis/HOL" in done.stdout and "SUM OF BALANCES" in done.stdout


def test_a_directory_without_frames_is_not_an_audit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/audit.py"), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and "holmes replay --frames" in done.stderr


def test_a_service_without_rules_here_is_named(network: Network, tmp_path: Path) -> None:
    shutil.copy(network.root / "frames/ledger.frames", tmp_path / "unheard.frames")
    words = [sys.executable, str(ROOT / "tests/audit.py"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and "unheard: the audit has no rules" in done.stdout


def test_a_flipped_byte_is_found_in_its_frame_wherever_it_is(tampered: Tampered) -> None:
    number = len(tampered.frames) // 2
    raw = tampered.frames[number - 1]
    for at in (0, 2, 6, 9, 17, 25, 33, 41, 50, 77, HEADER.size, (HEADER.size + len(raw)) // 2, len(raw) - 1):
        flipped = raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :]
        tampered.refused_at([*tampered.frames[: number - 1], flipped, *tampered.frames[number:]], number)


def test_a_length_that_was_altered_is_found(tampered: Tampered) -> None:
    data = bytearray(tampered.file.read_bytes())
    data[2] ^= 1
    tampered.file.write_bytes(data)
    assert audit(tampered.dir)[1]["fault"]["frame"] == 1
    tampered.file.write_bytes(joined(tampered.frames)[:-1])
    assert audit(tampered.dir)[1]["fault"]["frame"] == len(tampered.frames)


def test_a_changed_value_under_a_new_checksum_is_found(protos: Protos, tampered: Tampered) -> None:
    changes = changed(protos, tampered)
    assert changes
    for number, frame in changes:
        frames = [*tampered.frames[: number - 1], frame, *tampered.frames[number:]]
        tampered.refused_at(frames, number)


def test_a_changed_value_is_found_though_every_chain_behind_it_is_made_anew(
    protos: Protos, tampered: Tampered
) -> None:
    for number, frame in changed(protos, tampered):
        frames = [*tampered.frames[: number - 1], frame, *tampered.frames[number:]]
        tampered.refused_at(rechained(frames), number)


def test_a_dropped_frame_is_found_where_it_is_missing(tampered: Tampered) -> None:
    for number in range(1, len(tampered.frames)):
        tampered.refused_at([*tampered.frames[: number - 1], *tampered.frames[number:]], number)


def test_frames_that_changed_places_are_found(tampered: Tampered) -> None:
    number = len(tampered.frames) // 2
    before, one, two, after = (
        tampered.frames[: number - 1],
        *tampered.frames[number - 1 : number + 1],
        tampered.frames[number + 1 :],
    )
    tampered.refused_at([*before, two, one, *after], number)


def test_a_frame_that_stands_twice_is_found(tampered: Tampered) -> None:
    number = len(tampered.frames) // 2
    tampered.refused_at([*tampered.frames[:number], *tampered.frames[number - 1 :]], number + 1)


def test_frames_of_another_service_or_network_are_refused(network: Network, tampered: Tampered) -> None:
    other = next(name for name in SERVICES if name != tampered.service)
    tampered.refused_at(split(network.root / "frames" / f"{other}.frames"), 1)


def test_verify_never_takes_a_damaged_journal_for_another_history(network: Network, tmp_path: Path) -> None:
    honest = json.loads(network.run("verify", "--dir", str(network.data), "-o", "json").stdout)
    files = sorted(path for path in (network.data / "journal").rglob("*") if path.is_file() and path.stat().st_size)
    refused = 0
    for number, path in enumerate(files):
        used = len(path.read_bytes().rstrip(b"\0"))
        for part in (0, 3, 5, 8, 9):
            copy = tmp_path / f"{number}-{part}"
            shutil.copytree(network.data, copy)
            target = copy / path.relative_to(network.data)
            data = bytearray(target.read_bytes())
            data[min(used * part // 9, used - 1)] ^= 0x10
            target.write_bytes(data)
            done = network.run("verify", "--dir", str(copy), "-o", "json", check=False)
            where = f"{path.relative_to(network.data)}, part {part}: {done.stdout}{done.stderr}"
            assert done.returncode in (0, 1) and "panicked" not in done.stderr, where
            if done.returncode == 0:
                assert json.loads(done.stdout) == honest, where
            else:
                refused += 1
                told = [row["result"] for row in json.loads(done.stdout) if not row["ok"]] if done.stdout else []
                assert any(told) or "error: " in done.stderr, where
                in_a_log = "is damaged behind" in done.stderr
                assert not in_a_log or re.search(
                    r": the log of (ledger|accounts) is damaged behind \d+:", done.stderr
                ), where
            shutil.rmtree(copy)
    assert refused > 0, "no flip did any harm: the test flips nothing that counts"
