//! What can be asked of the ledger, what it answers, and why it refuses.

use holmes_kernel::machine::{Code, Rejection as Refuses};
use holmes_kernel::{Amount, Id, Principal, ServiceId};
use holmes_proto::ledger::v1::TransferCode;
use serde::Serialize;

use crate::rate::RateLimit;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Command {
    /// Opens an account.
    OpenAccount(OpenAccount),
    /// Closes an empty account.
    CloseAccount {
        /// Which.
        account: Id,
    },
    /// Carries out transfers in order (E-2.1 to E-2.4).
    CreateTransfers {
        /// How they came.
        via: Via,
        /// At most [`crate::params::MOST_TRANSFERS_PER_COMMAND`].
        transfers: Vec<Transfer>,
    },
    /// Refuses outgoing transfers of an account, or allows them again (E-2.5).
    SetFrozen {
        /// Which.
        account: Id,
        /// Whether they are refused.
        frozen_out: bool,
    },
    /// Sets an account's limits (E-2.5).
    SetLimits {
        /// Which.
        account: Id,
        /// How far it may be overdrawn, base units.
        credit_limit: u64,
        /// How fast money may leave it.
        rate: Option<RateLimit>,
    },
    /// Lets a principal send dense numbers instead of ids, or ends that (E-2.3).
    RegisterSubmitter {
        /// Who.
        submitter: Principal,
        /// Whether it may.
        registered: bool,
    },
    /// Money came in from outside.
    RecordDeposit(Movement),
    /// Money left to the outside.
    RecordWithdrawal(Movement),
    /// Ends tokens that lie in burn_inbox (E-9.6).
    Destroy {
        /// Asset number.
        asset: u32,
        /// How much.
        amount: Amount,
    },
    /// Ends the holds whose time has come; only time itself asks for it.
    ExpireHolds,
    /// A send whose fields are not what they must be: refused, so that its sender hears of it.
    Malformed {
        /// Which field and what was expected.
        what: String,
    },
}

/// How transfers came, and so what keeps them from running twice (E-2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Via {
    /// A caller's request: ids of the last hour, remembered within a quota.
    Call,
    /// Another service's event: the inbox takes it once, so ids may be old; they are remembered without a quota.
    Send,
    /// A bulk submitter's dense number: ids are not remembered.
    Number,
}

/// An account to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenAccount {
    /// Its id.
    pub account: Id,
    /// Asset number.
    pub asset: u32,
    /// Whose it shall be.
    pub owner: Principal,
    /// Of a system account; empty for others.
    pub name: String,
    /// Whether readers shall keep every balance it ever has.
    pub history: bool,
    /// Whether its id may be old: only what another service sends.
    pub via: Via,
}

/// Money that crosses the ledger's border.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Movement {
    /// The account inside.
    pub account: Id,
    /// How much.
    pub amount: Amount,
    /// The outside's name for it; unique for ever within the asset.
    pub reference: String,
}

/// One transfer as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// UUIDv7; zeros when the text was no id.
    pub id: Id,
    /// The next one succeeds or fails together with this one.
    pub linked: bool,
    /// Whatever the caller likes.
    pub tag: u32,
    /// How it moves money.
    pub kind: Kind,
}

/// How a transfer moves money (E-2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// At once.
    Single(Move),
    /// Reserves.
    Hold {
        /// What is reserved.
        of: Move,
        /// It expires so many ms after it was opened.
        timeout_ms: Option<u64>,
        /// Who alone may end it.
        coordinator: Option<Coordinator>,
    },
    /// Moves what a hold reserves; the rest is free again.
    Post {
        /// The hold's transfer id.
        hold: Id,
        /// `None` for all of it.
        amount: Option<Amount>,
    },
    /// Gives back what a hold reserves.
    Void {
        /// The hold's transfer id.
        hold: Id,
    },
}

/// From where to where, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Account debited.
    pub debit: Id,
    /// Account credited.
    pub credit: Id,
    /// How much.
    pub amount: Amount,
    /// As much of the amount as is allowed.
    pub balancing: bool,
    /// Whose the debit account must be; `None` for no such condition.
    pub debit_owner: Option<Principal>,
}

/// Who alone ends a hold, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Coordinator {
    /// The service.
    pub service: ServiceId,
    /// What it coordinates.
    pub id: Id,
}

