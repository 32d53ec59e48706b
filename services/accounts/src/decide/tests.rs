//! Given a state, when somebody asks, then this happens: rights and what must not be lost.

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::machine::Rejection as _;
use holmes_kernel::{Ctx, Id, LogId, Machine as _, Meta, Opened, Principal, PrincipalKind, ServiceId, Time};
use holmes_proto::edge::Scope;
use prost::Message as _;

use crate::command::{By, Change, Command, Holder, NewAccount, NewApiKey};
use crate::params::{FirstStaff, defaults};
use crate::possession::{OfferedKey, statement};
use crate::state::State;
use crate::{Accounts, Roles};

const START_MS: u64 = 1_700_000_000_000;
const STAFF: u8 = 1;
const WALLET: u8 = 2;

struct Given {
    state: State,
    now: Time,
}

fn pair(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(seed: u8) -> [u8; 32] {
    pair(seed).verifying_key().to_bytes()
}

fn account(seed: u8) -> Id {
    Id::of_key(&public(seed))
}

fn v7(n: u8) -> Id {
    Id::v7(START_MS, [n; 10])
}

fn hash(n: u8) -> [u8; 32] {
    *blake3::hash(&[n]).as_bytes()
}

/// A cell whose staff has one public key, and a wallet that is a renter and an operator.
fn given() -> Given {
    given_with(|_| {})
}

fn given_with(adjust: impl FnOnce(&mut holmes_proto::accounts::v1::Params)) -> Given {
    let mut params = defaults(&FirstStaff { public_keys: vec![public(STAFF)], api_key_hashes: vec![] });
    adjust(&mut params);
    let opened =
        Opened { cell: 1, profile_hash: vec![7; 16], params: params.encode_to_vec(), ..Opened::default() };
    let mut given = Given { state: Accounts::init(&opened).unwrap(), now: Time::from_millis(START_MS) };
    given.wallet(WALLET, Roles::RENTER | Roles::OPERATOR).expect("the wallet may enter");
    given
}

impl Given {
    /// The reason of a refusal, or how many events there were, which then have happened.
    fn when(&mut self, principal: Principal, by: By, change: Change) -> Result<usize, &'static str> {
        let ctx = Ctx { now: self.now, principal, log: LogId::default(), term: 1, seq: 2 };
        let mut events = Vec::new();
        Accounts::decide(&self.state, &Command { by, change }, &ctx, &mut events)
            .map_err(|why| why.reason())?;
        for event in &events {
            Accounts::evolve(&mut self.state, event, &Meta { ts: self.now, principal, term: 1, seq: 2 });
        }
        assert_eq!(Accounts::check_step(&self.state, &events), Ok(()));
        assert_eq!(Accounts::check(&self.state), []);
        Ok(events.len())
    }

    fn staff(&mut self, change: Change) -> Result<usize, &'static str> {
        self.when(Principal::new(PrincipalKind::Staff, account(STAFF)), By::Signature, change)
    }

    fn signed(&mut self, seed: u8, change: Change) -> Result<usize, &'static str> {
        self.when(Principal::new(PrincipalKind::Account, account(seed)), By::Signature, change)
    }

    /// By the API key made with [`api_key`], as whom the state says that it speaks.
    fn keyed(&mut self, n: u8, change: Change) -> Result<usize, &'static str> {
        let (principal, _) = self.state.api_key(&hash(n), self.now).map_err(|why| why.reason())?;
        self.when(principal, By::ApiKey(hash(n)), change)
    }

    fn wallet(&mut self, seed: u8, roles: Roles) -> Result<usize, &'static str> {
        let of = Principal::new(PrincipalKind::Account, account(seed));
        let key = Some(self.offer(seed, of, Some(account(seed))));
        let new = NewAccount { account: account(seed), name: "wallet".into(), roles, key };
        self.when(of, By::OfferedKey, Change::CreateAccount(new))
    }

    fn offer(&self, seed: u8, holder: Principal, owner: Option<Id>) -> OfferedKey {
        let signature = pair(seed).sign(&statement(&self.state.network, holder, owner, &public(seed)));
        let possession = [*signature.r_bytes(), *signature.s_bytes()];
        OfferedKey { public_key: public(seed), label: "key".into(), possession }
    }

    fn offer_to(&self, seed: u8, of: u8) -> OfferedKey {
        self.offer(seed, Principal::new(PrincipalKind::Account, account(of)), Some(account(of)))
    }

    fn node(&self, seed: u8, owner: Id) -> Change {
        let node = Principal::new(PrincipalKind::Node, account(seed));
        Change::RegisterKey { holder: Holder::Node { owner }, key: self.offer(seed, node, Some(owner)) }
    }
}

