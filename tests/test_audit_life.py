"""A network lives for fifty epochs, and staff and parties do what a demo has no time for: the audit takes none of it for
forged, and finds every part of it altered though every log is written anew (see test_audit_network)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_common import system_account
from audit_frames import Protos
from audit_staking import ACTIVE, JAILED, JAILING, UNJAILING
from test_audit import altered, audit
from test_audit_network import SERVICES, Change, Logs, more, of_line


def of(which: str, change: Callable[[Any], None], where: Callable[[Any], bool] = lambda event: True) -> Change:
    """A change of the first event of a kind that is as asked."""

    def changes(event: Any) -> bool:
        inner = getattr(event, event.WhichOneof("event"))
        if event.WhichOneof("event") != which or not where(inner):
            return False
        change(inner)
        return True

    return changes


def put(**fields: Any) -> Callable[[Any], None]:
    """Other values of an event's fields."""

    def change(inner: Any) -> None:
        for name, value in fields.items():
            setattr(inner, name, value)

    return change


def by(cause: int) -> Callable[[Any], bool]:
    return lambda inner: inner.cause == cause


def fewer(column: str) -> Callable[[Any], None]:
    """A column of ids without its first."""
    return lambda inner: setattr(inner, column, getattr(inner, column)[16:])


def refused(times: int) -> Callable[[Any], bool]:
    """The n-th event of the log, by which the ledger has refused a hold."""
    seen: list[Any] = []

    def where(inner: Any) -> bool:
        seen.extend([inner] if inner.hold_refused else [])
        return inner.hold_refused and len(seen) == times

    return where


def of_renewed(**fields: Any) -> Callable[[Any], None]:
    return lambda inner: put(**fields)(inner.renewed)


def more_required(inner: Any) -> None:
    inner.nodes[0].required_units += 1


