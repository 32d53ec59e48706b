//! What emission asks of the ledger: commands in the ledger's own encoding, carried by events.
//!
//! Transfer ids follow from what they are for and from how often that was asked: a refused id is not used again.

use holmes_kernel::{Ctx, Id, Principal};
use holmes_proto::ledger::v1 as ledger;
use holmes_proto::ledger::v1::TransferKind;
use holmes_proto::ledger::v1::command::Command as Asked;
use prost::Message;
use prost::bytes::Bytes;

use crate::state::{Account, Move, State};

/// A payment out of the pot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payment {
    /// To whom.
    pub node: Id,
    /// Where to.
    pub account: Id,
    /// Base units.
    pub units: u64,
    /// How often this node was paid, or tried to be, before.
    pub nth: u64,
}

/// To open one of emission's accounts.
pub(crate) fn open(state: &State, name: &str, ctx: &Ctx) -> Bytes {
    encoded(Asked::OpenAccount(ledger::OpenAccountRequest {
        asset: state.params.asset,
        owner: Principal::service(ctx.log.svc).to_string(),
        name: name.to_owned(),
        history: true,
        ..Default::default()
    }))
}

/// To move amounts between accounts, all or none (E-2.2).
pub(crate) fn chain(state: &State, number: u64, of: &Move, ctx: &Ctx) -> Bytes {
    let mut transfers: Vec<ledger::Transfer> = of
        .legs
        .iter()
        .map(|(from, to, units)| {
            let what = [&number.to_le_bytes()[..], &[from as u8, to as u8]].concat();
            let id = id(ctx, b"holmes emission move", &what, of.refusals);
            transfer(id, state.account_id(from), state.account_id(to), units, true)
        })
        .collect();
    if let Some(last) = transfers.last_mut() {
        last.linked = false;
    }
    encoded_transfers(transfers)
}

/// To pay nodes, each by itself.
pub(crate) fn payments(state: &State, payments: &[Payment], ctx: &Ctx) -> Bytes {
    let pot = state.account_id(Account::Pot);
    let one = |payment: &Payment| {
        let what = [payment.node.to_bytes().as_slice(), &payment.nth.to_le_bytes()].concat();
        transfer(id(ctx, b"holmes emission payment", &what, 0), pot, payment.account, payment.units, false)
    };
    encoded_transfers(payments.iter().map(one).collect())
}

fn id(ctx: &Ctx, kind: &[u8], what: &[u8], attempt: u32) -> Id {
    Id::derive(ctx.now, &[kind, &ctx.log.cell.to_le_bytes(), what].concat(), attempt)
}

fn transfer(id: Id, debit: Id, credit: Id, amount_units: u64, linked: bool) -> ledger::Transfer {
    ledger::Transfer {
        transfer_id: id.to_string(),
        kind: TransferKind::Single.into(),
        debit_account_id: debit.to_string(),
        credit_account_id: credit.to_string(),
        amount_units,
        linked,
        ..Default::default()
    }
}

fn encoded_transfers(transfers: Vec<ledger::Transfer>) -> Bytes {
    encoded(Asked::CreateTransfers(ledger::CreateTransfersRequest { transfers, ..Default::default() }))
}

fn encoded(command: Asked) -> Bytes {
    ledger::Command { command: Some(command) }.encode_to_vec().into()
}