fn api_key(n: u8, of: u8, roles: Roles, admin: bool) -> NewApiKey {
    NewApiKey {
        account: account(of),
        key: v7(n),
        hash: hash(n),
        label: "key".into(),
        roles,
        admin,
        expires: None,
    }
}

fn create(n: u8, of: u8, roles: Roles, admin: bool) -> Change {
    Change::CreateApiKey(api_key(n, of, roles, admin))
}

#[test]
fn a_wallet_creates_its_own_account_and_only_with_open_roles() {
    let mut given = given();
    assert_eq!(given.wallet(3, Roles::NONE), Ok(2), "a token holder needs no role");
    assert_eq!(given.wallet(3, Roles::NONE), Ok(0), "said again it is so already");
    assert_eq!(given.wallet(3, Roles::RENTER), Err("ACCOUNT_EXISTS"));
    assert_eq!(given.wallet(4, Roles::STAFF), Err("ROLE_NOT_OPEN"));
}

#[test]
#[should_panic(expected = "REGISTRATION_CLOSED")]
fn where_registration_is_closed_no_wallet_enters() {
    given_with(|params| params.self_registration = false);
}

#[test]
fn a_wallet_cannot_take_another_id_or_another_key() {
    let mut given = given();
    let of = Principal::new(PrincipalKind::Account, account(3));
    let new = |account, key| {
        Change::CreateAccount(NewAccount { account, name: "a".into(), roles: Roles::NONE, key })
    };
    let key = Some(given.offer_to(3, 3));
    assert_eq!(given.when(of, By::OfferedKey, new(v7(1), key.clone())), Err("OWN_KEY_NEEDED"));
    assert_eq!(given.when(of, By::OfferedKey, new(account(3), None)), Err("OWN_KEY_NEEDED"));
    let of_other = Principal::new(PrincipalKind::Account, account(4));
    assert_eq!(given.when(of_other, By::OfferedKey, new(account(3), key)), Err("OWN_KEY_NEEDED"));
    let stolen = OfferedKey { public_key: public(3), ..given.offer_to(4, 3) };
    assert_eq!(given.when(of, By::OfferedKey, new(account(3), Some(stolen))), Err("POSSESSION_WRONG"));
}

#[test]
fn an_api_key_changes_nothing_without_the_scope_admin() {
    let mut given = given();
    assert_eq!(given.signed(WALLET, create(1, WALLET, Roles::RENTER, false)), Ok(1));
    assert_eq!(given.keyed(1, create(2, WALLET, Roles::RENTER, false)), Err("ADMIN_NEEDED"));
    assert_eq!(given.keyed(1, Change::RevokeApiKey { key: v7(1) }), Err("ADMIN_NEEDED"));
    assert_eq!(given.signed(WALLET, create(3, WALLET, Roles::RENTER, true)), Ok(1));
    assert_eq!(given.keyed(3, create(2, WALLET, Roles::RENTER, false)), Ok(1));
    assert_eq!(given.keyed(3, create(2, WALLET, Roles::RENTER, false)), Ok(0));
}

