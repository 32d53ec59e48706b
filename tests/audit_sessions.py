"""A renter's session as the market's log tells it: what was metered, the window that has ended, what was settled."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from audit_common import PPB, ceil_div


@dataclass
class Bill:
    """E-9.1: what a price in micro-dollars comes to."""

    price: int = 0
    buyer: int = 0
    seller: int = 0
    surcharge: int = 0


@dataclass
class Row:
    """What a node has done in a window, of one credit."""

    calls: int = 0
    input: int = 0
    output: int = 0
    pico: int = 0
    micro: int = 0

    def add(self, more: Row) -> None:
        self.calls += more.calls
        self.input += more.input
        self.output += more.output
        self.pico += more.pico
        self.micro += more.micro


@dataclass
class Before:
    """What the end of a window changes."""

    rows: dict[tuple[bytes, bytes, int], Row]
    work: Counter[tuple[bytes, bytes, int]]
    bill: Bill
    taken: int
    windows: int


@dataclass
class Session:
    """A renter's session: all sums are since its beginning."""

    opened: Any
    rows: dict[tuple[bytes, bytes, int], Row] = field(default_factory=dict)
    work: Counter[tuple[bytes, bytes, int]] = field(default_factory=Counter)
    """What was below a unit of work, for the node's next window."""
    bill: Bill = field(default_factory=Bill)
    taken: int = 0
    noted: int = 0
    windows: int = 0
    calls: int = 0
    paid: int = 0
    fees: int = 0
    surcharges: int = 0
    charged: int = 0
    covers: int = 0
    cap: int = 0
    hold: bytes = b""
    ended: Any = None
    sent: Any = None
    waits: Counter[tuple[bytes, int]] = field(default_factory=Counter)
    """What the settlement that was sent leaves in unclaimed/<asset>, by owner."""
    state: str = "opening"
    made: bool = False
    """The ledger has made its first hold."""
    hold_units: int = 0
    before: Before | None = None
    """As it stood before the window that has ended and is not settled."""
    shrink: bool = False
    """The ledger has refused the next hold: what is left of the one before is held instead."""
    finishing: bool = False
    """Its last settlement was sent, or its hold is gone: nothing is metered any more."""
    lost: bool = False
    """Its hold had ended before it was settled: what was metered and not settled is paid by nobody."""
    used: int = 0
    """When it was last used: funded first, or a call was metered."""
    leased: int = 0
    """Until then scheduling has a lease for it."""
    waits_until: int = 0
    """Until then it is settled for the last time only when scheduling has said that no call follows."""

    def reopen(self) -> None:
        """The window that has ended goes on, with what was metered since: it is as though it had not ended."""
        before, self.before, self.ended, self.sent = self.before, None, None, None
        if before is None:
            return
        for key, row in before.rows.items():
            self.rows.setdefault(key, Row()).add(row)
        self.work, self.bill, self.taken, self.windows = before.work, before.bill, before.taken, before.windows

    def billed(self, price: int) -> Bill:
        of = self.opened
        rates = of.buyer_fee_ppb, of.seller_fee_ppb, of.surcharge_ppb
        return Bill(price, *(ceil_div(price * rate, PPB) for rate in rates))

    def paid_in(self, micro: int) -> int:
        price = self.opened.token_price_micro_usd
        return ceil_div(micro * PPB, price) if price else micro

    def paid_out(self, micro: int) -> int:
        price = self.opened.token_price_micro_usd
        return micro * PPB // price if price else micro
