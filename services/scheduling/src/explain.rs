//! Why a lease went to its node, and why not to another one (E-10.4). What stands in the placement is exact; of any
//! other node today's facts are told, and whether they have changed since.

use holmes_kernel::Id;
use holmes_proto::columns::ids;
use holmes_proto::scheduling::v1::{Candidate, ExplainResponse, Placement};
use prost::Message;

use crate::command::Rejection;
use crate::state::{Lease, LeaseId, Node, State};

/// It got the lease.
pub const WON: &str = "WON";
/// Others stood before it.
pub const RANKED_LOWER: &str = "RANKED_LOWER";
/// It could not be reached.
pub const NOT_ATTACHED: &str = "NOT_ATTACHED";
/// It does not serve the model.
pub const MODEL_NOT_SERVED: &str = "MODEL_NOT_SERVED";
/// It serves it with less context than the call needs.
pub const CONTEXT_TOO_SHORT: &str = "CONTEXT_TOO_SHORT";
/// Its bond, its hardware pass or its state.
pub const NOT_QUALIFIED: &str = "NOT_QUALIFIED";
/// All its slots were in use.
pub const NO_FREE_SLOT: &str = "NO_FREE_SLOT";
/// The session had lost calls on it.
pub const AVOIDED: &str = "AVOIDED";
/// The renter named another one.
pub const NOT_NAMED: &str = "NOT_NAMED";

/// Why a node could not be given a call of a model and a context as it stands; `None` when it could.
pub fn unfit(node: &Node, model: &str, context: u32) -> Option<&'static str> {
    if node.attached.is_none() {
        return Some(NOT_ATTACHED);
    }
    match node.offer.as_ref().and_then(|offer| offer.serves(model)) {
        None => return Some(MODEL_NOT_SERVED),
        Some(served) if served.class < context => return Some(CONTEXT_TOO_SHORT),
        Some(_) => {}
    }
    if !node.qualified {
        return Some(NOT_QUALIFIED);
    }
    (!node.is_able()).then_some(NO_FREE_SLOT)
}

/// A node as the matcher sees it.
pub fn candidate(state: &State, id: Id, node: &Node) -> Candidate {
    Candidate {
        node: id.to_bytes().to_vec().into(),
        used: node.used(),
        slots: node.slots(),
        score: state.params.score,
        rating_milli_cu: node.rating_milli_cu,
        last_lease_seq: node.last_lease,
    }
}

/// What is to be said of a node and a lease.
///
/// # Errors
/// `NODE_NOT_FOUND`.
pub fn explain(state: &State, id: LeaseId, lease: &Lease, asked: Id) -> Result<ExplainResponse, Rejection> {
    let placement = Placement::decode(lease.placement.as_slice()).unwrap_or_default();
    let winner = placement.best.first().cloned();
    let recorded = placement.best.iter().find(|candidate| Id::from_slice(&candidate.node) == Some(asked));
    let (reason, node, changed_since) = match recorded {
        Some(candidate) if asked == lease.node => (WON, Some(candidate.clone()), false),
        Some(candidate) => (RANKED_LOWER, Some(candidate.clone()), false),
        None => {
            let node = state.nodes.get(&asked).ok_or(Rejection::NodeNotFound(asked))?;
            let reason = unrecorded(&placement, lease, asked, node);
            // What the order itself says is exact, whatever has become of the node.
            let exact = [AVOIDED, NOT_NAMED].contains(&reason);
            (reason, Some(candidate(state, asked, node)), !exact && node.changed > id.seq)
        }
    };
    let text = text(reason, node.as_ref(), winner.as_ref(), lease, &placement);
    let (reason, placement) = (reason.to_owned(), Some(placement));
    Ok(ExplainResponse { text, reason, node, winner, placement, changed_since })
}

fn unrecorded(placement: &Placement, lease: &Lease, asked: Id, node: &Node) -> &'static str {
    if !placement.named_node.is_empty() {
        return NOT_NAMED;
    }
    if ids(&placement.avoided_nodes).any(|avoided| avoided == asked) {
        return AVOIDED;
    }
    unfit(node, &lease.model, placement.context).unwrap_or(RANKED_LOWER)
}

fn text(
    reason: &str,
    node: Option<&Candidate>,
    winner: Option<&Candidate>,
    lease: &Lease,
    placement: &Placement,
) -> String {
    let (model, context) = (&lease.model, placement.context);
    match reason {
        WON => format!("it stood first of {} nodes that were able to serve {model}", placement.able),
        RANKED_LOWER => match (node, winner) {
            (Some(node), Some(winner)) => format!("the winner stood before it: {}", difference(node, winner)),
            _ => "the winner stood before it".to_owned(),
        },
        NOT_ATTACHED => "it is not attached to any gateway: keep its stream open".to_owned(),
        MODEL_NOT_SERVED => format!("it does not offer {model}"),
        CONTEXT_TOO_SHORT => {
            format!("it offers {model} with less than the {context} tokens of context asked for")
        }
        NOT_QUALIFIED => "it may not serve: its bond, its hardware pass or its state in staking".to_owned(),
        NO_FREE_SLOT => "all its slots are in use".to_owned(),
        AVOIDED => "the session had lost calls on it and left it out".to_owned(),
        _ => "the renter named another node".to_owned(),
    }
}

/// The first rule by which two nodes differ.
fn difference(node: &Candidate, winner: &Candidate) -> String {
    let load = |a: &Candidate, b: &Candidate| u64::from(a.used) * u64::from(b.slots);
    if load(node, winner) != load(winner, node) {
        let (used, slots) = (winner.used, winner.slots);
        return format!("{used} of {slots} slots in use against {} of {}", node.used, node.slots);
    }
    if node.score != winner.score {
        return format!("score {} against {}", winner.score, node.score);
    }
    if node.rating_milli_cu != winner.rating_milli_cu {
        return format!("rating {} against {} milli-CU", winner.rating_milli_cu, node.rating_milli_cu);
    }
    if node.last_lease_seq != winner.last_lease_seq {
        return "it was used last longer ago".to_owned();
    }
    "its id is smaller".to_owned()
}