#[test]
fn nobody_hands_out_more_than_he_has() {
    let mut given = given();
    assert_eq!(given.signed(WALLET, create(1, WALLET, Roles::STAFF, false)), Err("ROLE_NOT_HELD"));
    assert_eq!(given.signed(WALLET, create(1, WALLET, Roles::RENTER, true)), Ok(1));
    assert_eq!(given.keyed(1, create(2, WALLET, Roles::OPERATOR, true)), Err("MORE_THAN_CALLER"));
    // A public key would act as all that the account may.
    let key = given.offer_to(9, WALLET);
    let change = Change::AddPublicKey { account: account(WALLET), key };
    assert_eq!(given.keyed(1, change.clone()), Err("MORE_THAN_CALLER"));
    assert_eq!(given.signed(WALLET, change.clone()), Ok(1));
    assert_eq!(given.signed(WALLET, change), Ok(0));
    let node = given.node(8, account(WALLET));
    assert_eq!(given.keyed(1, node), Err("MORE_THAN_CALLER"));
}

#[test]
fn a_staff_accounts_lesser_api_key_cannot_make_itself_staff() {
    let mut given = given();
    let both = Roles::STAFF | Roles::RENTER;
    assert_eq!(given.staff(Change::SetRoles { account: account(WALLET), roles: both }), Ok(1));
    assert_eq!(given.signed(WALLET, create(1, WALLET, Roles::RENTER, true)), Ok(1));
    let (principal, scope) = given.state.api_key(&hash(1), given.now).unwrap();
    assert_eq!((principal.kind, scope), (PrincipalKind::Account, Scope::key(Roles::RENTER, true)));
    assert_eq!(given.keyed(1, create(2, WALLET, Roles::STAFF, true)), Err("MORE_THAN_CALLER"));
    assert_eq!(given.keyed(1, Change::Reinstate { account: account(WALLET) }), Err("FORBIDDEN"));
    let as_staff = Principal::new(PrincipalKind::Staff, account(WALLET));
    let change = create(2, WALLET, Roles::STAFF, true);
    assert_eq!(given.when(as_staff, By::ApiKey(hash(1)), change), Err("NOT_STAFF"));
}

#[test]
fn a_key_acts_as_less_when_its_account_does() {
    let mut given = given();
    let roles = Roles::RENTER | Roles::OPERATOR;
    assert_eq!(given.signed(WALLET, create(1, WALLET, roles, false)), Ok(1));
    assert_eq!(given.staff(Change::SetRoles { account: account(WALLET), roles: Roles::OPERATOR }), Ok(1));
    let of_key = given.state.api_key(&hash(1), given.now).map(|(_, scope)| scope);
    assert_eq!(of_key, Ok(Scope::key(Roles::OPERATOR, false)));
}

#[test]
fn a_signature_acts_as_its_account_does_and_a_machines_as_nothing_else() {
    let mut given = given();
    given.wallet(3, Roles::OPERATOR | Roles::RENTER).unwrap();
    let of = |kind, n| given.state.signature(&Principal::new(kind, account(n)));
    assert_eq!(of(PrincipalKind::Account, 3), Scope::signature(Roles::OPERATOR | Roles::RENTER));
    assert_eq!(of(PrincipalKind::Staff, STAFF), Scope::signature(Roles::STAFF));
    assert_eq!(of(PrincipalKind::Node, 3), Scope::signature(Roles::NONE));
}

