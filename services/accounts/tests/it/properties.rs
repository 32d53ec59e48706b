//! Whatever is asked, by whomever, in whatever order: the invariants hold, what was revoked stays revoked, and the log
//! tells it all again.

use std::collections::BTreeSet;

use holmes_accounts::command::{Holder, NewAccount, NewApiKey};
use holmes_accounts::{By, Change, Command, Roles};
use holmes_kernel::{Id, Principal, PrincipalKind, ServiceId};
use proptest::prelude::*;

use crate::harness::{Driver, STAFF, START_MS, hash, id, offer, public, wallet};

/// Wallets have these seeds, the first staff's among them.
const WALLETS: std::ops::RangeInclusive<u8> = STAFF..=4;
/// Further key pairs have seeds below this.
const SEEDS: u8 = 12;
const API_KEYS: u8 = 10;

const ROLES: [Roles; 4] = [Roles::RENTER, Roles::OPERATOR, Roles::VERIFIER, Roles::STAFF];

#[derive(Clone, Debug)]
struct Op {
    who: u8,
    as_staff: bool,
    /// An API key instead of a signature.
    key: Option<u8>,
    what: What,
    wait_ms: u64,
}

#[derive(Clone, Debug)]
enum What {
    Create(u8, Roles),
    ApiKey { n: u8, of: u8, roles: Roles, admin: bool, ms: u64 },
    RevokeApiKey(u8),
    Add { seed: u8, to: u8 },
    Rotate { old: u8, seed: u8, of: u8 },
    Revoke(u8),
    Node { seed: u8, owner: u8 },
    Gateway { seed: u8, owner: u8 },
    Service(u8),
    Roles(u8, Roles),
    Suspend(u8),
    Reinstate(u8),
}

fn roles() -> impl Strategy<Value = Roles> {
    (0u8..16).prop_map(|bits| {
        let chosen = (0..).zip(ROLES).filter(|(at, _)| bits >> at & 1 == 1);
        chosen.fold(Roles::NONE, |roles, (_, role)| roles | role)
    })
}