CHANGES: list[tuple[str, str, Change]] = [
    ("staking", "where a jailed node stands", of("bond_changed", put(state=ACTIVE), by(JAILING))),
    ("staking", "whether a jailed node is qualified", of("bond_changed", put(qualified=False), by(JAILING))),
    ("staking", "who jails", of("bond_changed", put(cause=UNJAILING), by(JAILING))),
    ("staking", "where a released node stands", of("bond_changed", put(state=JAILED), by(UNJAILING))),
    ("staking", "what unbonds", more("unbonding_started", "amount_units")),
    ("staking", "when it is ready", of("unbonding_started", lambda inner: put(ready_at_us=inner.ready_at_us - 1)(inner))),
    ("staking", "whose unbonding it is", more("unbonding_started", "node")),
    ("staking", "what is paid back", more("payout_made", "amount_units")),
    ("staking", "who is tombstoned", of("owner_tombstoned", fewer("nodes"))),
    ("staking", "why one is tombstoned", of("owner_tombstoned", put(cause=""))),
    ("staking", "what is required anew", more("required_recomputed", "required_units")),
    ("scheduling", "what is required", of("nodes_noted", more_required, lambda inner: len(inner.nodes) == 2)),
    ("scheduling", "who is tombstoned", of("nodes_noted", put(unqualified=b""), lambda inner: inner.unqualified)),
    ("scheduling", "a model's price", more("model_noted", "output_pico_usd")),
    ("market", "a model's price", more("model_priced", "output_pico_usd")),
    ("market", "a hold that is refused", of("settlement_refused", put(hold_refused=False), refused(1))),
    ("market", "a hold that is refused again", of("settlement_refused", put(hold_refused=False), refused(2))),
    ("market", "why a hold is refused", of("settlement_refused", put(reason="INSUFFICIENT_FUNDS"), refused(1))),
    ("market", "which hold is refused", more("settlement_refused", "session")),
    ("market", "which hold is lost", more("hold_lost", "session")),
    ("market", "why a hold is lost", of("hold_lost", put(reason="ACCOUNT_FROZEN"))),
    ("market", "whose session is limited", more("session_limited", "session")),
    ("market", "what the next hold covers", more("settlement_sent", "covers_micro_usd")),
    ("ledger", "a freeze", of("account_frozen", put(frozen_out=False))),
    ("ledger", "the end of a freeze", of("account_frozen", put(frozen_out=True), lambda inner: not inner.frozen_out)),
    ("ledger", "a hold that ends by itself", more("holds_expired", "holds")),
    ("emission", "what an early exit burns", more("grant_exited", "burned_units")),
    ("emission", "what an early exit pays", more("grant_exited", "paid_units")),
    ("emission", "who is barred", of("nodes_barred", fewer("nodes"))),
    ("emission", "what is required", more("required_noted", "required_units")),
    ("staking", "what a refused bond was asked for", more("bond_refused", "cause_seq")),
    ("staking", "why a bond is refused", of("bond_refused", put(reason="ACCOUNT_FROZEN"))),
    ("staking", "why a payout is refused", of("payout_refused", put(reason="ACCOUNT_FROZEN"))),
    ("scheduling", "how long a lease is renewed", of("lease_renewed", of_renewed(expires_at_us=1 << 60))),
    ("scheduling", "how far a lease is renewed", of("lease_renewed", of_renewed(allowance_pico_usd=1))),
    ("scheduling", "what a call has come to", of_line("output_tokens", "calls_checkpointed")),
    ("market", "until when a session has a lease", more("session_leased", "until_us")),
    ("market", "which session has a lease", more("session_leased", "session")),
    ("market", "what nobody pays", more("calls_unbilled", "unbilled_pico_usd")),
    ("market", "why nobody pays", of("calls_unbilled", put(reason="SESSION_NOT_FUNDED"))),
    ("market", "what an owner waited for", more("owed_sent", "units")),
    ("market", "who waited", more("owed_paid", "owner")),
    ("market", "which session is forgotten", more("session_forgotten", "session")),
    ("market", "that a session idles", of("session_closing", put(reason="IDLE"), lambda inner: inner.reason != "IDLE")),
    ("ledger", "whose account is closed", of("account_closed", put(account=system_account("trr_pool/HOL")))),
    ("ledger", "what may leave an account", of("limits_set", put(rate_units=1))),
    ("ledger", "under which reference money left", of("withdrawal_recorded", put(reference="bank 3"))),
    ("ledger", "what ends", more("tokens_destroyed", "amount_units")),
    ("emission", "what burns with a tombstone", more("locked_burned", "units")),
    ("accounts", "whose API key it is", more("api_key_created", "account")),
    ("accounts", "which API key is revoked", more("api_key_revoked", "key")),
    ("accounts", "who is suspended", more("account_suspended", "account")),
    ("accounts", "why one is suspended", of("account_suspended", put(cause=""))),
    ("accounts", "who is reinstated", more("account_reinstated", "account")),
]


def test_a_long_life_holds_and_every_service_is_recomputed(life_log: Path) -> None:
    code, told = audit(life_log)
    assert (code, told["fault"]) == (0, None)
    assert {each["service"] for each in told["services"] if each["recomputed"]} == set(SERVICES)
    assert told["emission"]["closed"] >= 45, "with a node, but for an outage"


def test_a_long_life_that_is_written_anew_without_a_change_holds(protos: Protos, life_log: Path, tmp_path: Path) -> None:
    assert Logs(life_log, tmp_path).forged(protos) is None


@pytest.mark.parametrize(("service", "what", "change"), CHANGES, ids=[f"{each[0]}: {each[1]}" for each in CHANGES])
def test_what_is_altered_of_a_long_life_is_found_though_every_log_is_written_anew(
    protos: Protos, life_log: Path, tmp_path: Path, service: str, what: str, change: Change
) -> None:
    logs = Logs(life_log, tmp_path)
    frames = logs.frames[service]
    found = ((at, out) for at, raw in enumerate(frames) if (out := altered(protos, service, raw, change)))
    at, forged = next(found)  # the life has such an event
    frames[at] = forged
    fault = logs.forged(protos)
    assert fault is not None and fault.seq > 0 and fault.reason, what
