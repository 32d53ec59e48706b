//! All that the ledger knows, as a function of its log.

mod account;
mod check;
mod evolve;

use std::collections::BTreeSet;

use holmes_kernel::Place;
use holmes_kernel::machine::BadParams;
use holmes_kernel::{Id, Opened, Principal, Table, Time, Window, canon};
use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::{TransferCode, TransferKind};
use prost::Message;
use serde::{Deserialize, Serialize};

pub use account::{Account, Balance, balance_after, is_party};
pub use check::{check, check_step};
pub use evolve::{Border, evolve, movement_digest, reference_key};

use crate::command::{Command, Coordinator};
use crate::params::{self, AssetParams, Params};

/// The ledger's state.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The governed numbers.
    pub params: Params,
    /// Every asset, numbers rising.
    pub assets: Vec<Asset>,
    /// Every account there ever was; never removed, so a place names an account for ever.
    pub accounts: Table<Id, Account>,
    /// The accounts of an owner, in the order in which they were opened.
    pub owners: Table<Principal, Vec<Place>>,
    /// Open holds (E-2.2).
    pub holds: Table<Id, Hold>,
    /// Open holds that expire, the first one first.
    pub expiring: BTreeSet<(Time, Id)>,
    /// Transfers of the last hour (E-2.3).
    pub transfers: Window<Known, false>,
    /// Outside references ever used: digest of asset and reference, and digest of the movement.
    pub references: Table<[u8; 16], [u8; 16]>,
    /// Who may send dense numbers instead of ids.
    pub submitters: Table<Principal, ()>,
}

/// An asset and what has become of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asset {
    /// What the profile says of it.
    pub params: AssetParams,
    /// What ceased to exist (E-1.1).
    pub destroyed: u64,
    /// Sum of all debits ever posted, genesis included as none.
    pub debits: u128,
    /// Sum of all credits ever posted, genesis included as one of the cap.
    pub credits: u128,
    /// What open holds reserve.
    pub held: u128,
    /// `burn_inbox/<asset>` of a capped token.
    pub burn_inbox: Option<Place>,
    /// `external/<asset>` of any other.
    pub external: Option<Place>,
}

/// An open hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Account debited by a post.
    pub debit: Place,
    /// Account credited by a post.
    pub credit: Place,
    /// Reserved base units.
    pub amount: u64,
    /// Who opened it.
    pub opener: Principal,
    /// When it ends by itself.
    pub expires: Option<Time>,
    /// Who alone may end it.
    pub coordinator: Option<Coordinator>,
}

/// What is remembered of a transfer for an hour (E-2.3): enough to answer a repetition and to find its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Of its content.
    pub digest: u64,
    /// Base units moved, reserved or given back.
    pub amount: u64,
    /// Sequence number of its event.
    pub seq: u64,
    /// Account debited, or [`NOWHERE`].
    pub debit: Place,
    /// Account credited, or [`NOWHERE`].
    pub credit: Place,
    /// [`TransferKind`] as a number.
    pub kind: u8,
    /// [`TransferCode`] as a number.
    pub code: u8,
}

/// The place of an account that is not known.
pub const NOWHERE: Place = Place::MAX;

/// The id of a system account: BLAKE3-128 of "account:" and its name, for example `fees/USD`.
pub fn system_account(name: &str) -> Id {
    Id::from_bytes(canon::hash(format!("account:{name}").as_bytes()))
}

/// The state before the first command: the token's whole cap stands in `genesis/<asset>` (E-1.1), and beside it the
/// accounts that the ledger's rules need: `burn_inbox/<asset>` of the token, `external/<asset>` of any other asset,
/// `fees/<asset>` and `rounding/<asset>` of all.
///
/// # Errors
/// When the parameters cannot be read or are out of their bounds.
pub fn init(opened: &Opened) -> Result<State, BadParams> {
    let wire = wire::Params::decode(opened.params.as_slice())
        .map_err(|why| BadParams(format!("not holmes.ledger.v1.Params: {why}")))?;
    let (params, assets) = params::read(&wire)?;
    let mut state = State {
        transfers: Window::new(params.window),
        params,
        assets: Vec::with_capacity(assets.len()),
        accounts: Table::new(),
        owners: Table::new(),
        holds: Table::new(),
        expiring: BTreeSet::new(),
        references: Table::new(),
        submitters: Table::new(),
    };
    assets.into_iter().for_each(|asset| state.add_asset(asset));
    Ok(state)
}

impl State {
    fn add_asset(&mut self, params: AssetParams) {
        let at = self.assets.len() as u32;
        let (name, cap) = (params.name.clone(), params.cap);
        let mut open = |kind: &str| {
            let id = system_account(&format!("{kind}/{name}"));
            self.open(id, Account::system(at))
        };
        let (burn_inbox, external) = match cap {
            Some(cap) => {
                let genesis = open("genesis");
                let burn_inbox = open("burn_inbox");
                if let Some(account) = self.accounts.at_mut(genesis) {
                    account.balance.credits_posted = cap.wide();
                }
                (Some(burn_inbox), None)
            }
            None => (None, Some(open("external"))),
        };
        for kind in ["fees", "rounding"] {
            self.open(system_account(&format!("{kind}/{name}")), Account::system(at));
        }
        if let Some(account) = external.and_then(|place| self.accounts.at_mut(place)) {
            account.may_be_overdrawn = true;
        }
        let credits = cap.map_or(0, |cap| cap.wide());
        self.assets.push(Asset { params, destroyed: 0, debits: 0, credits, held: 0, burn_inbox, external });
    }

    /// Adds an account; answers its place.
    fn open(&mut self, id: Id, account: Account) -> Place {
        let owner = account.owner;
        self.accounts.get_or_insert_with(id, || account);
        let place = self.accounts.place(&id).unwrap_or(NOWHERE);
        self.owners.get_or_insert_with(owner, Vec::new).push(place);
        place
    }

    /// An account by its id.
    pub fn account(&self, id: &Id) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// The id of the account at a place.
    pub fn id_at(&self, place: Place) -> Option<Id> {
        self.accounts.at(place).map(|(id, _)| *id)
    }

    /// The index of an asset by its number.
    pub fn asset(&self, id: u32) -> Option<u32> {
        self.assets.iter().position(|asset| asset.params.id == id).map(|at| at as u32)
    }

    /// The asset at an index.
    pub fn asset_at(&self, at: u32) -> Option<&Asset> {
        self.assets.get(at as usize)
    }

    /// What is remembered of a transfer.
    pub fn transfer(&self, id: Id) -> Option<&Known> {
        self.transfers.get(&Principal::SYSTEM, id)
    }
}

impl Known {
    /// The result.
    pub fn result(&self) -> TransferCode {
        TransferCode::try_from(i32::from(self.code)).unwrap_or(TransferCode::Unspecified)
    }

    /// How it moved money.
    pub fn moved_as(&self) -> TransferKind {
        TransferKind::try_from(i32::from(self.kind)).unwrap_or(TransferKind::Unspecified)
    }
}

/// The first hold's expiry (E-2.2).
pub fn due(state: &State) -> Option<(Time, Command)> {
    state.expiring.first().map(|(at, _)| (*at, Command::ExpireHolds))
}