fn what() -> impl Strategy<Value = What> {
    let (seed, key) = (|| STAFF..SEEDS, || 0..API_KEYS);
    prop_oneof![
        3 => (WALLETS, roles()).prop_map(|(seed, roles)| What::Create(seed, roles)),
        5 => (key(), WALLETS, roles(), any::<bool>(), 0u64..400)
            .prop_map(|(n, of, roles, admin, ms)| What::ApiKey { n, of, roles, admin, ms }),
        2 => key().prop_map(What::RevokeApiKey),
        3 => (seed(), WALLETS).prop_map(|(seed, to)| What::Add { seed, to }),
        2 => (seed(), seed(), WALLETS).prop_map(|(old, seed, of)| What::Rotate { old, seed, of }),
        2 => seed().prop_map(What::Revoke),
        2 => (seed(), WALLETS).prop_map(|(seed, owner)| What::Node { seed, owner }),
        1 => (seed(), WALLETS).prop_map(|(seed, owner)| What::Gateway { seed, owner }),
        1 => seed().prop_map(What::Service),
        2 => (WALLETS, roles()).prop_map(|(of, roles)| What::Roles(of, roles)),
        1 => WALLETS.prop_map(What::Suspend),
        1 => WALLETS.prop_map(What::Reinstate),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = prop_oneof![2 => Just(None), 1 => (0..API_KEYS).prop_map(Some)];
    (WALLETS, any::<bool>(), key, what(), 0u64..50).prop_map(|(who, as_staff, key, what, wait_ms)| Op {
        who,
        as_staff,
        key,
        what,
        wait_ms,
    })
}

fn api_key(n: u8) -> Id {
    Id::v7(START_MS, [n; 10])
}

struct Run {
    driver: Driver,
    revoked: BTreeSet<[u8; 32]>,
}

impl Run {
    fn apply(&mut self, op: &Op) {
        self.driver.now = self.driver.now.after_millis(op.wait_ms);
        let command = self.command(op);
        let own = matches!(command.by, By::OfferedKey);
        let by_key = op.key.and_then(|n| self.driver.state().api_key(&hash(n), self.driver.now).ok());
        let kind = if op.as_staff { PrincipalKind::Staff } else { PrincipalKind::Account };
        let principal = match (&op.what, by_key) {
            (What::Create(seed, _), _) if own => wallet(*seed),
            (_, Some((principal, _))) => principal,
            _ => Principal::new(kind, id(op.who)),
        };
        let request_id = self.driver.fresh();
        let before = self.driver.digest();
        let first = self.driver.ask_as(principal, request_id, command.clone());
        if first.is_err() {
            assert_eq!(self.driver.digest(), before, "a refusal changes nothing: {op:?}");
        }
        let after = self.driver.digest();
        let second = self.driver.ask_as(principal, request_id, command);
        assert_eq!(first.is_ok(), second.is_ok(), "asked again: {op:?}");
        assert_eq!(self.driver.digest(), after, "asked again: {op:?}");
        self.driver.check();
        self.note_revoked();
    }

    fn command(&self, op: &Op) -> Command {
        let owned = |kind, seed, owner| offer(seed, Principal::new(kind, id(seed)), Some(id(owner)));
        let account_key = |seed, of| offer(seed, wallet(of), Some(id(of)));
        let change = match op.what {
            What::Create(seed, roles) => {
                let key = Some(account_key(seed, seed));
                Change::CreateAccount(NewAccount { account: id(seed), name: "wallet".into(), roles, key })
            }
            What::ApiKey { n, of, roles, admin, ms } => {
                let expires = (ms < 300).then(|| self.driver.now.after_millis(ms));
                let (account, key, label) = (id(of), api_key(n), String::new());
                Change::CreateApiKey(NewApiKey { account, key, hash: hash(n), label, roles, admin, expires })
            }
            What::RevokeApiKey(n) => Change::RevokeApiKey { key: api_key(n) },
            What::Add { seed, to } => Change::AddPublicKey { account: id(to), key: account_key(seed, to) },
            What::Rotate { old, seed, of } => {
                Change::RotateKey { account: id(of), old: public(old), key: account_key(seed, of) }
            }
            What::Revoke(seed) => Change::RevokePublicKey { public_key: public(seed) },
            What::Node { seed, owner } => {
                let key = owned(PrincipalKind::Node, seed, owner);
                Change::RegisterKey { holder: Holder::Node { owner: id(owner) }, key }
            }
            What::Gateway { seed, owner } => {
                let key = owned(PrincipalKind::Gateway, seed, owner);
                Change::RegisterKey { holder: Holder::Gateway { owner: id(owner) }, key }
            }
            What::Service(seed) => {
                let number = ServiceId(5);
                let key = offer(seed, Principal::service(number), None);
                Change::RegisterKey { holder: Holder::Service(number), key }
            }
            What::Roles(of, roles) => Change::SetRoles { account: id(of), roles },
            What::Suspend(of) => Change::Suspend { account: id(of), cause: "case".into() },
            What::Reinstate(of) => Change::Reinstate { account: id(of) },
        };
        let by = match (&op.what, op.key) {
            (What::Create(..), _) if !op.as_staff => By::OfferedKey,
            (_, Some(n)) => By::ApiKey(hash(n)),
            _ => By::Signature,
        };
        Command { by, change }
    }

    /// What was ever revoked, kept apart from the state that is under test.
    fn note_revoked(&mut self) {
        let (state, now) = (self.driver.state(), self.driver.now);
        let keys = state.api_keys.values().filter(|key| key.revoked.is_some()).map(|key| key.hash);
        let public_keys = state.public_keys.iter().filter(|(_, key)| key.revoked.is_some());
        self.revoked.extend(keys.chain(public_keys.map(|(key, _)| *key)));
        for n in 0..API_KEYS {
            let opens = state.api_key(&hash(n), now);
            assert!(opens.is_err() || !self.revoked.contains(&hash(n)), "API key {n} opens though revoked");
            if let Ok((principal, roles)) = opens {
                let account = state.account(&principal.id).unwrap();
                assert!(account.roles.contain(roles) && account.suspended.is_none());
                assert_eq!(principal.kind == PrincipalKind::Staff, roles.contain(Roles::STAFF));
            }
        }
        for holder in state.holders.iter().map(|(holder, _)| *holder) {
            let signs = state.public_key(&holder);
            assert!(!signs.is_ok_and(|key| self.revoked.contains(&key)), "{holder} signs with a revoked key");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_commands_breaks_an_invariant_or_lets_a_revoked_key_count(
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let mut run = Run { driver: Driver::new(), revoked: BTreeSet::new() };
        for op in &ops {
            run.apply(op);
        }
        run.driver.check_replay();
    }
}
