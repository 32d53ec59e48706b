"""The market recomputed: what was metered, what windows come to (E-9.1, E-9.2), and that exactly that was paid."""

from __future__ import annotations

from collections import Counter
from typing import Any

from audit_common import PPB, Meta, Record, Service, World, apportion, ceil_div, ensure, epoch_of, events_of, ids
from audit_common import raw_id, system_account, wide
from audit_frames import uuid_text
from audit_sessions import Before, Row, Session

PICO = 10**6
POST, VOID, SINGLE, HOLD = 3, 4, 1, 2


class Market(Service):
    """Sessions, windows, settlements."""

    name = "market"

    def __init__(self, protos: Any) -> None:
        super().__init__(protos)
        self.sessions: dict[bytes, Session] = {}
        self.accounts: dict[tuple[bytes, int], bytes] = {}
        self.models: dict[str, Any] = {}
        self.command = protos.message("holmes.ledger.v1.Command")
        self.priced = self.sealed = 0
        self.owed: Counter[tuple[bytes, int]] = Counter()
        self.sending: dict[tuple[bytes, int], int] = {}
        """Of what waits: what the ledger was asked to pay and has not answered."""
        self.tge = 0
        self.must_close: set[bytes] = set()
        """Sessions that the entry which is read must close: there is no money for them any more."""
        self.may_limit: set[bytes] = set()
        """Sessions of which it has settled a window without extending the hold, since that was refused."""

    def after_entry(self) -> None:
        self.may_limit.clear()
        ensure(not self.must_close, "E-9.1: the next hold is refused for the second time, or is lost, and the session takes calls all the same")

    def _market_opened(self, event: Any, meta: Meta) -> None:
        asked = self.params.tge_at_ms * 1_000
        ensure(asked in (0, event.tge_at_us), "E-0.5: it begins at another moment than its parameters say")
        self.tge = event.tge_at_us

    def _model_priced(self, event: Any, meta: Meta) -> None:
        self.models[event.model] = event

    def _ignore(self, event: Any, meta: Meta) -> None:
        """Answers of the ledger: audit_sends holds them against it."""

    _system_account_requested = _system_account_opened = _system_account_refused = _ignore

    def _account_set(self, event: Any, meta: Meta) -> None:
        ensure(event.principal == meta.principal, "somebody names an account for another")
        self.accounts[event.principal, event.asset] = event.account

    def _session(self, id: bytes) -> Session:
        ensure(id in self.sessions, f"there is no session {id.hex()}")
        return self.sessions[id]

    def _session_opened(self, event: Any, meta: Meta) -> None:
        ensure(event.session not in self.sessions, "a session is opened twice")
        token, p = event.asset == self.params.token_asset, self.params
        rates = (event.buyer_fee_ppb, event.seller_fee_ppb, event.surcharge_ppb, event.token_price_micro_usd)
        expected = (p.buyer_fee_ppb, p.seller_fee_ppb, 0 if token else p.surcharge_ppb, p.token_price_micro_usd if token else 0)
        ensure(rates == expected, f"E-9.1: a session keeps the rates and the price {rates}, {expected} are in force")
        account = self.accounts.get((event.renter, event.asset))
        ensure(account == event.account, "a session debits an account that its renter has not named")
        session = Session(event, covers=event.budget_micro_usd, hold=event.hold, hold_units=event.hold_units)
        units = session.paid_in(event.budget_micro_usd)
        units += ceil_div(units * p.token_margin_ppb, PPB) if token else 0
        ensure(event.hold_units == units, f"E-9.1: its hold is {event.hold_units}, its budget with the margin {units}")
        self.sessions[event.session] = session

    def _hold_made(self, event: Any, meta: Meta) -> None:
        session = self._session(event.session)
        # Its renter may have closed it meanwhile: then it is closed with its hold.
        ensure(not session.made and session.state in ("opening", "closing"), "the first hold of a session is made twice")
        session.made = True
        session.state = "active" if session.state == "opening" else session.state

    def _hold_sent(self, event: Any, meta: Meta) -> None:
        session = self._session(event.session)
        ensure(session.state == "opening", "the first hold of a session is asked for again though it is made")
        session.hold = event.hold

    def _calls_ended(self, event: Any, meta: Meta) -> None:
        session = self._session(event.session)
        ensure(session.state == "closing", "calls have ended of a session that does not close")
        session.waits_until = 0

    def _session_leased(self, event: Any, meta: Meta) -> None:
        session = self._session(event.session)
        ensure(event.until_us > max(session.leased, session.used + self.params.idle_ms * 1_000), "a lease is noted that keeps no session open")
        session.leased = event.until_us

    def _session_funded(self, event: Any, meta: Meta) -> None:
        session, cap = self._session(event.session), wide(event.cap_pico_usd)
        session.used = session.used or meta.ts
        price = cap // PICO

        def cost(price: int) -> int:
            bill = session.billed(price)
            return bill.price + bill.buyer + bill.surcharge

        most = cap % PICO == 0 and cost(price) <= session.covers < cost(price + 1)
        ensure(most or cap == session.cap, f"E-9.1: a cap of {cap} is not what {session.covers} micro-dollars cover")
        ensure(cap >= session.cap, "a session's cap falls")
        session.cap = cap

    def _session_closing(self, event: Any, meta: Meta) -> None:
        session = self._session(event.session)
        ensure(session.state in ("opening", "active"), "a session closes that closes already, or is closed")
        idle = meta.ts >= max(session.leased, session.used + self.params.idle_ms * 1_000)
        ensure(event.reason != "IDLE" or idle, "E-10.2: a session closes as idle that was used, or has a lease")
        if session.cap and not session.finishing:  # it was funded: calls may run
            session.waits_until = event.drains_until_us + self.params.silence_ms * 1_000
        session.state = "closing"
        self.must_close.discard(event.session)

    def _session_closed(self, event: Any, meta: Meta) -> None:
        session = self._session(event.session)
        ensure(session.state not in ("closed", "forgotten"), "a session is closed twice")
        ensure(session.lost or meta.ts >= session.waits_until, "E-10.2: a session is closed before scheduling has said that no call follows")
        ensure(not (session.rows or session.ended), "E-10.2: a session is closed with calls that were not settled")
        session.state = "closed"

    def _session_forgotten(self, event: Any, meta: Meta) -> None:
        ensure(self._session(event.session).state == "closed", "a session is forgotten that is not closed")
        self.sessions[event.session].state = "forgotten"

    # Metering

    def _calls_noted(self, event: Any, meta: Meta) -> None:
        session = self._session(event.session)
        ensure(session.state in ("active", "closing"), "E-9.2: calls are metered on a session that takes none")
        ensure(not session.finishing, "E-9.2: calls are metered on a session behind its last settlement")
        row = session.rows.setdefault((event.node, event.owner, event.credit), Row())
        billed = wide(event.billed_pico_usd), wide(event.billed_micro_units)
        row.add(Row(event.calls, event.input_tokens, event.output_tokens, *billed))
        session.noted += wide(event.billed_pico_usd)
        session.used = meta.ts
        ensure(session.noted <= session.cap, f"E-9.1: {session.noted} pico-dollars are billed, its hold covers {session.cap}")

    def _calls_unbilled(self, event: Any, meta: Meta) -> None:
        """E-9.2: only what no session takes is billed to nobody."""
        session, reason = self.sessions.get(event.session), ""
        if session is None or session.state == "forgotten":
            reason = "SESSION_NOT_FOUND"
        elif session.state == "opening":
            reason = "SESSION_NOT_FUNDED"
        elif session.state == "closed" or session.finishing or not session.used:
            reason = "SESSION_CLOSED"
        ensure(event.reason == reason, f"E-9.1: calls are unbilled for {event.reason}; the session {f'refuses them with {reason}' if reason else 'takes them'}")

    def _window_ended(self, event: Any, meta: Meta) -> None:
        """E-9.1, E-9.2: sums are cumulative over the session, a window's sum goes to its rows by E-0.4."""
        session = self._session(event.session)
        ensure(session.ended is None, "a window ends before the last one was settled")
        ensure(event.window == session.windows + 1, f"window {event.window} ends where {session.windows + 1} is next")
        keys = list(zip(ids(event.nodes), ids(event.owners, 17), event.credits))
        ensure(len(set(keys)) == len(keys) and all(key in session.rows for key in keys), "a window has a row of no call")
        rows = [session.rows.pop(key) for key in keys]
        session.before = Before(dict(zip(keys, rows)), session.work.copy(), session.bill, session.taken, session.windows)
        told = list(zip(event.calls, event.input_tokens, event.output_tokens))
        ensure(told == [(row.calls, row.input, row.output) for row in rows], "a window has other calls or tokens than were metered")
        session.windows += 1
        session.taken += sum(row.pico for row in rows)
        before, after = session.bill, session.billed(session.taken // PICO)

        def column(name: str, found: Any, total: int, weights: list[int]) -> list[int]:
            expected = apportion(total, list(zip(keys, weights)))
            ensure(list(found) == expected, f"E-9.1: {name} of a window is {list(found)}, the rules give {expected}")
            return expected

        prices = column("price", event.price_micro_usd, after.price - before.price, [row.pico for row in rows])
        column("buyer's fee", event.buyer_fee_micro_usd, after.buyer - before.buyer, prices)
        fees = column("seller's fee", event.seller_fee_micro_usd, after.seller - before.seller, prices)
        nets = [max(0, price - fee) for price, fee in zip(prices, fees)]
        paid = session.paid_out(after.price - after.seller) - session.paid
        column("what is paid", event.paid_units, paid, nets)
        for key, row, units in zip(keys, rows, event.units):
            expected, session.work[key] = divmod(session.work[key] + row.micro, 10**6)
            ensure(units == expected, f"E-3.2: a window has {units} units of work, metered were {expected}")
        sums = {
            "surcharge_micro_usd": after.surcharge - before.surcharge,
            "charged_units": session.paid_in(after.price + after.buyer + after.surcharge) - session.charged,
            "fee_units": session.paid_out(after.buyer + after.seller) - session.fees,
            "surcharge_units": session.paid_out(after.surcharge) - session.surcharges,
        }
        for name, expected in sums.items():
            found = getattr(event, name)
            ensure(found == expected, f"E-9.1: {name} of a window is {found}, the rules give {expected}")
        session.bill, session.ended = after, event

    # Settling

    def _settlement_sent(self, event: Any, meta: Meta) -> None:
        """Its transfers pay what the window comes to, to the base unit."""
        session, window = self._session(event.session), self._session(event.session).ended
        asset = session.opened.asset
        name = self.params.token_name if asset == self.params.token_asset else self.params.usd_name
        pot = system_account(f"market/{name}")
        to: Counter[bytes] = Counter()
        waits: Counter[tuple[bytes, int]] = Counter()
        payees = dict(zip(ids(event.payees, 17), ids(event.accounts)))
        for owner, units in zip(ids(window.owners, 17), window.paid_units) if window else ():
            if owner not in payees:
                ensure(units == 0 or (owner, asset) not in self.accounts, "an owner's part waits although the owner has named an account")
                waits[owner, asset] += units
            to[payees.get(owner, system_account(f"unclaimed/{name}"))] += units
        for owner, account in payees.items():
            ensure(self.accounts.get((owner, asset)) == account, "a settlement pays to an account that the owner has not named")
        charged = window.charged_units if window else 0
        if window:
            to[system_account(f"fees/{name}")] += window.fee_units
            to[system_account(f"surcharges/{name}")] += window.surcharge_units
        if event.last:
            sums = [("charged", charged), ("paid", sum(window.paid_units) if window else 0)]
            sums += [("fees", window.fee_units), ("surcharges", window.surcharge_units)] if window else []
            total = {key: getattr(session, key) + more for key, more in sums}
            left = total["charged"] - total["paid"] - total.get("fees", session.fees) - total.get("surcharges", session.surcharges)
            to[system_account(f"rounding/{name}")] += left
        chain = list(self.command.FromString(event.send).create_transfers.transfers)
        ensure(len(chain) == event.transfers, "a settlement has another number of transfers than it says")
        first, found = chain[0], Counter()
        ends = raw_id(first.hold_id) == session.hold and (first.kind, first.amount_units) == ((POST, charged) if charged else (VOID, 0))
        ensure(ends, f"a settlement does not end the session's hold with a charge of {charged}")
        for each in chain[1:]:
            if each.kind == SINGLE:
                ensure(raw_id(each.debit_account_id) == pot, "a settlement debits another account than the market's")
                found[raw_id(each.credit_account_id)] += each.amount_units
            else:
                same = each.kind == HOLD and (raw_id(each.transfer_id), each.amount_units) == (event.hold, event.hold_units)
                same &= raw_id(each.debit_account_id) == session.opened.account
                ensure(same, "a settlement makes another hold than it says")
        ensure(found == +to, f"E-9.1: a settlement pays {dict(found.items())}, its window comes to {dict((+to).items())}")
        ensure(all(each.linked for each in chain[:-1]), "E-2.2: a settlement is not one chain")
        next_hold = (event.hold_units, wide(event.covers_micro_usd))
        expected = self._next_hold(session, event.last)
        ensure(next_hold == expected and bool(event.hold) == (expected[0] > 0), f"E-9.1: the next hold and what it covers are {next_hold}, the rules give {expected}")
        session.sent, session.waits, session.finishing = event, waits, event.last

    def _next_hold(self, session: Session, last: bool) -> tuple[int, int]:
        """As much as the session's budget again; where that was refused and while it closes, what is left of the one before."""
        if last:
            return 0, session.covers
        if session.state == "active" and not session.shrink:
            bill, budget = session.billed(session.bill.price), session.opened.budget_micro_usd
            return session.opened.hold_units, bill.price + bill.buyer + bill.surcharge + budget
        return session.hold_units - (session.ended.charged_units if session.ended else 0), session.covers

    def _settlement_refused(self, event: Any, meta: Meta) -> None:
        session = self._session(event.session)
        ensure(session.sent is not None, "a settlement is refused that was not sent")
        held = session.sent.hold and session.state == "active"
        payees = dict(zip(ids(session.sent.payees, 17), ids(session.sent.accounts)))
        ensure(not event.owner or event.owner in payees, "a payment is refused to an owner whom the settlement does not pay")
        key = event.owner, session.opened.asset
        if event.owner and self.accounts.get(key) == payees[event.owner]:  # it may have named another meanwhile
            del self.accounts[key]
        ensure(not event.hold_refused or held, "E-9.1: a hold is refused that was not asked for")
        session.sent = None
        if event.hold_refused and session.shrink:  # not even what is left is held: its last settlement pays all of it
            session.reopen()
            self.must_close.add(event.session)
        session.shrink |= event.hold_refused

    def _session_limited(self, event: Any, meta: Meta) -> None:
        ensure(event.session in self.may_limit, "E-9.1: a session is limited whose hold was not refused")

    def _settled(self, event: Any, meta: Meta) -> None:
        session = self._session(event.session)
        window, sent = session.ended, session.sent
        # What comes to less than one base unit moves nothing: there is nothing to send.
        free = window is not None and window.charged_units == 0 and not any(window.paid_units)
        ensure(window is not None and (sent is not None or free), "a window is settled that was not sent")
        epoch = max(epoch_of(meta.ts, self.tge, self.params.epoch_s), 1)
        ensure(event.epoch == epoch, f"E-0.5: it is settled in epoch {event.epoch}, by log time that is {epoch}")
        for name in ("window", "nodes", "owners", "credits", "units", "price_micro_usd", "paid_units", "charged_units", "surcharge_micro_usd"):
            found, expected = getattr(event, name), getattr(window, name)
            ensure(found == expected, f"{name} of what is settled is {found}, its window's {expected}")
        fees = [buyer + seller for buyer, seller in zip(window.buyer_fee_micro_usd, window.seller_fee_micro_usd)]
        ensure(list(event.fees_micro_usd) == fees, f"E-9.1: fees {list(event.fees_micro_usd)} are settled, the window's are {fees}")
        ensure(event.calls == sum(window.calls), "other calls are settled than its window has")
        ensure((event.renter, event.asset) == (session.opened.renter, session.opened.asset), "another renter is settled, or another asset")
        session.calls += event.calls
        session.paid += sum(window.paid_units)
        session.charged += window.charged_units
        session.fees += window.fee_units
        session.surcharges += window.surcharge_units
        if session.shrink and (sent is None or wide(sent.covers_micro_usd) <= session.covers):
            self.may_limit.add(event.session)
        if sent is not None and sent.hold:
            session.hold, session.covers = sent.hold, wide(sent.covers_micro_usd)
            session.hold_units = sent.hold_units
        self.owed += session.waits
        session.ended = session.sent = session.before = None
        session.shrink = False

    def _hold_lost(self, event: Any, meta: Meta) -> None:
        session = self._session(event.session)
        ensure(session.sent is not None and session.hold != b"", "a hold is lost that nothing was settled from")
        if session.state == "active":
            self.must_close.add(event.session)
        session.reopen()
        session.noted -= sum(row.pico for row in session.rows.values())  # nobody pays it
        session.rows.clear()
        session.hold, session.hold_units, session.lost, session.finishing = b"", 0, True, True

    def _owed_sent(self, event: Any, meta: Meta) -> None:
        found = self.owed[event.owner, event.asset]
        ensure(0 < event.units == found, f"{event.units} are sent to an owner who waits for {found}")
        key = event.owner, event.asset
        ensure(key not in self.sending, "what waits is sent a second time before the ledger has answered")
        (each,) = self.command.FromString(event.send).create_transfers.transfers
        name = self.params.token_name if event.asset == self.params.token_asset else self.params.usd_name
        moves = raw_id(each.debit_account_id), raw_id(each.credit_account_id), each.amount_units
        same = each.kind == SINGLE and moves == (system_account(f"unclaimed/{name}"), self.accounts.get(key), event.units)
        ensure(same, "what waits is sent elsewhere than to its owner's account, or another amount")
        self.sending[key] = event.units

    def _owed_paid(self, event: Any, meta: Meta) -> None:
        key = event.owner, event.asset
        ensure(key in self.sending, "an owner is said to be paid whom nothing was sent to")
        self.owed[key] -= self.sending.pop(key)  # what came to wait meanwhile waits on

    def _owed_refused(self, event: Any, meta: Meta) -> None:
        """It waits on."""
        key = event.owner, event.asset
        ensure(self.sending.pop(key, 0) > 0 or key not in self.accounts, "a payment is refused that was not sent, to an owner with an account")

    def _price_sealed(self, event: Any, meta: Meta) -> None:
        ensure(event.epoch == self.priced + 1, f"the price of epoch {event.epoch} is sealed after {self.priced}")
        expected = self.params.token_price_micro_usd
        ensure(event.token_price_micro_usd == expected, f"the price is sealed as {event.token_price_micro_usd}, its one source says {expected}")
        self.priced = event.epoch

    def _epoch_sealed(self, event: Any, meta: Meta) -> None:
        ensure((not self.sealed or event.epoch == self.sealed + 1) and event.epoch == self.priced, f"epoch {event.epoch} is sealed after {self.sealed}")
        now = epoch_of(meta.ts - self.params.seal_after_ms * 1_000, self.tge, self.params.epoch_s)
        ensure(event.epoch < now, f"E-0.5: epoch {event.epoch} is sealed before its end")
        self.sealed = event.epoch

    # Other logs

    def across(self, world: World) -> None:
        """Every line of scheduling's log is metered once, at its price."""

        def said(record: Record) -> list[Any]:
            return [self._metered(event) for event in events_of(record, "calls_metered")]

        def noted(record: Record) -> list[Any]:
            found = []
            for which in ("calls_noted", "calls_unbilled"):
                for event in events_of(record, which):
                    price = wide(event.unbilled_pico_usd) + (wide(event.billed_pico_usd) if which == "calls_noted" else 0)
                    found.append((event.session, event.node, event.owner, event.calls, price))
            merged: Counter[Any] = Counter()
            prices: Counter[Any] = Counter()
            for *key, calls, price in found:
                merged[tuple(key)] += calls
                prices[tuple(key)] += price
            return [(*key, calls, prices[key]) for key, calls in merged.items()]

        world.agree("market", "scheduling", said, noted, "calls")
        if world.has("market", "scheduling"):
            for cause, effect in world.pairs("market", "scheduling"):
                leases = [*events_of(cause, "lease_granted"), *(event.renewed for event in events_of(cause, "lease_renewed"))]
                lasting = {(each.session, each.expires_at_us) for each in leases}
                for event in events_of(effect, "session_leased") if effect else ():
                    effect.must((event.session, event.until_us) in lasting, "it notes a lease that scheduling has not")
                lines = [line for event in events_of(cause, "calls_metered") for line in event.lines]
                for event in events_of(effect, "calls_noted") if effect else ():
                    told = (event.input_tokens, event.output_tokens)
                    most = sum(line.input_tokens for line in lines), sum(line.output_tokens for line in lines)
                    effect.must(told <= most if wide(event.unbilled_pico_usd) else told == most, f"E-9.2: {told} tokens are noted of {most}")
                    of = events_of(cause, "calls_metered")[0]
                    work = most[0] * of.input_micro_units + most[1] * of.output_micro_units
                    whole = wide(event.unbilled_pico_usd) > 0 or wide(event.billed_micro_units) == work
                    effect.must(whole, f"E-3.2: {wide(event.billed_micro_units)} millionths of work are noted of {work}")

    @staticmethod
    def _metered(event: Any) -> tuple[Any, ...]:
        price = sum(line.input_tokens * event.input_pico_usd + line.output_tokens * event.output_pico_usd for line in event.lines)
        return event.session, event.node, event.owner, len(event.lines), price

    # What it comes to

    def report(self) -> dict[str, Any]:
        def row(id: bytes, session: Session) -> dict[str, Any]:
            bill = session.bill
            sums = {"price": bill.price, "buyer_fee": bill.buyer, "seller_fee": bill.seller, "surcharge": bill.surcharge}
            units = {"charged_units": str(session.charged), "paid_units": str(session.paid)}
            base = {"session": uuid_text(id), "asset": session.opened.asset, "state": session.state, "calls": session.calls}
            return base | {f"{key}_micro_usd": str(value) for key, value in sums.items()} | units

        return {"invoices": [row(id, session) for id, session in self.sessions.items()], "sealed": self.sealed}

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        head = ["SESSION", "ASSET", "STATE", "CALLS", "PRICE µ$", "BUYER FEE", "SELLER FEE", "SURCHARGE", "CHARGED", "PAID"]
        return [(head, [[str(cell) for cell in row.values()] for row in self.report()["invoices"]])]
