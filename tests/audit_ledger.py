"""The ledger recomputed from its events: every balance, every hold, the supply at every entry (E-1.1, E-2.1 to 2.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from audit_frames import ACCOUNT, GATEWAY, NODE, SERVICE, STAFF, SYSTEM, WINDOW_AGE_US, Meta, Protos
from audit_frames import (
    check_principal,
    decode,
    ensure,
    principal_text,
    short_hash,
    uuid_moment_us,
    uuid_text,
)
from audit_common import system_account
from audit_rows import BALANCING, DEBIT_OWNER, HOLD, NOBODY, POST, SINGLE, VOID, Row, check_chains, check_refusal, linked_by_digest, rows_of, u64

U64 = 2**64 - 1
PARTIES = (ACCOUNT, NODE, GATEWAY)
PLATFORM = (SYSTEM, SERVICE)
REMEMBERED = "DEBIT_NOT_FOUND CREDIT_NOT_FOUND ACCOUNT_CLOSED ACCOUNT_FROZEN INSUFFICIENT_FUNDS RATE_LIMITED"
REMEMBERED += " BALANCE_OVERFLOW NET_ZERO HOLD_NOT_FOUND HOLD_ENDED EXCEEDS_HOLD TOO_MANY_HOLDS"


@dataclass
class Asset:
    """An asset, and the sum of all its balances as it stands."""

    number: int
    name: str
    decimals: int
    cap: int
    balances: int = 0
    destroyed: int = 0

    def text(self, units: int) -> str:
        whole, part = divmod(abs(units), 10**self.decimals)
        sign = "-" if units < 0 else ""
        return f"{sign}{whole}.{part:0{self.decimals}}" if self.decimals else f"{sign}{whole}"


@dataclass
class Account:
    """An account. Its balance is what came less what went."""

    id: bytes
    asset: Asset
    owner: bytes
    name: str = ""
    credits: int = 0
    debits: int = 0
    credits_pending: int = 0
    debits_pending: int = 0
    frozen: bool = False
    closed: bool = False
    credit_limit: int = 0
    rate: tuple[int, int] | None = None
    """Units that may leave in a window of so many microseconds."""
    outflow: tuple[int, int] = (0, 0)
    """Units times window that left lately, and when that was so."""

    @property
    def balance(self) -> int:
        return self.credits - self.debits

    @property
    def external(self) -> bool:
        return self.name.startswith("external/")

    def available(self) -> int:
        return U64 if self.external else max(0, self.balance + self.credit_limit - self.debits_pending)

    def level(self, now: int) -> int:
        assert self.rate is not None
        return max(0, self.outflow[0] - (now - self.outflow[1]) * self.rate[0])

    def room(self, now: int) -> int:
        if self.rate is None:
            return U64
        units, window = self.rate
        return max(0, units * window - self.level(now)) // window

    def leave(self, units: int, now: int) -> None:
        if self.rate is not None:
            self.outflow = (self.level(now) + units * self.rate[1], now)

    def check(self) -> None:
        """E-2.1, E-2.5, E-0.1."""
        name = self.name or uuid_text(self.id)
        ensure(self.external or self.balance + self.credit_limit >= self.debits_pending, f"{name} is overdrawn")
        most, least = self.balance + self.credits_pending, self.balance - self.debits_pending
        ensure(-U64 <= least and most <= U64, f"a balance of {name} does not fit 64 bits")


@dataclass(frozen=True)
class Hold:
    """Money reserved."""

    debit: Account
    credit: Account
    units: int
    opener: bytes
    expires: int
    coordinator: bytes


@dataclass
class Known:
    """What a transfer's id stands for (E-2.3)."""

    digest: bytes
    units: int
    code: str


