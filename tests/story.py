"""A small network's life, told through the `holmes` binary alone, so that tests have a real log to look at."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blake3 import blake3

ROOT = Path(__file__).resolve().parent.parent
USD, HOL = 2, 1
SINGLE, HOLD, POST, VOID = (f"TRANSFER_KIND_{kind}" for kind in ("SINGLE", "HOLD", "POST", "VOID"))
PROFILE = """
[ledger]
burn_rate_ppb = "1000000"
staff_spends = ["genesis"]
assets = [
    { id = 1, name = "HOL", decimals = 9, cap_units = "1000000000000000000" },
    { id = 2, name = "USD", decimals = 6 },
]
"""


def binary() -> Path:
    """The built `holmes`. `cargo xtask test` builds it before it runs these tests."""
    if named := os.environ.get("HOLMES_BIN"):
        return Path(named)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for path in (target / "debug/holmes", target / "release/holmes") if path.is_file()]
    if not built:
        raise FileNotFoundError(
            f"there is no holmes in {target}: build it with `cargo build -p holmes`, or name it: HOLMES_BIN"
        )
    return max(built, key=lambda path: path.stat().st_mtime)


def tests_of(name: str) -> Path:
    """A built program of the binary's own tests. `cargo xtask test` builds it before it runs these tests."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for path in target.glob(f"*/deps/{name}-*") if not path.suffix and os.access(path, os.X_OK)]
    if not built:
        raise FileNotFoundError(f"there is no test {name} in {target}: `cargo test -p holmes --test {name} --no-run`")
    return max(built, key=lambda path: path.stat().st_mtime)


