//! What staking asks of the ledger: commands in the ledger's own encoding, carried by events.
//!
//! Transfer ids follow from what they are for and from when it is asked: what the ledger refuses has another id the next
//! time, so that somebody who has guessed and taken one costs nothing but a moment.

use holmes_kernel::{Amount, Ctx, Id, Principal};
use holmes_proto::ledger::v1 as ledger;
use holmes_proto::ledger::v1::TransferKind;
use holmes_proto::ledger::v1::command::Command as Asked;
use prost::Message;
use prost::bytes::Bytes;

use crate::state::{State, vault_name};

/// To open `bonds/<asset>`, owned by staking.
pub(crate) fn open_vault(state: &State, ctx: &Ctx) -> Bytes {
    encoded(Asked::OpenAccount(ledger::OpenAccountRequest {
        asset: state.params.asset,
        owner: Principal::service(ctx.log.svc).to_string(),
        name: vault_name(&state.params.asset_name),
        history: true,
        ..Default::default()
    }))
}

/// To post all that a hold reserves.
pub(crate) fn post(hold: Id, amount: Amount, ctx: &Ctx) -> Bytes {
    // A hold that was refused may be asked for again: another transfer each time.
    let cause =
        [b"bond".as_slice(), &hold.to_bytes(), &ctx.term.to_le_bytes(), &ctx.seq.to_le_bytes()].concat();
    let at = hold.moment().unwrap_or(ctx.now);
    transfer(ledger::Transfer {
        transfer_id: Id::derive(at, &cause, 0).to_string(),
        kind: TransferKind::Post.into(),
        amount_units: amount.units(),
        hold_id: hold.to_string(),
        ..Default::default()
    })
}

/// To pay a part of an unbonding. Its id carries the moment at which it is asked: that at which it was ready is known
/// weeks before, and whoever knows an id can take it first (E-2.3).
pub(crate) fn pay(vault: Id, to: Id, amount: Amount, part: &Part, ctx: &Ctx) -> Bytes {
    let cause = [
        b"unbonding".as_slice(),
        &ctx.log.cell.to_le_bytes(),
        &part.unbonding.to_le_bytes(),
        &part.left.to_le_bytes(),
    ];
    transfer(ledger::Transfer {
        transfer_id: Id::derive(ctx.now, &cause.concat(), part.refusals).to_string(),
        kind: TransferKind::Single.into(),
        debit_account_id: vault.to_string(),
        credit_account_id: to.to_string(),
        amount_units: amount.units(),
        ..Default::default()
    })
}

/// What makes a payout another than all others.
pub(crate) struct Part {
    /// The unbonding's number.
    pub unbonding: u64,
    /// What was left of it before.
    pub left: u64,
    /// How often the ledger refused it.
    pub refusals: u32,
}

fn transfer(transfer: ledger::Transfer) -> Bytes {
    encoded(Asked::CreateTransfers(ledger::CreateTransfersRequest {
        transfers: vec![transfer],
        ..Default::default()
    }))
}

fn encoded(command: Asked) -> Bytes {
    ledger::Command { command: Some(command) }.encode_to_vec().into()
}