#[test]
fn accounts_change_their_own_keys_and_nobody_elses() {
    let mut given = given();
    given.wallet(3, Roles::OPERATOR).unwrap();
    assert_eq!(given.signed(3, create(1, WALLET, Roles::RENTER, false)), Err("FORBIDDEN"));
    assert_eq!(
        given.signed(3, Change::RevokePublicKey { public_key: public(WALLET) }),
        Err("PUBLIC_KEY_NOT_FOUND")
    );
    given.signed(WALLET, create(1, WALLET, Roles::RENTER, false)).unwrap();
    assert_eq!(given.signed(3, Change::RevokeApiKey { key: v7(1) }), Err("API_KEY_NOT_FOUND"));
    for change in [
        Change::SetRoles { account: account(3), roles: Roles::STAFF },
        Change::Suspend { account: account(WALLET), cause: "x".into() },
        Change::Reinstate { account: account(3) },
    ] {
        assert_eq!(given.signed(3, change), Err("FORBIDDEN"));
    }
    let nobody = Principal::new(PrincipalKind::Account, v7(9));
    assert_eq!(
        given.when(nobody, By::Signature, Change::RevokeApiKey { key: v7(1) }),
        Err("ACCOUNT_NOT_FOUND")
    );
    let owner = Principal::new(PrincipalKind::Account, account(3));
    assert_eq!(given.when(owner, By::Nothing, Change::RevokeApiKey { key: v7(1) }), Err("PROOF_MISSING"));
    let service = Principal::service(ServiceId(1));
    assert_eq!(given.when(service, By::Signature, Change::RevokeApiKey { key: v7(1) }), Err("FORBIDDEN"));
}

#[test]
fn the_last_key_that_can_administer_goes_only_by_staffs_hand() {
    let mut given = given();
    given.signed(WALLET, create(1, WALLET, Roles::RENTER, false)).unwrap();
    let revoke = Change::RevokePublicKey { public_key: public(WALLET) };
    assert_eq!(given.signed(WALLET, revoke.clone()), Err("LAST_KEY"), "the API key cannot administer");
    let short = NewApiKey { expires: Some(given.now.next()), ..api_key(2, WALLET, Roles::RENTER, true) };
    given.signed(WALLET, Change::CreateApiKey(short)).unwrap();
    given.now = given.now.next();
    assert_eq!(given.signed(WALLET, revoke.clone()), Err("LAST_KEY"), "the other one has expired");
    given.signed(WALLET, create(3, WALLET, Roles::RENTER, true)).unwrap();
    assert_eq!(given.signed(WALLET, revoke), Ok(1));
    assert_eq!(given.keyed(3, Change::RevokeApiKey { key: v7(3) }), Err("LAST_KEY"));
    assert_eq!(given.staff(Change::RevokeApiKey { key: v7(3) }), Ok(1));
}

#[test]
fn the_cell_never_loses_its_last_staff() {
    let mut given = given();
    let me = account(STAFF);
    assert_eq!(given.staff(Change::RevokePublicKey { public_key: public(STAFF) }), Err("LAST_STAFF"));
    assert_eq!(given.staff(Change::SetRoles { account: me, roles: Roles::NONE }), Err("LAST_STAFF"));
    assert_eq!(given.staff(Change::Suspend { account: me, cause: "x".into() }), Err("LAST_STAFF"));
    let short =
        NewApiKey { expires: Some(given.now.after_millis(9)), ..api_key(1, STAFF, Roles::STAFF, true) };
    given.staff(Change::CreateApiKey(short)).unwrap();
    assert_eq!(given.staff(Change::RevokePublicKey { public_key: public(STAFF) }), Err("LAST_STAFF"));
    given.staff(Change::SetRoles { account: account(WALLET), roles: Roles::STAFF }).unwrap();
    assert_eq!(given.staff(Change::SetRoles { account: me, roles: Roles::NONE }), Ok(1));
    assert_eq!(given.staff(Change::Reinstate { account: me }), Err("NOT_STAFF"));
}

/// Why a signature counts for nothing; the key that proves it is told all the same.
fn refused(given: &Given, principal: &Principal) -> &'static str {
    given.state.public_key(principal).unwrap().1.unwrap_err().reason()
}

