//! Whatever is asked, by whomever, in whatever order: the invariants hold, what was revoked stays revoked, and the log
//! tells it all again.

use std::collections::BTreeSet;

use holmes_accounts::command::{Holder, NewAccount, NewApiKey};
use holmes_accounts::{By, Change, Command, Roles};
use holmes_kernel::{Id, Principal, PrincipalKind, ServiceId};
use holmes_proto::edge::Scope;
use proptest::prelude::*;

use crate::harness::{Driver, STAFF, START_MS, driver, hash, id, offer, public, wallet};

/// Wallets have these seeds, the first staff's among them.
const WALLETS: std::ops::RangeInclusive<u8> = STAFF..=4;
/// Further key pairs have seeds below this.
const SEEDS: u8 = 16;
const API_KEYS: u8 = 10;

const ROLES: [Roles; 4] = [Roles::RENTER, Roles::OPERATOR, Roles::VERIFIER, Roles::STAFF];

/// Who asks is a wallet, in whose name a signature or one of its API keys speaks.
#[derive(Clone, Debug)]
struct Op {
    who: u8,
    /// As staff, where it is; now and then where it is not.
    as_staff: bool,
    forged: bool,
    /// One of the API keys that count, instead of a signature.
    key: Option<u8>,
    /// Whom it is about; the one who asks where it is nobody.
    of: Option<u8>,
    what: What,
    wait_ms: u64,
}

#[derive(Clone, Debug)]
enum What {
    Create(Roles),
    ApiKey { n: u8, roles: Roles, admin: bool, ms: u64 },
    RevokeApiKey(u8),
    Add(u8),
    Rotate { old: u8, new: u8 },
    Revoke(u8),
    Node(u8),
    Gateway(u8),
    Service(u8),
    Roles(Roles),
    Suspend,
    Reinstate,
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
        1 => roles().prop_map(What::Create),
        6 => (key(), roles(), any::<bool>(), 0u64..400)
            .prop_map(|(n, roles, admin, ms)| What::ApiKey { n, roles, admin, ms }),
        2 => key().prop_map(What::RevokeApiKey),
        4 => seed().prop_map(What::Add),
        2 => (seed(), seed()).prop_map(|(old, new)| What::Rotate { old, new }),
        3 => seed().prop_map(What::Revoke),
        3 => seed().prop_map(What::Node),
        1 => seed().prop_map(What::Gateway),
        1 => seed().prop_map(What::Service),
        2 => roles().prop_map(What::Roles),
        1 => Just(What::Suspend),
        2 => Just(What::Reinstate),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = prop_oneof![2 => Just(None), 1 => (0..API_KEYS).prop_map(Some)];
    let of = prop_oneof![2 => Just(None), 1 => WALLETS.prop_map(Some)];
    let forged = (0..10u8).prop_map(|n| n == 0);
    (WALLETS, any::<bool>(), forged, key, of, what(), 0u64..50).prop_map(
        |(who, as_staff, forged, key, of, what, wait_ms)| Op {
            who,
            as_staff,
            forged,
            key,
            of,
            what,
            wait_ms,
        },
    )
}

fn api_key(n: u8) -> Id {
    Id::v7(START_MS, [n; 10])
}

struct Run {
    driver: Driver,
    revoked: BTreeSet<[u8; 32]>,
    happened: usize,
}

impl Run {
    /// Every wallet has its account, and the second one is staff too.
    fn new() -> Run {
        let mut run = Run { driver: driver(), revoked: BTreeSet::new(), happened: 0 };
        let op = |who, of, what| {
            let (as_staff, forged, key) = (who == STAFF, false, None);
            Op { who, as_staff, forged, key, of, what, wait_ms: 0 }
        };
        for who in WALLETS.skip(1) {
            run.apply(&op(who, None, What::Create(Roles::RENTER | Roles::OPERATOR)));
        }
        let roles = Roles::STAFF | Roles::RENTER | Roles::OPERATOR;
        run.apply(&op(STAFF, Some(STAFF + 1), What::Roles(roles)));
        assert_eq!(run.happened, usize::from(*WALLETS.end()));
        run
    }