@dataclass
class Ledger:
    """The ledger's rules."""

    protos: Protos
    name: str = "ledger"
    assets: dict[int, Asset] = field(default_factory=dict)
    accounts: dict[bytes, Account] = field(default_factory=dict)
    holds: dict[bytes, Hold] = field(default_factory=dict)
    ended: dict[bytes, str] = field(default_factory=dict)
    known: dict[bytes, Known] = field(default_factory=dict)
    references: dict[tuple[int, str], bytes] = field(default_factory=dict)
    submitters: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.event = self.protos.message("holmes.ledger.v1.Event")
        codes = self.protos.enum("holmes.ledger.v1.TransferCode").values_by_number
        self.codes = {number: value.name.removeprefix("TRANSFER_CODE_") for number, value in codes.items()}

    def open(self, params: bytes) -> None:
        """E-1.1: the whole cap stands in genesis/<asset>."""
        self.params = decode(self.protos.message("holmes.ledger.v1.Params"), params, "the parameters")
        for entry in self.params.assets:
            asset = Asset(entry.id, entry.name, entry.decimals, entry.cap_units)
            ensure(entry.id not in self.assets, f"asset {entry.id} stands twice")
            self.assets[entry.id] = asset
            for kind in ("genesis", "burn_inbox") if asset.cap else ("external",):
                self._add(asset, f"{kind}/{asset.name}")
            for kind in ("fees", "rounding"):
                self._add(asset, f"{kind}/{asset.name}")
            if asset.cap:
                self._credit(self.accounts[system_account(f"genesis/{asset.name}")], asset.cap)
        self.after_entry()

    def _add(self, asset: Asset, name: str) -> None:
        id = system_account(name)
        self.accounts[id] = Account(id, asset, bytes(17), name)

    def apply(self, event: Any, meta: Meta) -> None:
        which = event.WhichOneof("event")
        getattr(self, f"_{which}")(getattr(event, which), meta)

    def after_entry(self) -> None:
        """E-1.1, at every entry."""
        for asset in self.assets.values():
            found = asset.balances + asset.destroyed
            reason = f"E-1.1: {asset.name}: balances and what was destroyed come to {found}, not to {asset.cap}"
            ensure(found == asset.cap, reason)

    def finish(self) -> None:
        """The sums once more, from the accounts themselves."""
        for asset in self.assets.values():
            of = [account for account in self.accounts.values() if account.asset is asset]
            ensure(sum(account.balance for account in of) == asset.balances, f"{asset.name} does not add up")
        for id, account in self.accounts.items():
            debits = sum(hold.units for hold in self.holds.values() if hold.debit is account)
            credits = sum(hold.units for hold in self.holds.values() if hold.credit is account)
            same = (account.debits_pending, account.credits_pending) == (debits, credits)
            ensure(same, f"E-2.2: {uuid_text(id)} has other sums pending than its open holds")

    # Accounts

    def _account(self, id: bytes) -> Account:
        ensure(id in self.accounts, f"there is no account {id.hex()}")
        return self.accounts[id]

    def _only_platform(self, meta: Meta) -> None:
        ensure(
            meta.principal[0] in (SERVICE, STAFF),
            f"{principal_text(meta.principal)} is no service and no staff",
        )

    def _account_opened(self, event: Any, meta: Meta) -> None:
        check_principal(event.owner)
        ensure(event.asset in self.assets, f"there is no asset {event.asset}")
        ensure(len(event.account) == 16 and event.account not in self.accounts, "an account is opened twice")
        if event.name:
            ensure(event.account == system_account(event.name), f"the id is not that of the name {event.name}")
            ensure(event.owner[0] not in PARTIES, "an account with a name belongs to a party")
        if event.name or event.owner != meta.principal:
            self._only_platform(meta)
        account = Account(event.account, self.assets[event.asset], event.owner, event.name)
        if event.owner[0] in PARTIES and self.params.default_rate_window_ms:
            account.rate = (self.params.default_rate_units, self.params.default_rate_window_ms * 1_000)
        self.accounts[event.account] = account

    def _account_closed(self, event: Any, meta: Meta) -> None:
        account = self._account(event.account)
        if account.owner != meta.principal:
            self._only_platform(meta)
        empty = (account.balance, account.debits_pending, account.credits_pending) == (0, 0, 0)
        ensure(empty and not account.closed, "an account is closed that is not empty, or was closed before")
        account.closed = True

    def _account_frozen(self, event: Any, meta: Meta) -> None:
        self._only_platform(meta)
        self._account(event.account).frozen = event.frozen_out

    def _limits_set(self, event: Any, meta: Meta) -> None:
        self._only_platform(meta)
        account = self._account(event.account)
        ensure(
            account.asset.cap == 0 or event.credit_limit_units == 0,
            "E-1.1: a credit limit on the capped token",
        )
        window = event.rate_window_ms * 1_000
        rate = (event.rate_units, window) if window else None
        if account.rate != rate:
            account.rate, account.outflow = rate, (0, 0)
        account.credit_limit = event.credit_limit_units
        account.check()

    def _submitter_registered(self, event: Any, meta: Meta) -> None:
        self._only_platform(meta)
        check_principal(event.submitter)
        (self.submitters.add if event.registered else self.submitters.discard)(event.submitter)

    # Money

    def _credit(self, account: Account, units: int) -> None:
        account.credits += units
        account.asset.balances += units

    def _debit(self, account: Account, units: int) -> None:
        account.debits += units
        account.asset.balances -= units

    def _move(self, debit: Account, credit: Account, units: int, burned: int) -> None:
        """E-2.4: what leaves one account arrives at the other and in burn_inbox."""
        ensure(units > 0, "an amount of 0 is moved")
        self._debit(debit, units)
        self._credit(credit, units - burned)
        if burned:
            self._credit(self.accounts[system_account(f"burn_inbox/{debit.asset.name}")], burned)
        debit.check()
        credit.check()

    def _cross(self, event: Any, meta: Meta, into: bool) -> None:
        self._only_platform(meta)
        account = self._account(event.account)
        asset = account.asset
        ensure(asset.cap == 0, f"E-1.1: {asset.name} has no outside")
        ensure(
            not account.closed and not account.external,
            "money crosses to a closed account or to the outside itself",
        )
        behind = meta.principal[0] != SERVICE and account.owner[0] in PLATFORM
        ensure(not behind, "money crosses to the platform's account behind its service")
        key = (asset.number, event.reference)
        ensure(
            event.reference != "" and key not in self.references,
            f"reference {event.reference!r} is used twice",
        )
        self.references[key] = event.account
        outside = self.accounts[system_account(f"external/{asset.name}")]
        if into:
            self._move(outside, account, event.amount_units, 0)
            return
        self._may_leave(account, event.amount_units, meta)
        account.leave(event.amount_units, meta.ts)
        self._move(account, outside, event.amount_units, 0)

    def _deposit_recorded(self, event: Any, meta: Meta) -> None:
        self._cross(event, meta, into=True)

    def _withdrawal_recorded(self, event: Any, meta: Meta) -> None:
        self._cross(event, meta, into=False)

    def _tokens_destroyed(self, event: Any, meta: Meta) -> None:
        """E-9.6."""
        ensure(meta.principal[0] == SERVICE, "tokens are destroyed by no service")
        ensure(event.asset in self.assets and self.assets[event.asset].cap > 0, "what is destroyed is not capped")
        asset = self.assets[event.asset]
        inbox = self.accounts[system_account(f"burn_inbox/{asset.name}")]
        ensure(0 < event.amount_units <= inbox.available(), "more is destroyed than lies in burn_inbox")
        self._debit(inbox, event.amount_units)
        asset.destroyed += event.amount_units

    def _may_leave(self, account: Account, units: int, meta: Meta) -> None:
        """E-2.5."""
        name = account.name or uuid_text(account.id)
        ensure(not account.frozen, f"E-2.5: money leaves {name}, which is frozen")
        ensure(units <= account.available(), f"E-2.1: {units} leave {name}, of {account.available()} that could")
        ensure(units <= account.room(meta.ts), f"E-2.5: {units} leave {name}, faster than its limit allows")

    # Transfers

    def _transfers_recorded(self, event: Any, meta: Meta) -> None:
        by_number = meta.origin == "submitter"
        ensure(
            event.by_number == by_number,
            "transfers say that they came by number, and did not, or the reverse",
        )
        ensure(not by_number or meta.principal in self.submitters, "who submits is not registered")
        rows = list(rows_of(event, self.codes))
        linked: list[bool] = []
        for row in rows:
            linked.append(self._transfer(row, meta, by_number))
        check_chains(rows, linked)

    def _transfer(self, row: Row, meta: Meta, by_number: bool) -> bool:
        """Carries out a row; whether it is linked to the next, as far as that can be seen."""
        moment = uuid_moment_us(row.id)
        known = self.known.get(row.id)
        young = moment is not None and moment + WINDOW_AGE_US >= meta.ts
        name = f"transfer {uuid_text(row.id)}"
        linked = False
        if row.code == "OK":
            ensure(moment is not None, f"E-2.3: {name} is not a UUIDv7")
            ensure(by_number or not young or known is None, f"E-2.3: {name} moves money a second time")
            linked = self._happen(row, meta, name)
        elif row.code == "EXISTS":
            same = known is not None and (known.digest, known.units, known.code) == (
                row.digest,
                row.units,
                "OK",
            )
            ensure(row.burned == 0, f"{name} has moved nothing and burns")
            ensure(by_number or same, f"E-2.3: {name} is said to have happened before, and has not")
        else:
            ensure((row.units, row.burned) == (0, 0), f"{name} failed ({row.code}) and moves money")
            if known is None and row.kind in (SINGLE, HOLD):  # what is repeated has the answer that it had then
                check_refusal(row, self.accounts.get(row.debit), self.accounts.get(row.credit))
        remembered = row.code == "OK" or row.code in REMEMBERED.split()
        if remembered and young and not by_number and known is None:
            self.known[row.id] = Known(row.digest, row.units, row.code)
        return linked

    def _happen(self, row: Row, meta: Meta, name: str) -> bool:
        debit, credit = self._account(row.debit), self._account(row.credit)
        if row.kind in (SINGLE, HOLD):
            return self._leave(row, debit, credit, meta, name)
        hold = self.holds.get(row.hold)
        ensure(hold is not None, f"E-2.2: {name} ends a hold that is {self.ended.get(row.hold, 'not known')}")
        assert hold is not None
        ensure((hold.debit, hold.credit) == (debit, credit), f"{name} names other accounts than its hold")
        ensure(hold.expires == 0 or hold.expires > meta.ts, f"E-2.2: {name} comes behind its hold's time")
        self._check_ender(hold, row, meta, name)
        self._release(row.hold, "posted" if row.kind == POST else "voided")
        asked = [0, row.units] if row.kind == POST else [0]
        linked = linked_by_digest(row, [row.hold + u64(units) for units in asked] if row.kind == POST else [row.hold])
        ensure(linked is not None, f"{name}'s content is not what its digest says")
        if row.kind == VOID:
            ensure((row.units, row.burned) == (hold.units, 0), f"{name} gives back another amount than is held")
        else:
            ensure(0 < row.units <= hold.units, f"E-2.2: {name} posts {row.units} of {hold.units} held")
            self._check_burn(row, debit, credit, hold.opener, name)
            self._move(debit, credit, row.units, row.burned)
        return bool(linked)

    def _leave(self, row: Row, debit: Account, credit: Account, meta: Meta, name: str) -> bool:
        """A single or a hold: what it needs to be true, and what it does."""
        ensure(debit is not credit and debit.asset is credit.asset, f"{name} moves between assets, or nowhere")
        ensure(not debit.external and not credit.external, f"{name} moves the outside's account")
        ensure(not debit.closed and not credit.closed, f"{name} moves a closed account")
        self._check_rights(row, debit, credit, meta.principal, name)
        limit = min(debit.available(), debit.room(meta.ts))
        self._may_leave(debit, row.units, meta)
        ensure(row.units > 0, f"{name} moves nothing")
        timeout = (row.expires - meta.ts) // 1_000 if row.expires else 0
        ensure(
            row.expires == 0 or 0 < timeout <= self.params.longest_hold_ms,
            f"{name} is open for too long, or never",
        )
        sides, rest = row.debit + row.credit + u64(row.units), b""
        if row.kind == HOLD:
            rest = u64(timeout) + (short_hash(row.coordinator) if any(row.coordinator) else NOBODY)[:8]
        # A service may name whose the debit account must be: then its content holds that owner, and it was so.
        owner = short_hash(debit.owner)[:8]
        linked = linked_by_digest(row, [sides + rest])
        if linked is None:
            linked = linked_by_digest(row, [sides + owner + rest], flags=DEBIT_OWNER)
        balancing = linked_by_digest(row, [sides + rest], flags=BALANCING)
        # Of a balancing transfer that moved less than was asked the log does not say how much was asked: then it must
        # have moved all that could.
        clipped = row.units == limit
        ensure(
            linked is not None or balancing is not None or clipped,
            f"{name}'s content is not what its digest says",
        )
        debit.leave(row.units, meta.ts)
        if row.kind == SINGLE:
            self._check_burn(row, debit, credit, meta.principal, name)
            self._move(debit, credit, row.units, row.burned)
            return bool(linked or balancing)
        ensure(row.id not in self.holds and row.burned == 0, f"{name} is an open hold already, or burns")
        debit.debits_pending += row.units
        credit.credits_pending += row.units
        debit.check()
        credit.check()
        opener, expires = meta.principal, row.expires
        self.holds[row.id] = Hold(debit, credit, row.units, opener, expires, row.coordinator)
        ensure(len(self.holds) <= self.params.most_open_holds, "more holds are open than the parameters allow")
        return bool(linked or balancing)

    def _check_rights(self, row: Row, debit: Account, credit: Account, who: bytes, name: str) -> None:
        """The platform's accounts are its services': staff pays from the ecosystem's, and nobody pays in behind them."""
        offered = row.kind == HOLD and credit.owner == bytes([SERVICE]) + bytes(14) + row.coordinator[:2]
        own = who[0] == SERVICE and (credit.owner == who or credit.owner[0] == SYSTEM)
        ensure(
            credit.owner[0] not in PLATFORM or own or offered,
            f"{principal_text(who)} pays {name} into the platform's account",
        )
        if who[0] == SERVICE:
            return
        named = (system_account(f"{name}/{debit.asset.name}") for name in self.params.staff_spends)
        spent = debit.owner[0] not in (*PARTIES, *PLATFORM) or debit.id in named
        may = who == debit.owner or who[0] == STAFF and spent
        ensure(may, f"{principal_text(who)} may not debit {name}'s account")

    def _check_burn(self, row: Row, debit: Account, credit: Account, asker: bytes, name: str) -> None:
        """E-2.4: between two parties, when a party asked, the token burns; rounded up."""
        between = debit.owner != credit.owner and debit.owner[0] in PARTIES and credit.owner[0] in PARTIES
        burns = between and asker[0] != SERVICE and debit.asset.cap > 0
        expected = -(-row.units * self.params.burn_rate_ppb // 10**9) if burns else 0
        ensure(
            row.burned == expected and row.burned < row.units,
            f"E-2.4: {name} burns {row.burned}, not {expected}",
        )

    def _check_ender(self, hold: Hold, row: Row, meta: Meta, name: str) -> None:
        if any(hold.coordinator):
            named = bytes([SERVICE]) + bytes(14) + hold.coordinator[:2]
            ensure(meta.principal == named, f"{name} ends a hold without its coordinator")
            return
        renounces = row.kind == VOID and meta.principal == hold.credit.owner
        may = meta.principal == hold.opener or meta.principal[0] == SERVICE or renounces
        ensure(may, f"{principal_text(meta.principal)} may not end the hold of {name}")

    def _release(self, id: bytes, how: str) -> None:
        hold = self.holds.pop(id)
        hold.debit.debits_pending -= hold.units
        hold.credit.credits_pending -= hold.units
        self.ended[id] = how

    def _holds_expired(self, event: Any, meta: Meta) -> None:
        """E-2.2."""
        ensure(meta.principal[0] == SYSTEM and meta.origin == "due", "holds expire by another than time")
        ensure(len(event.holds) > 0 and len(event.holds) % 16 == 0, "no hold expires")
        for at in range(0, len(event.holds), 16):
            id = event.holds[at : at + 16]
            hold = self.holds.get(id)
            ended = self.ended.get(id, "not known")
            ensure(hold is not None, f"E-2.2: hold {uuid_text(id)} expires and is {ended}")
            assert hold is not None
            ensure(0 < hold.expires <= meta.ts, f"E-2.2: hold {uuid_text(id)} expires before its time")
            self._release(id, "expired")

    # What it comes to

    def report(self) -> dict[str, Any]:
        def row(account: Account) -> dict[str, Any]:
            return {
                "account": uuid_text(account.id),
                "name": account.name,
                "asset": account.asset.name,
                "owner": principal_text(account.owner),
                "balance_units": str(account.balance),
                "debits_pending_units": str(account.debits_pending),
                "credits_pending_units": str(account.credits_pending),
                "frozen": account.frozen,
                "closed": account.closed,
            }

        def supply(asset: Asset) -> dict[str, Any]:
            return {"asset": asset.name, "cap_units": str(asset.cap), "destroyed_units": str(asset.destroyed)}

        ends = list(self.ended.values())
        return {
            "accounts": [row(account) for account in self.accounts.values()],
            "supply": [supply(asset) for asset in self.assets.values()],
            "holds": {"open": len(self.holds)} | {how: ends.count(how) for how in ("posted", "voided", "expired")},
        }

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        def row(account: Account) -> list[str]:
            states = [word for word, so in (("frozen", account.frozen), ("closed", account.closed)) if so]
            text = account.asset.text
            pending = [text(account.debits_pending), text(account.credits_pending)]
            name = account.name or f"{uuid_text(account.id)} of {principal_text(account.owner)}"
            return [account.asset.name, name, text(account.balance), *pending, ", ".join(states)]

        accounts = sorted(self.accounts.values(), key=lambda account: account.asset.number)
        head = ["ASSET", "ACCOUNT", "BALANCE", "DEBITS PENDING", "CREDITS PENDING", "STATE"]
        sums = [
            [asset.name, asset.text(asset.cap), asset.text(asset.balances), asset.text(asset.destroyed)]
            for asset in self.assets.values()
        ]
        return [
            (head, [row(account) for account in accounts]),
            (["ASSET", "CAP", "SUM OF BALANCES", "DESTROYED"], sums),
        ]
