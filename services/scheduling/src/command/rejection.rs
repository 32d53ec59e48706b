//! Why scheduling refuses: a closed set, each with its stable reason and what to do about it.

use holmes_kernel::machine::{Code, Rejection as Refuses};
use holmes_kernel::{Id, Principal};
use holmes_proto::statements::lease_text;

use crate::state::LeaseId;

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not the caller's to do.
    #[error("{who} may not do this: {needs}")]
    Forbidden {
        /// The caller.
        who: Principal,
        /// Who may.
        needs: &'static str,
    },
    /// The caller has not started, or was not heard of for too long.
    #[error(
        "gateway {0} has not started, or was not heard of for too long: call StartGateway, then attach its nodes again"
    )]
    GatewayUnknown(Id),
    /// Too many in all.
    #[error("as many gateways have started as may: keep a gateway's key when it restarts")]
    TooManyGateways,
    /// Staking does not know it, or not as a compute node.
    #[error(
        "node {0} is not known as a compute node: register it in staking first, and send holmes-after: staking@<seq of the registration>"
    )]
    NodeUnknown(Id),
    /// Whoever has nothing at stake takes no place at a gateway, and nobody chooses by what it says of itself.
    #[error(
        "node {0} is not qualified: bond what is required of it and have its rating attested (Staking/GetNode says what is missing); it may attach as soon as it is"
    )]
    NodeUnqualified(Id),
    /// No such node.
    #[error("there is no compute node {0}: check the id")]
    NodeNotFound(Id),
    /// Not a key.
    #[error("public_key is no Ed25519 key under which a signature proves anything: send the gateway's own")]
    KeyInvalid,
    /// The signature does not fit.
    #[error("{0}: sign the statement for this network, cell, lease or gateway with the party's own key")]
    SignatureInvalid(String),
    /// The same question again.
    #[error("node {0} has answered this nonce before: draw 16 fresh random bytes for every attachment")]
    NonceReused(Id),
    /// More slots than a node may have.
    #[error("a node has at most {most} slots: it offers {found}")]
    TooManySlots {
        /// Offered.
        found: u32,
        /// Most.
        most: u32,
    },
    /// Not a number of an attachment.
    #[error("node {node} has no attachment {generation} yet: name the generation that Attach has answered")]
    GenerationUnknown {
        /// The node.
        node: Id,
        /// Asked for.
        generation: u64,
    },
    /// Too late or too early.
    #[error(
        "presence of epoch {found} is not taken now: epoch {running} is running, and the one before is taken only until it is sealed"
    )]
    EpochNotRunning {
        /// Asked for.
        found: u64,
        /// Running.
        running: u64,
    },
    /// Beats that are not there.
    #[error("beats {first} to {last} are not those of an epoch of {beats} beats, or have not begun")]
    BeatsOutOfRange {
        /// The first.
        first: u32,
        /// The last.
        last: u64,
        /// Of an epoch.
        beats: u32,
    },
    /// The market has not funded it, or it is over.
    #[error(
        "there is no open session {0}: open it in the market, and send holmes-after: market@<its funded_seq>"
    )]
    SessionNotFound(Id),
    /// It takes no more calls.
    #[error("session {0} is closed: open another one in the market")]
    SessionClosed(Id),
    /// The market closes it: what runs may end.
    #[error("session {0} is closing and gets no new lease and no renewal: open another one in the market")]
    SessionClosing(Id),
    /// Its hold is over.
    #[error("session {0} has expired: open another one in the market")]
    SessionExpired(Id),
    /// More than the session has.
    #[error(
        "session {session} has {free} pico-dollars left to reserve and {asked} are asked for: end leases, extend the session, or ask for less"
    )]
    SessionBudgetExceeded {
        /// The session.
        session: Id,
        /// Neither metered nor reserved.
        free: u128,
        /// Asked for.
        asked: u64,
    },
    /// Not offered.
    #[error("the market does not offer model {0:?}: ListModels shows what it offers")]
    ModelNotOffered(String),
    /// Out of bounds.
    #[error(
        "an allowance has 1 to {most} pico-dollars, and a renewal never less than before: {found} are asked for"
    )]
    AllowanceOutOfRange {
        /// Asked for.
        found: u64,
        /// Most.
        most: u64,
    },
    /// Out of bounds.
    #[error("a lease lasts at most {most} ms: {found} are asked for; renew it instead")]
    DurationOutOfRange {
        /// Asked for.
        found: u64,
        /// Most.
        most: u64,
    },
    /// Too many of a session.
    #[error("session {0} has as many open leases as one session may: end some")]
    TooManyLeasesOfSession(Id),
    /// Too many in all.
    #[error("as many leases are open as may be: try again later")]
    TooManyLeases,
    /// Nobody serves it.
    #[error("no attached node serves model {0:?}: ask for another model, or try again later")]
    ModelNotServed(String),
    /// Nobody serves it with such a context.
    #[error(
        "the longest context of model {model:?} is {longest} tokens here, and {asked} are asked for: shorten the prompt, or ask \
         for fewer tokens"
    )]
    ContextLengthExceeded {
        /// The model.
        model: String,
        /// Asked for.
        asked: u32,
        /// The longest.
        longest: u32,
    },
    /// Nodes serve it, and none may.
    #[error(
        "the attached nodes that serve model {0:?} may not work now (bond, rating): try again later, or ask for another model"
    )]
    NoNodeQualified(String),
    /// All who serve it are busy, or shall not be taken.
    #[error("every slot of the nodes that serve model {0:?} and may be taken is in use: try again")]
    NoNodeFree(String),
    /// The named node cannot.
    #[error("node {node} cannot be given the call ({why}): name another one, or none")]
    NamedNodeUnavailable {
        /// The node.
        node: Id,
        /// As `Explain` says it.
        why: &'static str,
    },
    /// No such lease.
    #[error("there is no lease {}, or it is over for too long: place again", lease_text(&.0.to_bytes()))]
    LeaseNotFound(LeaseId),
    /// No such call.
    #[error("there is and was no call {0}: its id is free")]
    CallNotFound(Id),
    /// It has ended.
    #[error("lease {} has ended: place again", lease_text(&.0.to_bytes()))]
    LeaseOver(LeaseId),
    /// Leases cannot be signed.
    #[error(
        "this process signs leases with another key than the network's parameters name: start it with the key whose public half stands in scheduling's public_key"
    )]
    SigningKeyMismatch,
}

