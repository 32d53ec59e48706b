//! Bonds: holds that owners offer, what the ledger is asked, what it answers.

use holmes_kernel::{Amount, Ctx, Id, Principal};
use holmes_proto::staking::v1::event::Event as Kind;
use holmes_proto::staking::v1::{
    BondCause, BondPosted, BondRefused, BondRequested, HoldsOffered, NodeState, VaultOpened, VaultRefused,
    VaultRequested,
};

use super::{Decided, bytes, changed, column, exits, only_from, only_ledger, only_time, own};
use crate::command::{Rejection, SeenHold};
use crate::sends;
use crate::state::{Awaited, Node, Offer, State};

pub(super) fn open_vault(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    Ok(vec![Kind::VaultRequested(VaultRequested { send: sends::open_vault(state, ctx) })])
}

/// Keeps the holds that could become bonds: opened by a node's owner, for that node, in favour of the bonds account.
/// Others are nobody's here; they end by their own timeout.
pub(super) fn note_holds(state: &State, opener: Principal, holds: &[SeenHold], ctx: &Ctx) -> Decided {
    only_ledger(ctx)?;
    let fits = |hold: &&SeenHold| {
        let node = state.nodes.get(&hold.coordination);
        hold.credit == state.vault.account && node.is_some_and(|node| node.owner == opener)
    };
    let offered: Vec<&SeenHold> = holds.iter().filter(fits).collect();
    if offered.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Kind::HoldsOffered(HoldsOffered {
        holds: column(offered.iter().map(|hold| hold.hold)),
        nodes: column(offered.iter().map(|hold| hold.coordination)),
        accounts: column(offered.iter().map(|hold| hold.debit)),
        amounts_units: offered.iter().map(|hold| hold.amount.units()).collect(),
    })])
}

pub(super) fn bond(state: &State, id: Id, hold: Id, ctx: &Ctx) -> Decided {
    let node = own(state, id, ctx)?;
    let from = [NodeState::Registered, NodeState::Active, NodeState::Jailed];
    only_from(
        id,
        node,
        &from,
        "only a node that can serve again is bonded; an exited one registers again first",
    )?;
    let offer = node.offers.iter().find(|offer| offer.hold == hold);
    let offer = offer.ok_or(Rejection::HoldNotOffered { hold, node: id })?;
    Ok(vec![Kind::BondRequested(BondRequested {
        node: bytes(id),
        hold: bytes(hold),
        account: bytes(offer.account),
        amount_units: offer.amount,
        send: sends::post(hold, Amount::new(offer.amount), ctx),
    })])
}

/// An answer to a send that is not awaited (any more) is dropped.
pub(super) fn answered(state: &State, seq: u64, refused: Option<&str>, ctx: &Ctx) -> Decided {
    only_ledger(ctx)?;
    match state.awaited.get(&seq) {
        None => Ok(Vec::new()),
        Some(Awaited::Vault) => Ok(vec![vault_answered(state, refused, ctx)]),
        Some(Awaited::Bond { node, offer }) => Ok(bond_answered(state, *node, offer, seq, refused, ctx)),
        Some(Awaited::Payout { unbonding, .. }) => exits::answered(state, *unbonding, seq, refused, ctx),
    }
}

fn vault_answered(state: &State, refused: Option<&str>, ctx: &Ctx) -> Kind {
    match refused {
        None => Kind::VaultOpened(VaultOpened {}),
        Some(reason) => Kind::VaultRefused(VaultRefused {
            reason: reason.to_owned(),
            retry_at_us: state.params.retry.at(ctx.now, state.vault.refusals).micros(),
        }),
    }
}

fn bond_answered(
    state: &State,
    id: Id,
    offer: &Offer,
    seq: u64,
    refused: Option<&str>,
    ctx: &Ctx,
) -> Vec<Kind> {
    let (node, hold) = (bytes(id), bytes(offer.hold));
    if let Some(reason) = refused {
        return vec![Kind::BondRefused(BondRefused {
            node,
            hold,
            reason: reason.to_owned(),
            cause_seq: seq,
        })];
    }
    let (account, amount_units) = (bytes(offer.account), offer.amount);
    let mut events = vec![Kind::BondPosted(BondPosted { node, hold, account, amount_units, cause_seq: seq })];
    events.extend(state.nodes.get(&id).map(|node| {
        // The cap bounds every sum of what the ledger has posted (E-1.1).
        let node = Node { bond: node.bond.saturating_add(offer.amount), ..node.clone() };
        changed(state, id, node, BondCause::Bonded, ctx)
    }));
    events
}