    fn apply(&mut self, op: &Op) {
        self.driver.now = self.driver.now.after_millis(op.wait_ms);
        let (principal, by) = self.caller(op);
        let command = Command { by, change: self.change(op, &principal) };
        let request_id = self.driver.fresh();
        let before = self.driver.digest();
        let staff = self.driver.state().staff.clone();
        let first = self.driver.ask_as(principal, request_id, command.clone());
        let after = self.driver.digest();
        assert!(first.is_ok() || before == after, "a refusal changes nothing: {op:?}");
        let by_staff = principal.kind == PrincipalKind::Staff;
        assert!(by_staff || self.driver.state().staff == staff, "staff came from nowhere: {op:?}");
        self.happened += usize::from(before != after);
        let second = self.driver.ask_as(principal, request_id, command);
        assert_eq!(first.is_ok(), second.is_ok(), "asked again: {op:?}");
        assert_eq!(self.driver.digest(), after, "asked again: {op:?}");
        self.driver.check();
        self.note_revoked();
    }

    fn caller(&self, op: &Op) -> (Principal, By) {
        let (state, now) = (self.driver.state(), self.driver.now);
        if matches!(op.what, What::Create(_)) {
            return (wallet(op.of.unwrap_or(op.who)), By::OfferedKey);
        }
        let counting: Vec<u8> = (0..API_KEYS).filter(|n| state.api_key(&hash(*n), now).is_ok()).collect();
        if let Some(n) = op.key.and_then(|n| counting.get(usize::from(n) % counting.len().max(1))) {
            let (principal, _) = state.api_key(&hash(*n), now).unwrap();
            return (if op.forged { wallet(op.who) } else { principal }, By::ApiKey(hash(*n)));
        }
        let is_staff = state.staff.contains(&id(op.who)) != op.forged;
        let kind = if op.as_staff && is_staff { PrincipalKind::Staff } else { PrincipalKind::Account };
        (Principal::new(kind, id(op.who)), By::Signature)
    }

    fn change(&self, op: &Op, caller: &Principal) -> Change {
        let own = WALLETS.clone().find(|seed| id(*seed) == caller.id).unwrap_or(op.who);
        let of = op.of.unwrap_or(own);
        let account = id(of);
        let machine = |kind, seed| offer(seed, Principal::new(kind, id(seed)), Some(account));
        let account_key = |seed| offer(seed, wallet(of), Some(account));
        match op.what {
            What::Create(roles) => {
                let key = Some(account_key(of));
                Change::CreateAccount(NewAccount { account, name: "wallet".into(), roles, key })
            }
            What::ApiKey { n, roles, admin, ms } => {
                // Mostly what the account has: the rest would be refused at once.
                let has = self.driver.state().account(&account).map_or(Roles::NONE, |account| account.roles);
                let roles = if op.forged { roles } else { roles.both(has) };
                let expires = (ms < 300).then(|| self.driver.now.after_millis(ms));
                let (key, label) = (api_key(n), String::new());
                Change::CreateApiKey(NewApiKey { account, key, hash: hash(n), label, roles, admin, expires })
            }
            What::RevokeApiKey(n) => Change::RevokeApiKey { key: api_key(n) },
            What::Add(seed) => Change::AddPublicKey { account, key: account_key(seed) },
            What::Rotate { old, new } => {
                Change::RotateKey { account, old: public(old), key: account_key(new) }
            }
            What::Revoke(seed) => Change::RevokePublicKey { public_key: public(seed) },
            What::Node(seed) => {
                let key = machine(PrincipalKind::Node, seed);
                Change::RegisterKey { holder: Holder::Node { owner: account }, key }
            }
            What::Gateway(seed) => {
                let key = machine(PrincipalKind::Gateway, seed);
                Change::RegisterKey { holder: Holder::Gateway { owner: account }, key }
            }
            What::Service(seed) => {
                let number = ServiceId(5);
                let key = offer(seed, Principal::service(number), None);
                Change::RegisterKey { holder: Holder::Service(number), key }
            }
            What::Roles(roles) => Change::SetRoles { account, roles },
            What::Suspend => Change::Suspend { account, cause: "case".into() },
            What::Reinstate => Change::Reinstate { account },
        }
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
            if let Ok((principal, Scope { roles, .. })) = opens {
                let account = state.account(&principal.id).unwrap();
                assert!(account.roles.contain(roles) && account.suspended.is_none());
                assert_eq!(principal.kind == PrincipalKind::Staff, roles.contain(Roles::STAFF));
            }
        }
        for holder in state.holders.iter().map(|(holder, _)| *holder) {
            let signs = state.public_key(&holder);
            assert!(
                !signs.is_ok_and(|(key, counts)| counts.is_ok() && self.revoked.contains(&key)),
                "{holder} signs with a revoked key"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_commands_breaks_an_invariant_or_lets_a_revoked_key_count(
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        let mut run = Run::new();
        for op in &ops {
            run.apply(op);
        }
        run.driver.check_replay();
    }
}
