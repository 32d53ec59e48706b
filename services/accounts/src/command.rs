//! What can be asked of accounts, what proves who asks, and why it is refused.

use holmes_kernel::machine::{Code, Rejection as Refuses};
use holmes_kernel::{Id, Principal, ServiceId, Time};
use serde::Serialize;

use crate::Roles;
use crate::possession::OfferedKey;
use crate::state::Denied;

/// A change, and what proves that its principal asks for it. The proof is part of the command because two keys of one
/// account may not do the same; it is judged again when the command is decided, since a key can be revoked on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Command {
    /// What proves who asks.
    pub by: By,
    /// What is asked.
    pub change: Change,
}

/// What proves who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum By {
    /// A signature over the whole request, which the edge has checked.
    Signature,
    /// An API key, by BLAKE3-256 of its text.
    ApiKey([u8; 32]),
    /// Only the possession of the key that the command offers: a wallet that comes for the first time.
    OfferedKey,
    /// Nothing that reached us: a principal named by who forwards, which is not enough to change keys.
    Nothing,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Change {
    /// Creates an account.
    CreateAccount(NewAccount),
    /// Lets an API key open an account.
    CreateApiKey(NewApiKey),
    /// Ends an API key.
    RevokeApiKey {
        /// Which.
        key: Id,
    },
    /// Adds a public key to an account.
    AddPublicKey {
        /// Whose.
        account: Id,
        /// The key.
        key: OfferedKey,
    },
    /// Adds a public key to an account and ends another one.
    RotateKey {
        /// Whose.
        account: Id,
        /// The one that ends.
        old: [u8; 32],
        /// The one in its place.
        key: OfferedKey,
    },
    /// Ends a public key of an account, node, gateway or service.
    RevokePublicKey {
        /// Which.
        public_key: [u8; 32],
    },
    /// Registers the key of something that is no account.
    RegisterKey {
        /// Of what.
        holder: Holder,
        /// The key.
        key: OfferedKey,
    },
    /// Gives an account other roles.
    SetRoles {
        /// Which.
        account: Id,
        /// All that it shall have.
        roles: Roles,
    },
    /// Lets nothing of an account count.
    Suspend {
        /// Which.
        account: Id,
        /// Why; not personal data.
        cause: String,
    },
    /// Lets an account's keys count again.
    Reinstate {
        /// Which.
        account: Id,
    },
}

/// An account to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewAccount {
    /// Its id: a UUIDv7, or BLAKE3-128 of its key.
    pub account: Id,
    /// What people call it; not personal data.
    pub name: String,
    /// What it shall act as.
    pub roles: Roles,
    /// Its first public key.
    pub key: Option<OfferedKey>,
}

/// An API key to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewApiKey {
    /// Whose.
    pub account: Id,
    /// Its id, a UUIDv7.
    pub key: Id,
    /// BLAKE3-256 of its text.
    pub hash: [u8; 32],
    /// What its owner calls it; not personal data.
    pub label: String,
    /// What it may act as.
    pub roles: Roles,
    /// Whether it may move money, and change keys, roles and accounts.
    pub admin: bool,
    /// When it ends by itself.
    pub expires: Option<Time>,
}

/// What is no account and signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Holder {
    /// A node or verifier of an account.
    Node {
        /// The account that answers for it.
        owner: Id,
    },
    /// A gateway of an account.
    Gateway {
        /// The account that answers for it.
        owner: Id,
    },
    /// A service of the cluster.
    Service(ServiceId),
}

