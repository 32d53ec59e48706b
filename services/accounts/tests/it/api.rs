//! The gRPC service over accounts.

use holmes_accounts::Accounts;
use holmes_accounts::api::Api;
use holmes_accounts::possession::OfferedKey;
use holmes_kernel::{Id, Principal, PrincipalKind, canon};
use holmes_proto::accounts::v1 as wire;
use holmes_proto::accounts::v1::Role;
use holmes_proto::accounts::v1::accounts_server::Accounts as _;
use holmes_proto::edge::{SEQ, SignedRequest};
use holmes_testing::{Local, now};
use tonic::{Request, Status};

use crate::harness::{STAFF, driver, hash, id, offer, public, secret, staff, wallet};

/// A cell's accounts, and their service.
pub(crate) struct Desk {
    pub(crate) api: Api<Local<Accounts>>,
    pub(crate) accounts: Local<Accounts>,
}

/// An RPC's answer: `$desk.api.$call`, with whoever signs or holds a key as `$who`.
macro_rules! call {
    ($desk:expr, $who:expr, $call:ident, $message:expr) => {
        now($desk.api.$call($who.request($message))).map(tonic::Response::into_inner)
    };
}
pub(crate) use call;

/// Who calls, and how it is proven.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    /// By a signature that the edge has checked.
    Signs(Principal),
    /// By an API key that the edge has looked up.
    Holds(Principal, u8),
    /// Named by who forwards.
    Named(Principal),
    /// Not known.
    Nobody,
}

/// The request id of a message.
pub(crate) trait Asks {
    fn request_id(&self) -> &str;
}

macro_rules! asks {
    ($($message:ident),*) => {
        $(impl Asks for wire::$message {
            fn request_id(&self) -> &str {
                &self.request_id
            }
        })*
    };
}
asks!(CreateAccountRequest, CreateApiKeyRequest, RevokeApiKeyRequest, AddPublicKeyRequest, RotateKeyRequest);
asks!(RevokePublicKeyRequest, RegisterNodeKeyRequest, RegisterGatewayKeyRequest, RegisterServiceKeyRequest);
asks!(SetRolesRequest, SuspendAccountRequest, ReinstateAccountRequest);

impl Asks for wire::GetAccountRequest {
    fn request_id(&self) -> &str {
        ""
    }
}

impl Asks for wire::ListAccountsRequest {
    fn request_id(&self) -> &str {
        ""
    }
}

impl Who {
    pub(crate) fn request<T: Asks>(&self, message: T) -> Request<T> {
        let signed = message.request_id().parse().map(SignedRequest);
        let mut request = Request::new(message);
        if let Who::Signs(who) | Who::Holds(who, _) | Who::Named(who) = self {
            request.extensions_mut().insert(*who);
        }
        match (self, signed) {
            (Who::Signs(_), Ok(signed)) => {
                request.extensions_mut().insert(signed);
            }
            (Who::Holds(_, n), _) => {
                let bearer = format!("Bearer {}", secret(*n));
                request.metadata_mut().insert("authorization", bearer.parse().unwrap());
            }
            _ => {}
        }
        request
    }
}

pub(crate) fn by_staff() -> Who {
    Who::Signs(staff())
}

pub(crate) fn by(seed: u8) -> Who {
    Who::Signs(wallet(seed))
}

pub(crate) fn offered(key: OfferedKey) -> Option<wire::OfferedKey> {
    let possession = key.possession.concat().into();
    Some(wire::OfferedKey { public_key: key.public_key.to_vec().into(), label: key.label, possession })
}

pub(crate) const RENTER: i32 = Role::Renter as i32;
pub(crate) const OPERATOR: i32 = Role::Operator as i32;

impl Desk {
    /// With two wallets, of seeds 2 and 3, both renter and operator.
    pub(crate) fn new() -> Desk {
        let accounts = Local::new(driver());
        let desk = Desk { api: Api::new(accounts.clone()), accounts };
        for seed in [2, 3] {
            let message = desk.new_wallet(seed);
            call!(desk, Who::Nobody, create_account, message).unwrap();
        }
        desk
    }

    pub(crate) fn fresh(&self) -> Id {
        self.accounts.driver().fresh()
    }

    pub(crate) fn digest(&self) -> canon::Digest {
        self.accounts.driver().digest()
    }

    pub(crate) fn new_wallet(&self, seed: u8) -> wire::CreateAccountRequest {
        wire::CreateAccountRequest {
            request_id: self.fresh().to_string(),
            account_id: String::new(),
            name: format!("wallet {seed}"),
            roles: vec![RENTER, OPERATOR],
            key: offered(offer(seed, wallet(seed), Some(id(seed)))),
        }
    }

    pub(crate) fn new_api_key(&self, n: u8) -> wire::CreateApiKeyRequest {
        wire::CreateApiKeyRequest {
            request_id: self.fresh().to_string(),
            key_id: self.fresh().to_string(),
            hash: hash(n).to_vec().into(),
            label: format!("program {n}"),
            roles: vec![RENTER],
            ..Default::default()
        }
    }
}

#[test]
fn a_wallet_creates_its_account_without_any_other_proof_and_finds_it() -> Result<(), Status> {
    let desk = Desk::new();
    let message = desk.new_wallet(4);
    let made = call!(desk, Who::Nobody, create_account, message.clone())?;
    assert_eq!(made.account_id, id(4).to_string());
    let digest = desk.digest();
    assert_eq!(call!(desk, Who::Nobody, create_account, message)?, made, "sent again: the same answer");
    assert_eq!(desk.digest(), digest);
    let found = call!(desk, by(4), get_account, wire::GetAccountRequest::default())?;
    let account = found.account.unwrap();
    assert_eq!((account.name.as_str(), account.roles), ("wallet 4", vec![RENTER, OPERATOR]));
    assert_eq!(found.public_keys[0].public_key, public(4).to_vec());
    Ok(())
}