/// What the ledger answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is so.
    Done,
    /// A deposit or a withdrawal.
    Recorded {
        /// It was before, under the same reference.
        already: bool,
    },
    /// One result per transfer.
    Transfers(Vec<TransferResult>),
}

/// What became of one transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferResult {
    /// The result.
    pub code: TransferCode,
    /// Moved, reserved or given back.
    pub amount: Amount,
    /// Burnt part of it.
    pub burned: Amount,
}

/// Why a whole command is refused. A transfer's own failure is a [`TransferCode`] instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No transfer in the batch.
    #[error("the batch is empty: send at least one transfer")]
    BatchEmpty,
    /// Too many transfers.
    #[error("{found} transfers; at most {most}: send several requests")]
    BatchTooLarge {
        /// In the batch.
        found: usize,
        /// Allowed.
        most: usize,
    },
    /// E-2.2.
    #[error("the chain that begins at transfer {at} has more than 256 transfers: make it shorter")]
    ChainTooLong {
        /// Index in the batch.
        at: usize,
    },
    /// E-2.2.
    #[error(
        "the last transfer is linked to a next one that is not there: clear its `linked` or add the rest of the chain"
    )]
    ChainOpen,
    /// Not the caller's to do.
    #[error("{who} may not do this: {needs}")]
    Forbidden {
        /// The caller.
        who: Principal,
        /// Who may.
        needs: &'static str,
    },
    /// A bulk submitter's number from one who is none.
    #[error("{0} is not registered as a bulk submitter: register it, or send a request_id")]
    NotASubmitter(Principal),
    /// No such account.
    #[error("there is no account {0}: check the id, or open it first")]
    AccountNotFound(Id),
    /// The id is taken by another account.
    #[error("account {0} exists with other content: take a new UUIDv7")]
    AccountExists(Id),
    /// Not a UUIDv7.
    #[error("account id {0} is not a UUIDv7: take one")]
    AccountIdInvalid(Id),
    /// Too old or from the future.
    #[error("account id {0} is older than 1 h or more than 5 min ahead of log time: take a new UUIDv7")]
    AccountIdExpired(Id),
    /// Too many accounts.
    #[error("{0} owns as many accounts as one owner may: close none, reuse one")]
    TooManyAccounts(Principal),
    /// Not a name of a system account.
    #[error(
        "account name {0:?}: 1 to 128 of a-z 0-9 _ - . : before \"/\" and the asset's name, as in trr_pool/HOL"
    )]
    AccountNameInvalid(String),
    /// Its number is not known here.
    #[error("there is no asset {0}: GetSupply lists them")]
    AssetNotFound(u32),
    /// It takes part in nothing.
    #[error("account {0} is closed: use another one")]
    AccountClosed(Id),
    /// E-2.5.
    #[error("account {0} is frozen: nothing may leave it until it is released")]
    AccountFrozen(Id),
    /// Money or holds are left.
    #[error("account {0} is not empty: move its balance and end its holds first")]
    AccountNotEmpty(Id),
    /// One of the ledger's own accounts.
    #[error("account {0} is one of the ledger's own: it cannot be closed, frozen, limited or used like this")]
    AccountReserved(Id),
    /// A service keeps books of what is in it.
    #[error(
        "account {0} is the platform's, and only its service lets money in or out: name an account of a party, or of staff"
    )]
    SystemAccount(Id),
    /// E-1.1: an overdrawn token account would be minting.
    #[error("an account of the capped token may not be overdrawn: set credit_limit_units to 0")]
    CreditLimitOnToken,
    /// The account already owes more.
    #[error("account {0} is already overdrawn by more than that: have it paid back first")]
    CreditLimitInUse(Id),
    /// Capped tokens neither come from outside nor leave.
    #[error(
        "asset {0} has a cap: it has no outside to come from or go to. It moves from accounts that have it; a profile's grants give it at genesis"
    )]
    AssetHasNoOutside(u32),
    /// Only a token can be destroyed.
    #[error("asset {0} has no cap: nothing of it can be destroyed")]
    AssetNotCapped(u32),
    /// An outside reference was used for something else.
    #[error("reference {0:?} belongs to another movement of this asset: check it, it is unique for ever")]
    ReferenceUsed(String),
    /// An outside reference that is none.
    #[error("a reference has 1 to 128 bytes")]
    ReferenceInvalid,
    /// Nothing.
    #[error("an amount has at least 1 base unit")]
    AmountZero,
    /// Not enough is there.
    #[error("account {0} has less than that available")]
    InsufficientFunds(Id),
    /// E-2.5.
    #[error("more than the rate limit of account {0} lets go now: try less or later")]
    RateLimited(Id),
    /// E-0.1.
    #[error("the balance of account {0} would not fit 64 bits")]
    BalanceOverflow(Id),
    /// Too many.
    #[error("as many bulk submitters are registered as may be: end one first")]
    TooManySubmitters,
    /// Another service's send is not what it must be.
    #[error("the command cannot be read: {0}")]
    Malformed(String),
}