#[test]
fn nothing_of_a_suspended_account_counts_until_it_is_reinstated() {
    let mut given = given();
    given.signed(WALLET, create(1, WALLET, Roles::RENTER, true)).unwrap();
    let node = given.node(8, account(WALLET));
    given.signed(WALLET, node).unwrap();
    let suspend = |cause: &str| Change::Suspend { account: account(WALLET), cause: cause.into() };
    assert_eq!(given.staff(suspend("case 7")), Ok(1));
    assert_eq!(given.staff(suspend("case 8")), Ok(0), "the first cause stays");
    let of = |kind, seed| Principal::new(kind, account(seed));
    for principal in [of(PrincipalKind::Account, WALLET), of(PrincipalKind::Node, 8)] {
        assert_eq!(refused(&given, &principal), "ACCOUNT_SUSPENDED");
    }
    assert_eq!(given.keyed(1, create(2, WALLET, Roles::RENTER, false)), Err("ACCOUNT_SUSPENDED"));
    assert_eq!(given.signed(WALLET, create(2, WALLET, Roles::RENTER, false)), Err("ACCOUNT_SUSPENDED"));
    assert_eq!(given.staff(Change::Reinstate { account: account(WALLET) }), Ok(1));
    assert_eq!(given.state.public_key(&of(PrincipalKind::Node, 8)), Ok((public(8), Ok(()))));
}

#[test]
fn the_newest_key_signs_and_a_key_that_was_ever_known_is_never_taken_again() {
    let mut given = given();
    let me = Principal::new(PrincipalKind::Account, account(WALLET));
    let key = given.offer_to(5, WALLET);
    let rotate = Change::RotateKey { account: account(WALLET), old: public(WALLET), key };
    assert_eq!(given.signed(WALLET, rotate.clone()), Ok(2));
    assert_eq!(given.signed(WALLET, rotate), Ok(0), "said again it is so already");
    assert_eq!(given.state.public_key(&me), Ok((public(5), Ok(()))));
    let again = Change::AddPublicKey { account: account(WALLET), key: given.offer_to(WALLET, WALLET) };
    assert_eq!(given.signed(WALLET, again), Err("PUBLIC_KEY_USED"));
    let key = given.offer_to(6, WALLET);
    let twice = Change::RotateKey { account: account(WALLET), old: public(WALLET), key };
    assert_eq!(given.signed(WALLET, twice), Err("PUBLIC_KEY_REVOKED"));
    given.wallet(3, Roles::OPERATOR).unwrap();
    let taken = given.offer_to(5, 3);
    let taken = Change::AddPublicKey { account: account(3), key: taken };
    assert_eq!(given.signed(3, taken), Err("PUBLIC_KEY_USED"));
    given.signed(WALLET, create(1, WALLET, Roles::RENTER, true)).unwrap();
    given.signed(WALLET, Change::RevokeApiKey { key: v7(1) }).unwrap();
    assert_eq!(given.signed(WALLET, create(1, WALLET, Roles::RENTER, true)), Err("API_KEY_EXISTS"));
    let same_hash = NewApiKey { key: v7(2), ..api_key(1, WALLET, Roles::RENTER, true) };
    assert_eq!(given.signed(WALLET, Change::CreateApiKey(same_hash)), Err("HASH_USED"));
}

#[test]
fn nodes_belong_to_operators_gateways_and_services_are_registered_by_staff() {
    let mut given = given();
    let wallet = account(WALLET);
    let node = given.node(8, wallet);
    assert_eq!(given.signed(WALLET, node.clone()), Ok(1));
    assert_eq!(given.signed(WALLET, node), Ok(0));
    given.wallet(3, Roles::RENTER).unwrap();
    let node = given.node(9, account(3));
    assert_eq!(given.signed(3, node), Err("NOT_AN_OPERATOR"));
    let gateway = Principal::new(PrincipalKind::Gateway, account(9));
    let key = given.offer(9, gateway, Some(wallet));
    let change = Change::RegisterKey { holder: Holder::Gateway { owner: wallet }, key };
    assert_eq!(given.signed(WALLET, change.clone()), Err("FORBIDDEN"));
    assert_eq!(given.staff(change), Ok(1));
    assert_eq!(given.state.public_key(&gateway), Ok((public(9), Ok(()))));
    let service = Principal::service(ServiceId(4));
    let key = given.offer(10, service, None);
    let change = Change::RegisterKey { holder: Holder::Service(ServiceId(4)), key };
    assert_eq!(given.signed(WALLET, change.clone()), Err("FORBIDDEN"));
    assert_eq!(given.staff(change), Ok(1));
    assert_eq!(given.state.public_key(&service), Ok((public(10), Ok(()))));
    let revoke = Change::RevokePublicKey { public_key: public(10) };
    assert_eq!(given.signed(WALLET, revoke.clone()), Err("PUBLIC_KEY_NOT_FOUND"));
    assert_eq!(given.staff(revoke), Ok(1));
    assert_eq!(refused(&given, &service), "KEY_REVOKED");
}