/// What accounts answers: it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done;

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The caller's key does not count any more.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The principal came without its proof.
    #[error("changing keys, roles or accounts needs a signed request, or an API key with the scope admin")]
    ProofMissing,
    /// The API key lacks the scope.
    #[error("this API key has not the scope admin: sign the request, or use a key that has it")]
    AdminNeeded,
    /// Not the caller's to do.
    #[error("{who} may not do this: {needs}")]
    Forbidden {
        /// The caller.
        who: Principal,
        /// Who may.
        needs: &'static str,
    },
    /// More than the caller has.
    #[error("the caller acts as {has}, and nobody grants more than that: ask for fewer roles")]
    MoreThanCaller {
        /// What the caller's proof lets it act as.
        has: Roles,
    },
    /// More than the account has.
    #[error("the account acts as {has}: a key of it cannot act as more; ask staff for the role")]
    RoleNotHeld {
        /// The account's roles.
        has: Roles,
    },
    /// Only staff gives this role.
    #[error("an account may take {open} by itself: ask staff for any other role")]
    RoleNotOpen {
        /// What it may take.
        open: Roles,
    },
    /// Wallets may not create accounts.
    #[error("this network does not let wallets create accounts: ask its staff")]
    RegistrationClosed,
    /// No such account.
    #[error("there is no account {0}: check the id, or create it first")]
    AccountNotFound(Id),
    /// The id is taken.
    #[error("account {0} exists with other content: take a new UUIDv7, or change the account that is there")]
    AccountExists(Id),
    /// Neither kind of id.
    #[error("account id {0} is neither a UUIDv7 nor BLAKE3-128 of the offered key: take one of them")]
    AccountIdInvalid(Id),
    /// No such API key, as far as the caller may know.
    #[error("there is no API key {0}: GetAccount lists those that there are")]
    ApiKeyNotFound(Id),
    /// The id is taken.
    #[error("API key {0} exists with other content: take a new UUIDv7")]
    ApiKeyExists(Id),
    /// Not a UUIDv7.
    #[error("API key id {0} is not a UUIDv7: take one")]
    ApiKeyIdInvalid(Id),
    /// Another key has this hash.
    #[error("an API key with this hash was registered before: make a new key")]
    HashUsed,
    /// It would never count.
    #[error("the API key would have expired already: choose a later expires_at_us, or 0 for never")]
    ExpiryPast,
    /// No such public key, as far as the caller may know.
    #[error("there is no such public key of yours: GetAccount lists those that there are")]
    PublicKeyNotFound,
    /// It belongs to somebody already, or did.
    #[error("this public key was registered before, and counts once only: make a new key pair")]
    PublicKeyUsed,
    /// It ended before.
    #[error("the public key to be replaced is revoked already: add the new one instead")]
    PublicKeyRevoked,
    /// Not a key.
    #[error("the public key is no usable Ed25519 key: make a new key pair")]
    PublicKeyInvalid,
    /// The signature by the offered key does not fit.
    #[error(
        "the proof of possession does not fit: sign context, genesis, cell, holder, owner and key with it"
    )]
    PossessionWrong,
    /// A wallet's own account begins with its key.
    #[error(
        "a wallet's own account needs its key, and has that key's id: send `key`, leave account_id empty"
    )]
    OwnKeyNeeded,
    /// Nodes belong to operators and verifiers.
    #[error("account {0} is neither operator nor verifier: ask staff for the role")]
    NotAnOperator(Id),
    /// Service numbers begin at 1.
    #[error("there is no service 0: service numbers are 1 to 65,535")]
    ServiceInvalid,
    /// Of an account.
    #[error("a name has 1 to 64 bytes and no invisible characters")]
    NameInvalid,
    /// Of a key.
    #[error("a label has at most 64 bytes and no invisible characters")]
    LabelInvalid,
    /// Of a suspension.
    #[error("a cause has 1 to 128 bytes and no invisible characters")]
    CauseInvalid,
    /// A limit of the account.
    #[error("as many {what} count as may, {most}: revoke one first")]
    TooManyKeys {
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        most: u64,
    },
    /// A limit that revoking does not help.
    #[error("the account has had {most} keys, as many as one may ever have: take another account")]
    TooManyKeysEver {
        /// The limit.
        most: u64,
    },
    /// The limit of the cell.
    #[error("the cell has as many accounts as it may: ask its staff")]
    TooManyAccounts,
    /// The account would be locked.
    #[error("nobody could administer the account any more: add another key first, or ask staff")]
    LastKey,
    /// The cell would be locked.
    #[error(
        "nobody could administer the cell any more: give another account the role and a lasting key first"
    )]
    LastStaff,
}

impl Refuses for Rejection {
    fn code(&self) -> Code {
        use Rejection::*;
        match self {
            Denied(denied) => denied.code(),
            ProofMissing => Code::Unauthenticated,
            AdminNeeded | Forbidden { .. } | MoreThanCaller { .. } | RoleNotOpen { .. } => Code::Forbidden,
            RegistrationClosed => Code::Forbidden,
            AccountNotFound(_) | ApiKeyNotFound(_) | PublicKeyNotFound => Code::NotFound,
            AccountExists(_) | ApiKeyExists(_) | HashUsed | PublicKeyUsed => Code::AlreadyExists,
            AccountIdInvalid(_) | ApiKeyIdInvalid(_) | PublicKeyInvalid | PossessionWrong => Code::Invalid,
            OwnKeyNeeded | ServiceInvalid | NameInvalid | LabelInvalid | CauseInvalid => Code::Invalid,
            TooManyKeys { .. } | TooManyKeysEver { .. } | TooManyAccounts => Code::Exhausted,
            RoleNotHeld { .. } | ExpiryPast | PublicKeyRevoked | NotAnOperator(_) => Code::Precondition,
            LastKey | LastStaff => Code::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        use Rejection::*;
        match self {
            Denied(denied) => denied.reason(),
            ProofMissing => "PROOF_MISSING",
            AdminNeeded => "ADMIN_NEEDED",
            Forbidden { .. } => "FORBIDDEN",
            MoreThanCaller { .. } => "MORE_THAN_CALLER",
            RoleNotHeld { .. } => "ROLE_NOT_HELD",
            RoleNotOpen { .. } => "ROLE_NOT_OPEN",
            RegistrationClosed => "REGISTRATION_CLOSED",
            AccountNotFound(_) => "ACCOUNT_NOT_FOUND",
            AccountExists(_) => "ACCOUNT_EXISTS",
            AccountIdInvalid(_) => "ACCOUNT_ID_INVALID",
            ApiKeyNotFound(_) => "API_KEY_NOT_FOUND",
            ApiKeyExists(_) => "API_KEY_EXISTS",
            ApiKeyIdInvalid(_) => "API_KEY_ID_INVALID",
            HashUsed => "HASH_USED",
            ExpiryPast => "EXPIRY_PAST",
            PublicKeyNotFound => "PUBLIC_KEY_NOT_FOUND",
            PublicKeyUsed => "PUBLIC_KEY_USED",
            PublicKeyRevoked => "PUBLIC_KEY_REVOKED",
            PublicKeyInvalid => "PUBLIC_KEY_INVALID",
            PossessionWrong => "POSSESSION_WRONG",
            OwnKeyNeeded => "OWN_KEY_NEEDED",
            NotAnOperator(_) => "NOT_AN_OPERATOR",
            ServiceInvalid => "SERVICE_INVALID",
            NameInvalid => "NAME_INVALID",
            LabelInvalid => "LABEL_INVALID",
            CauseInvalid => "CAUSE_INVALID",
            TooManyKeys { .. } => "TOO_MANY_KEYS",
            TooManyKeysEver { .. } => "TOO_MANY_KEYS_EVER",
            TooManyAccounts => "TOO_MANY_ACCOUNTS",
            LastKey => "LAST_KEY",
            LastStaff => "LAST_STAFF",
        }
    }
}
