"""What the log of accounts must be: no key of two holders, none that returns, always somebody who administers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from audit_frames import ACCOUNT, GATEWAY, NODE, SERVICE, STAFF, Meta, Protos, decode, ensure, principal_text
from audit_frames import check_principal, short_hash, uuid_text

ROLE_STAFF = 4
ROLES = {1: "renter", 2: "operator", 3: "verifier", ROLE_STAFF: "staff"}


@dataclass
class Party:
    """An account."""

    name: str
    roles: set[int] = field(default_factory=set)
    suspended: bool = False


@dataclass
class Key:
    """An API key or a public key."""

    holder: bytes
    account: bytes | None
    revoked: bool = False
    admin: bool = True
    expires: int = 0
    roles: set[int] = field(default_factory=set)


class Accounts:
    """E-2.1's owners: who takes part, with which keys, as what."""

    name = "accounts"

    def __init__(self, protos: Protos) -> None:
        self.event = protos.message("holmes.accounts.v1.Event")
        self.params_kind = protos.message("holmes.accounts.v1.Params")
        self.parties: dict[bytes, Party] = {}
        self.public_keys: dict[bytes, Key] = {}
        self.api_keys: dict[bytes, Key] = {}
        self.hashes: set[bytes] = set()
        self.created_here: bytes | None = None

    def open(self, params: bytes) -> None:
        self.params = decode(self.params_kind, params, "the parameters")
        for public_key in self.params.staff_public_keys:
            staff = self._first_staff(public_key)
            self.public_keys[public_key] = Key(bytes([ACCOUNT]) + staff, staff)
        for digest in self.params.staff_api_key_hashes:
            staff = self._first_staff(digest)
            self.api_keys[staff] = Key(bytes([ACCOUNT]) + staff, staff, roles={ROLE_STAFF})
            self.hashes.add(digest)
        self.after_entry()

    def _first_staff(self, key: bytes) -> bytes:
        ensure(len(key) == 32, "a key of the first staff has not 32 bytes")
        staff = short_hash(key)
        self.parties[staff] = Party("first staff", {ROLE_STAFF})
        return staff

    def apply(self, event: Any, meta: Meta) -> None:
        ensure(meta.origin == "request", f"accounts change by requests alone, not by {meta.origin}")
        which = event.WhichOneof("event")
        getattr(self, f"_{which}")(getattr(event, which), meta)

    def after_entry(self) -> None:
        """Somebody can administer the cell, at every entry."""
        self.created_here = None
        ensure(any(self._administers(id, party) for id, party in self.parties.items()), "the last staff is gone")

    def _administers(self, id: bytes, party: Party) -> bool:
        if party.suspended or ROLE_STAFF not in party.roles:
            return False
        own = bytes([ACCOUNT]) + id
        signs = any(key.holder == own and not key.revoked for key in self.public_keys.values())
        lasting = (key for key in self.api_keys.values() if key.account == id and not key.revoked and key.admin)
        return signs or any(key.expires == 0 and ROLE_STAFF in key.roles for key in lasting)

    def _party(self, id: bytes) -> Party:
        ensure(id in self.parties, f"there is no account {id.hex()}")
        return self.parties[id]

    def _only_staff(self, meta: Meta) -> None:
        party = self.parties.get(meta.principal[1:])
        real = meta.principal[0] == STAFF and party is not None and ROLE_STAFF in party.roles and not party.suspended
        ensure(real, f"{principal_text(meta.principal)} is not staff")

    def _only_owner_or_staff(self, account: bytes | None, meta: Meta) -> None:
        if meta.principal[0] != ACCOUNT or meta.principal[1:] != account:
            self._only_staff(meta)

    def _account_created(self, event: Any, meta: Meta) -> None:
        ensure(len(event.account) == 16 and event.account not in self.parties, "an account is created twice")
        ensure(len(self.parties) < self.params.most_accounts, "there are more accounts than the parameters allow")
        if meta.principal != bytes([ACCOUNT]) + event.account:
            self._only_staff(meta)
        self.parties[event.account] = Party(event.name)
        self.created_here = event.account

    def _roles_changed(self, event: Any, meta: Meta) -> None:
        party, roles = self._party(event.account), set(event.roles)
        ensure(roles <= ROLES.keys() and len(roles) == len(event.roles), "a role is none, or stands twice")
        if event.account == self.created_here and meta.principal[0] == ACCOUNT:
            open_roles = set(self.params.open_roles)
            ensure(
                self.params.self_registration and roles <= open_roles,
                "a wallet gave itself a role that is not open",
            )
        else:
            self._only_staff(meta)
        party.roles = roles

    def _api_key_created(self, event: Any, meta: Meta) -> None:
        party = self._party(event.account)
        self._only_owner_or_staff(event.account, meta)
        ensure(len(event.key) == 16 and event.key not in self.api_keys, "an API key's id stands twice")
        ensure(len(event.hash) == 32 and event.hash not in self.hashes, "an API key's hash stands twice")
        ensure(set(event.roles) <= party.roles, "an API key may act as more than its account")
        self.hashes.add(event.hash)
        holder = bytes([ACCOUNT]) + event.account
        self.api_keys[event.key] = Key(
            holder, event.account, admin=event.admin, expires=event.expires_us, roles=set(event.roles)
        )

    def _api_key_revoked(self, event: Any, meta: Meta) -> None:
        key = self.api_keys.get(event.key)
        ensure(key is not None and not key.revoked, "an API key is revoked that does not count")
        assert key is not None
        self._only_owner_or_staff(key.account, meta)
        key.revoked = True

    def _key_changed(self, event: Any, meta: Meta) -> None:
        check_principal(event.holder)
        if event.revoked:
            key = self.public_keys.get(event.public_key)
            ensure(key is not None and not key.revoked, "a public key is revoked that does not count")
            assert key is not None
            ensure(key.holder == event.holder, "a public key is revoked under another holder")
            self._only_owner_or_staff(key.account, meta)
            key.revoked = True
            return
        ensure(
            len(event.public_key) == 32 and event.public_key not in self.public_keys,
            "a public key stands twice",
        )
        kind, id = event.holder[0], event.holder[1:]
        owner = event.owner or None
        if kind == SERVICE:
            ensure(owner is None, "a service's key has an owner")
            self._only_staff(meta)
        elif kind == ACCOUNT:
            ensure(owner == id, "an account's key has another owner")
        else:
            ensure(kind in (NODE, GATEWAY), "a key speaks for nobody who may have one")
            ensure(id == short_hash(event.public_key), "a machine's id is not that of its key")
        if owner is not None:
            self._party(owner)
            self._only_owner_or_staff(owner, meta)
        if kind == GATEWAY:
            self._only_staff(meta)
        self.public_keys[event.public_key] = Key(event.holder, owner)

    def _account_suspended(self, event: Any, meta: Meta) -> None:
        self._only_staff(meta)
        party = self._party(event.account)
        ensure(not party.suspended and event.cause != "", "an account is suspended twice, or without a cause")
        party.suspended = True

    def _account_reinstated(self, event: Any, meta: Meta) -> None:
        self._only_staff(meta)
        party = self._party(event.account)
        ensure(party.suspended, "an account is reinstated that was not suspended")
        party.suspended = False

    def finish(self) -> None:
        """Nothing is left to check: every rule is checked at every entry."""

    def report(self) -> dict[str, Any]:
        def row(id: bytes, party: Party) -> dict[str, Any]:
            keys = [key for key in (*self.api_keys.values(), *self.public_keys.values()) if key.account == id]
            return {
                "account": uuid_text(id),
                "name": party.name,
                "roles": [ROLES[role] for role in sorted(party.roles)],
                "suspended": party.suspended,
                "keys": sum(not key.revoked for key in keys),
            }

        return {"accounts": [row(id, party) for id, party in self.parties.items()]}

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        rows = [
            [
                row["account"],
                row["name"],
                ", ".join(row["roles"]),
                str(row["keys"]),
                "yes" if row["suspended"] else "",
            ]
            for row in self.report()["accounts"]
        ]
        return [(["ACCOUNT", "NAME", "ROLES", "KEYS", "SUSPENDED"], rows)]