#[test]
fn an_api_key_is_made_by_its_owner_used_and_revoked() -> Result<(), Status> {
    let desk = Desk::new();
    let message = desk.new_api_key(1);
    let key_id = message.key_id.clone();
    call!(desk, by(2), create_api_key, message)?;
    let speaks_for = |desk: &Desk| {
        let driver = desk.accounts.driver();
        driver.state().api_key(&hash(1), driver.now).map(|(principal, _)| principal)
    };
    assert_eq!(speaks_for(&desk), Ok(wallet(2)));
    let found = call!(desk, Who::Holds(wallet(2), 1), get_account, wire::GetAccountRequest::default())?;
    assert_eq!(found.api_keys[0].label, "program 1");
    let request_id = desk.fresh().to_string();
    call!(desk, by(2), revoke_api_key, wire::RevokeApiKeyRequest { request_id, key_id })?;
    assert!(speaks_for(&desk).is_err());
    let found = call!(desk, by(2), get_account, wire::GetAccountRequest::default())?;
    assert_eq!(found.api_keys, []);
    Ok(())
}

#[test]
fn keys_of_wallets_nodes_gateways_and_services_sign_once_they_are_registered() -> Result<(), Status> {
    let desk = Desk::new();
    let request_id = || desk.fresh().to_string();
    let account_id = String::new();
    let key = offered(offer(5, wallet(2), Some(id(2))));
    let add = wire::AddPublicKeyRequest { request_id: request_id(), account_id: account_id.clone(), key };
    call!(desk, by(2), add_public_key, add)?;
    let key = offered(offer(6, wallet(2), Some(id(2))));
    let old_public_key = public(2).to_vec().into();
    let rotate = wire::RotateKeyRequest { request_id: request_id(), account_id, old_public_key, key };
    call!(desk, by(2), rotate_key, rotate)?;
    let of = |kind, seed| Principal::new(kind, id(seed));
    let node = of(PrincipalKind::Node, 7);
    let owner_account_id = String::new();
    let key = offered(offer(7, node, Some(id(2))));
    let register = wire::RegisterNodeKeyRequest { request_id: request_id(), owner_account_id, key };
    assert_eq!(call!(desk, by(2), register_node_key, register)?.node_id, id(7).to_string());
    let gateway = of(PrincipalKind::Gateway, 8);
    let owner_account_id = id(3).to_string();
    let key = offered(offer(8, gateway, Some(id(3))));
    let register = wire::RegisterGatewayKeyRequest { request_id: request_id(), owner_account_id, key };
    assert_eq!(call!(desk, by_staff(), register_gateway_key, register)?.gateway_id, id(8).to_string());
    let service = Principal::service(holmes_kernel::ServiceId(4));
    let key = offered(offer(9, service, None));
    let register = wire::RegisterServiceKeyRequest { request_id: request_id(), service_number: 4, key };
    call!(desk, by_staff(), register_service_key, register)?;
    let driver = desk.accounts.driver();
    for (principal, seed) in [(wallet(2), 6), (node, 7), (gateway, 8), (service, 9), (staff(), STAFF)] {
        assert_eq!(driver.state().public_key(&principal), Ok((public(seed), Ok(()))), "{principal}");
    }
    driver.check();
    driver.check_replay();
    Ok(())
}

#[test]
fn staff_creates_suspends_and_reinstates_accounts_and_gives_roles() -> Result<(), Status> {
    let desk = Desk::new();
    let request_id = || desk.fresh().to_string();
    let account_id = desk.fresh().to_string();
    let (name, roles) = ("Acme".to_owned(), vec![RENTER]);
    let create = wire::CreateAccountRequest {
        request_id: request_id(),
        account_id: account_id.clone(),
        name,
        roles,
        key: None,
    };
    call!(desk, by_staff(), create_account, create)?;
    let roles = vec![RENTER, OPERATOR];
    let set = wire::SetRolesRequest { request_id: request_id(), account_id: account_id.clone(), roles };
    call!(desk, by_staff(), set_roles, set)?;
    let cause = "case 7".to_owned();
    let suspend =
        wire::SuspendAccountRequest { request_id: request_id(), account_id: account_id.clone(), cause };
    call!(desk, by_staff(), suspend_account, suspend)?;
    let get = wire::GetAccountRequest { account_id: account_id.clone() };
    let found = call!(desk, by_staff(), get_account, get.clone())?.account.unwrap();
    assert_eq!((found.suspended, found.cause.as_str()), (true, "case 7"));
    assert_eq!(found.roles, [RENTER, OPERATOR]);
    let reinstate = wire::ReinstateAccountRequest { request_id: request_id(), account_id };
    call!(desk, by_staff(), reinstate_account, reinstate)?;
    assert!(!call!(desk, by_staff(), get_account, get)?.account.unwrap().suspended);
    Ok(())
}

#[test]
fn pages_hold_every_account_once_and_answers_say_where_they_stand() -> Result<(), Status> {
    let desk = Desk::new();
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let message = wire::ListAccountsRequest { page_size: 2, page_token };
        let response = now(desk.api.list_accounts(by_staff().request(message)))?;
        assert!(response.metadata().get(SEQ).is_some());
        let page = response.into_inner();
        assert!(page.accounts.len() <= 2);
        seen.extend(page.accounts.into_iter().map(|account| account.account_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [STAFF, 2, 3].map(|seed| id(seed).to_string()));
    Ok(())
}