def new_id() -> str:
    """A UUIDv7 of now."""
    moment = int(time.time() * 1_000).to_bytes(6, "big")
    rest = bytearray(secrets.token_bytes(10))
    rest[0] = 0x70 | rest[0] & 0x0F
    rest[2] = 0x80 | rest[2] & 0x3F
    digits = (moment + rest).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def system_account(name: str) -> str:
    digits = blake3(f"account:{name}".encode()).hexdigest()[:32]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class Network:
    """A data directory, and the server that runs over it while there is one."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, root / "data"
        self.profile = root / "profile.toml"
        self.profile.write_text(PROFILE)
        self.server: subprocess.Popen[str] | None = None
        self.address = ""

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [binary(), *words],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.root,
        )
        assert not check or done.returncode == 0, f"holmes {' '.join(words)}\n{done.stderr}"
        return done

    def start(self) -> None:
        # What a log holds is what the story has put there: the treasury's genesis would be more.
        roles = ["--role", "ledger,accounts"]
        ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        words = [str(binary()), "serve", "--dir", str(self.data), "--profile", str(self.profile), *roles, *ports]
        self.server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=self.root)
        assert self.server.stderr is not None
        said = []
        for line in self.server.stderr:
            said.append(line)
            if found := re.search(r"gRPC +(http://\S+)", line):
                self.address = found[1]
            if "staff.key" in line:
                return
        raise AssertionError(f"the server did not start: {''.join(said)}")

    def stop(self) -> None:
        assert self.server is not None and self.server.stderr is not None
        self.server.send_signal(signal.SIGTERM)
        self.server.stderr.read()
        assert self.server.wait(timeout=30) == 0

    def call(self, method: str, request: dict[str, Any], key: str = "") -> dict[str, Any]:
        """As staff, unless an API key says otherwise."""
        staff = ["--sign-with", str(self.data / "staff.key"), "--as", "staff", "--profile", str(self.profile)]
        proof = ["--key", key] if key else staff
        done = self.run("call", "--server", self.address, method, json.dumps(request), *proof)
        return dict(json.loads(done.stdout))

    def knows(self, method: str, request: dict[str, Any], key: str) -> bool:
        """Whether a call succeeds."""
        words = ["call", "--server", self.address, method, json.dumps(request), "--key", key]
        return self.run(*words, check=False).returncode == 0

    def transfers(self, transfers: Sequence[Mapping[str, Any]], key: str = "", **more: Any) -> list[str]:
        named = [{"transfer_id": new_id(), "kind": SINGLE, **transfer} for transfer in transfers]
        answer = self.call("Ledger/CreateTransfers", {"transfers": named} | more, key)
        return [result["code"].removeprefix("TRANSFER_CODE_") for result in answer["results"]]

    def party(self, name: str) -> tuple[str, str]:
        """An account and an API key that opens it and moves its money."""
        account, key = new_id(), f"hk_{secrets.token_hex(32)}"
        self.call("Accounts/CreateAccount", {"account_id": account, "name": name, "roles": ["ROLE_RENTER"]})
        digest = base64.b64encode(blake3(key.encode()).digest()).decode()
        request = {"account_id": account, "key_id": new_id(), "hash": digest, "roles": ["ROLE_RENTER"], "admin": True}
        self.call("Accounts/CreateApiKey", request)
        return account, key

    def open(self, asset: int, key: str) -> str:
        account = new_id()
        self.call("Ledger/OpenAccount", {"account_id": account, "asset": asset}, key)
        return account


def live(network: Network) -> None:
    """Everything that can happen in a ledger today happens once at least."""
    network.start()
    alice, alice_key = network.party("alice")
    bob, bob_key = network.party("bob")
    network.call("Accounts/SuspendAccount", {"account_id": bob, "cause": "case 1"})
    network.call("Accounts/ReinstateAccount", {"account_id": bob})
    network.call("Accounts/SetRoles", {"account_id": bob, "roles": ["ROLE_RENTER", "ROLE_OPERATOR"]})
    usd_a, usd_b = network.open(USD, alice_key), network.open(USD, bob_key)
    hol_a, hol_b = network.open(HOL, alice_key), network.open(HOL, bob_key)
    deposit = {"account_id": usd_a, "amount_units": "1000000", "reference": "wire 1"}
    network.call("Ledger/RecordDeposit", deposit)
    network.call("Ledger/RecordDeposit", deposit)  # again: it is so already
    genesis = system_account("genesis/HOL")
    pay: dict[str, Any] = {"debit_account_id": usd_a, "credit_account_id": usd_b}
    back: dict[str, Any] = {"debit_account_id": usd_b, "credit_account_id": usd_a}
    grant = {"debit_account_id": genesis, "credit_account_id": hol_a, "amount_units": "5000000001"}
    assert network.transfers([grant]) == ["OK"]
    burning = {"debit_account_id": hol_a, "credit_account_id": hol_b, "amount_units": "1000000001"}
    assert network.transfers([burning], alice_key) == ["OK"]
    with ThreadPoolExecutor(16) as pool:  # several commands to a frame
        many = [pool.submit(network.transfers, [pay | {"amount_units": "2"}] * 3, alice_key) for _ in range(32)]
        assert all(each.result() == ["OK"] * 3 for each in many)
    holds = [new_id() for _ in range(4)]
    times = (0, 0, 60_000, 1_500)
    opened = [
        pay
        | {
            "kind": HOLD,
            "transfer_id": hold,
            "amount_units": str(1_000 * (n + 1)),
            "timeout_ms": str(times[n]),
        }
        for n, hold in enumerate(holds)
    ]
    assert network.transfers(opened, alice_key) == ["OK"] * 4
    ends = [{"kind": POST, "hold_id": holds[0], "amount_units": "400"}, {"kind": VOID, "hold_id": holds[1]}]
    assert network.transfers([*ends, *ends], alice_key) == ["OK", "OK", "HOLD_ENDED", "HOLD_ENDED"]
    once: dict[str, Any] = pay | {"transfer_id": new_id(), "amount_units": "77", "tag": 9}
    assert network.transfers([once, once, once | {"amount_units": "78"}], alice_key) == [
        "OK",
        "EXISTS",
        "EXISTS_DIFFERENT",
    ]
    chain = [pay | {"amount_units": "10", "linked": True}, pay | {"amount_units": "99000000"}]
    assert network.transfers(chain, alice_key) == ["LINKED_FAILED", "INSUFFICIENT_FUNDS"]
    chain = [pay | {"amount_units": "10", "linked": True}, back | {"amount_units": "5"}]
    assert network.transfers(chain, alice_key) == ["LINKED_FAILED", "FORBIDDEN"]
    assert (
        network.transfers([pay | {"amount_units": "10", "linked": True}, pay | {"amount_units": "5"}], alice_key)
        == ["OK"] * 2
    )
    network.call(
        "Ledger/SetLimits",
        {"account_id": usd_b, "credit_limit_units": "50", "rate_units": "300", "rate_window_ms": "3600000"},
    )
    assert (
        network.transfers(
            [back | {"amount_units": "100"}, back | {"amount_units": "900", "balancing": True}], bob_key
        )
        == ["OK"] * 2
    )
    assert network.transfers([back | {"amount_units": "1"}], bob_key) == ["RATE_LIMITED"]
    network.call("Ledger/SetFrozen", {"account_id": usd_a, "frozen_out": True})
    assert network.transfers([pay | {"amount_units": "1"}], alice_key) == ["ACCOUNT_FROZEN"]
    network.stop()
    network.start()  # another term
    network.call("Ledger/SetFrozen", {"account_id": usd_a, "frozen_out": False})
    network.call("Ledger/RecordWithdrawal", {"account_id": usd_a, "amount_units": "200", "reference": "wire 2"})
    network.call("Ledger/RegisterSubmitter", {"submitter": f"account/{alice}", "registered": True})
    for number in (1, 2):
        row = [pay | {"amount_units": str(number)}]
        assert network.transfers(row, alice_key, request_id="", submission_number=str(number)) == ["OK"]
    spare = network.open(USD, alice_key)
    network.call("Ledger/CloseAccount", {"account_id": spare}, alice_key)
    end = time.monotonic() + 20
    while network.knows("Ledger/GetHold", {"hold_id": holds[3]}, alice_key):
        assert time.monotonic() < end, "a hold that was to be open for 1.5 s is still open"
        time.sleep(0.2)
    assert network.transfers([pay | {"amount_units": "3"}], alice_key) == ["OK"]
    network.stop()