impl Refuses for Rejection {
    fn code(&self) -> Code {
        use Rejection::*;
        match self {
            BatchEmpty | BatchTooLarge { .. } | ChainTooLong { .. } | ChainOpen | AccountIdInvalid(_) => {
                Code::Invalid
            }
            AccountNameInvalid(_) | ReferenceInvalid | AmountZero | CreditLimitOnToken | Malformed(_) => {
                Code::Invalid
            }
            Forbidden { .. } | NotASubmitter(_) | SystemAccount(_) => Code::Forbidden,
            AccountNotFound(_) | AssetNotFound(_) => Code::NotFound,
            AccountExists(_) | ReferenceUsed(_) => Code::AlreadyExists,
            TooManyAccounts(_) | TooManySubmitters | RateLimited(_) => Code::Exhausted,
            AccountIdExpired(_) | AccountClosed(_) | AccountFrozen(_) | AccountNotEmpty(_) => {
                Code::Precondition
            }
            AccountReserved(_) | CreditLimitInUse(_) | AssetHasNoOutside(_) | AssetNotCapped(_) => {
                Code::Precondition
            }
            InsufficientFunds(_) | BalanceOverflow(_) => Code::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        use Rejection::*;
        match self {
            BatchEmpty => "BATCH_EMPTY",
            BatchTooLarge { .. } => "BATCH_TOO_LARGE",
            ChainTooLong { .. } => "CHAIN_TOO_LONG",
            ChainOpen => "CHAIN_OPEN",
            Forbidden { .. } => "FORBIDDEN",
            NotASubmitter(_) => "NOT_A_SUBMITTER",
            AccountNotFound(_) => "ACCOUNT_NOT_FOUND",
            AccountExists(_) => "ACCOUNT_EXISTS",
            AccountIdInvalid(_) => "ACCOUNT_ID_INVALID",
            AccountIdExpired(_) => "ID_EXPIRED",
            TooManyAccounts(_) => "TOO_MANY_ACCOUNTS",
            AccountNameInvalid(_) => "ACCOUNT_NAME_INVALID",
            AssetNotFound(_) => "ASSET_NOT_FOUND",
            AccountClosed(_) => "ACCOUNT_CLOSED",
            AccountFrozen(_) => "ACCOUNT_FROZEN",
            AccountNotEmpty(_) => "ACCOUNT_NOT_EMPTY",
            AccountReserved(_) => "ACCOUNT_RESERVED",
            SystemAccount(_) => "SYSTEM_ACCOUNT",
            CreditLimitOnToken => "CREDIT_LIMIT_ON_TOKEN",
            CreditLimitInUse(_) => "CREDIT_LIMIT_IN_USE",
            AssetHasNoOutside(_) => "ASSET_HAS_NO_OUTSIDE",
            AssetNotCapped(_) => "ASSET_NOT_CAPPED",
            ReferenceUsed(_) => "REFERENCE_USED",
            ReferenceInvalid => "REFERENCE_INVALID",
            AmountZero => "AMOUNT_ZERO",
            InsufficientFunds(_) => "INSUFFICIENT_FUNDS",
            RateLimited(_) => "RATE_LIMITED",
            BalanceOverflow(_) => "BALANCE_OVERFLOW",
            TooManySubmitters => "TOO_MANY_SUBMITTERS",
            Malformed(_) => "MALFORMED",
        }
    }

    /// What refuses a movement of money for the state's sake: a late copy must not succeed after all.
    fn is_remembered(&self) -> bool {
        use Rejection::*;
        matches!(
            self,
            InsufficientFunds(_)
                | RateLimited(_)
                | AccountFrozen(_)
                | AccountClosed(_)
                | ReferenceUsed(_)
                | BalanceOverflow(_)
        )
    }
}