impl Refuses for Rejection {
    fn code(&self) -> Code {
        use Rejection::*;
        match self {
            KeyInvalid | SignatureInvalid(_) | NonceReused(_) | TooManySlots { .. } => Code::Invalid,
            GenerationUnknown { .. } | BeatsOutOfRange { .. } => Code::Invalid,
            AllowanceOutOfRange { .. } | DurationOutOfRange { .. } => Code::Invalid,
            ContextLengthExceeded { .. } => Code::Invalid,
            Forbidden { .. } => Code::Forbidden,
            NodeNotFound(_) | SessionNotFound(_) | LeaseNotFound(_) | CallNotFound(_) => Code::NotFound,
            TooManyGateways | TooManyLeasesOfSession(_) | TooManyLeases | NoNodeFree(_) => Code::Exhausted,
            GatewayUnknown(_) | NodeUnknown(_) | NodeUnqualified(_) | EpochNotRunning { .. } => {
                Code::Precondition
            }
            SessionClosed(_) | SessionClosing(_) | SessionExpired(_) | SessionBudgetExceeded { .. } => {
                Code::Precondition
            }
            ModelNotOffered(_) | ModelNotServed(_) | NoNodeQualified(_) => Code::Precondition,
            NamedNodeUnavailable { .. } => Code::Precondition,
            LeaseOver(_) | SigningKeyMismatch => Code::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        use Rejection::*;
        match self {
            Forbidden { .. } => "FORBIDDEN",
            GatewayUnknown(_) => "GATEWAY_UNKNOWN",
            TooManyGateways => "TOO_MANY_GATEWAYS",
            NodeUnknown(_) => "NODE_UNKNOWN",
            NodeUnqualified(_) => "NODE_NOT_QUALIFIED",
            NodeNotFound(_) => "NODE_NOT_FOUND",
            KeyInvalid => "KEY_INVALID",
            SignatureInvalid(_) => "SIGNATURE_INVALID",
            NonceReused(_) => "NONCE_REUSED",
            TooManySlots { .. } => "TOO_MANY_SLOTS",
            GenerationUnknown { .. } => "GENERATION_UNKNOWN",
            EpochNotRunning { .. } => "EPOCH_NOT_RUNNING",
            BeatsOutOfRange { .. } => "BEATS_OUT_OF_RANGE",
            SessionNotFound(_) => "SESSION_NOT_FOUND",
            SessionClosed(_) => "SESSION_CLOSED",
            SessionClosing(_) => "SESSION_CLOSING",
            SessionExpired(_) => "SESSION_EXPIRED",
            SessionBudgetExceeded { .. } => "SESSION_BUDGET_EXCEEDED",
            ModelNotOffered(_) => "MODEL_NOT_OFFERED",
            AllowanceOutOfRange { .. } => "ALLOWANCE_OUT_OF_RANGE",
            DurationOutOfRange { .. } => "DURATION_OUT_OF_RANGE",
            TooManyLeasesOfSession(_) => "TOO_MANY_LEASES_OF_SESSION",
            TooManyLeases => "TOO_MANY_LEASES",
            ModelNotServed(_) => "MODEL_NOT_SERVED",
            ContextLengthExceeded { .. } => "CONTEXT_LENGTH_EXCEEDED",
            NoNodeQualified(_) => "NO_NODE_QUALIFIED",
            NoNodeFree(_) => "NO_NODE_FREE",
            NamedNodeUnavailable { .. } => "NAMED_NODE_UNAVAILABLE",
            LeaseNotFound(_) => "LEASE_NOT_FOUND",
            CallNotFound(_) => "CALL_NOT_FOUND",
            LeaseOver(_) => "LEASE_OVER",
            SigningKeyMismatch => "SIGNING_KEY_MISMATCH",
        }
    }
}