#[test]
fn every_limit_refuses_and_revoking_makes_room() {
    let mut given = given_with(|params| (params.most_api_keys, params.most_public_keys) = (2, 2));
    for n in 1..=2 {
        given.signed(WALLET, create(n, WALLET, Roles::RENTER, false)).unwrap();
    }
    assert_eq!(given.signed(WALLET, create(3, WALLET, Roles::RENTER, false)), Err("TOO_MANY_KEYS"));
    given.signed(WALLET, Change::RevokeApiKey { key: v7(1) }).unwrap();
    assert_eq!(given.signed(WALLET, create(3, WALLET, Roles::RENTER, false)), Ok(1));
    let add = |given: &Given, seed| Change::AddPublicKey {
        account: account(WALLET),
        key: given.offer_to(seed, WALLET),
    };
    let change = add(&given, 5);
    given.signed(WALLET, change).unwrap();
    let change = add(&given, 6);
    assert_eq!(given.signed(WALLET, change), Err("TOO_MANY_KEYS"));
    let key = given.offer_to(6, WALLET);
    let rotate = Change::RotateKey { account: account(WALLET), old: public(5), key };
    assert_eq!(given.signed(WALLET, rotate), Ok(2), "a rotation needs no room");
}

#[test]
fn the_limits_of_cell_and_account_for_ever_are_kept_too() {
    let mut given = given();
    given.state.params.most_accounts = 4;
    given.wallet(3, Roles::NONE).unwrap();
    assert_eq!(given.wallet(4, Roles::NONE), Err("TOO_MANY_ACCOUNTS"), "the last quarter is staff's");
    let by_staff = |n| {
        let name = "a".into();
        Change::CreateAccount(NewAccount { account: v7(n), name, roles: Roles::NONE, key: None })
    };
    given.staff(by_staff(1)).unwrap();
    assert_eq!(given.staff(by_staff(2)), Err("TOO_MANY_ACCOUNTS"));
    given.state.params.most_keys_ever = 2;
    given.signed(WALLET, create(1, WALLET, Roles::RENTER, false)).unwrap();
    given.signed(WALLET, Change::RevokeApiKey { key: v7(1) }).unwrap();
    assert_eq!(given.signed(WALLET, create(2, WALLET, Roles::RENTER, false)), Err("TOO_MANY_KEYS_EVER"));
    let node = given.node(8, account(WALLET));
    assert_eq!(given.signed(WALLET, node), Err("TOO_MANY_KEYS_EVER"));
}

#[test]
fn a_key_past_its_time_opens_nothing() {
    let mut given = given();
    let soon =
        NewApiKey { expires: Some(given.now.after_millis(5)), ..api_key(1, WALLET, Roles::RENTER, true) };
    given.signed(WALLET, Change::CreateApiKey(soon.clone())).unwrap();
    assert!(given.state.api_key(&hash(1), given.now).is_ok());
    given.now = given.now.after_millis(5);
    assert_eq!(given.state.api_key(&hash(1), given.now).unwrap_err().reason(), "KEY_EXPIRED");
    assert_eq!(given.keyed(1, create(2, WALLET, Roles::RENTER, false)), Err("KEY_EXPIRED"));
    assert_eq!(given.state.api_key(&hash(9), given.now).unwrap_err().reason(), "KEY_UNKNOWN");
    let past = NewApiKey { key: v7(3), hash: hash(3), ..soon };
    assert_eq!(given.signed(WALLET, Change::CreateApiKey(past)), Err("EXPIRY_PAST"));
}
