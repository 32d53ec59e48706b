//! Between the wire's messages and the ledger's types: parsed once, for callers and for other services' sends alike.

use holmes_kernel::{Amount, Id, Principal, ServiceId};
pub use holmes_proto::edge::{Malformed, parsed_id as id};
use holmes_proto::edge::{Parsed, malformed};
use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::TransferKind;

use crate::command::{
    Command, Coordinator, Kind, Move, Movement, OpenAccount, Transfer, TransferResult, Via,
};
use crate::rate::{LONGEST_WINDOW_MS, RateLimit};
use crate::state::{Account, Hold, Known, State, system_account};

/// A principal in a text field, as it prints.
pub fn principal(field: &str, text: &str) -> Parsed<Principal> {
    let expected = "account/<id>, node/<id>, gateway/<id>, staff/<id> or service/<number>";
    text.parse().or_else(|_| malformed(field, expected))
}

/// An account to open, for `caller` unless the request says otherwise.
pub fn open_account(request: &wire::OpenAccountRequest, caller: Principal, via: Via) -> Parsed<Command> {
    let account = match (request.account_id.as_str(), request.name.as_str()) {
        ("", "") => return malformed("account_id", "a UUIDv7, or a name for a system account"),
        ("", name) => system_account(name),
        (text, "") => id("account_id", text)?,
        _ => return malformed("account_id", "nothing beside a name: it follows from the name"),
    };
    let owner = if request.owner.is_empty() { caller } else { principal("owner", &request.owner)? };
    let wire::OpenAccountRequest { asset, history, ref name, .. } = *request;
    Ok(Command::OpenAccount(OpenAccount { account, asset, owner, name: name.clone(), history, via }))
}

/// An account to close.
pub fn close_account(request: &wire::CloseAccountRequest) -> Parsed<Command> {
    Ok(Command::CloseAccount { account: id("account_id", &request.account_id)? })
}

/// An account to freeze or to release.
pub fn set_frozen(request: &wire::SetFrozenRequest) -> Parsed<Command> {
    Ok(Command::SetFrozen { account: id("account_id", &request.account_id)?, frozen_out: request.frozen_out })
}

/// An account's limits.
pub fn set_limits(request: &wire::SetLimitsRequest) -> Parsed<Command> {
    let account = id("account_id", &request.account_id)?;
    if request.rate_window_ms > LONGEST_WINDOW_MS {
        return malformed("rate_window_ms", "at most 400 days");
    }
    let Some(rate) = RateLimit::new(request.rate_units, request.rate_window_ms) else {
        return malformed("rate_window_ms", "at least 1 ms, or rate_units = 0 for no limit");
    };
    Ok(Command::SetLimits { account, credit_limit: request.credit_limit_units, rate: rate.limited() })
}

/// A bulk submitter to register.
pub fn register_submitter(request: &wire::RegisterSubmitterRequest) -> Parsed<Command> {
    let submitter = principal("submitter", &request.submitter)?;
    Ok(Command::RegisterSubmitter { submitter, registered: request.registered })
}

/// Money that crosses the border.
pub fn movement(account_id: &str, amount_units: u64, reference: &str) -> Parsed<Movement> {
    Ok(Movement {
        account: id("account_id", account_id)?,
        amount: Amount::new(amount_units),
        reference: reference.to_owned(),
    })
}

/// A row of transfers.
pub fn transfers(wire: &[wire::Transfer]) -> Parsed<Vec<Transfer>> {
    let numbered = |(at, transfer)| {
        self::transfer(transfer).map_err(|Malformed { field, expected }| Malformed {
            field: format!("transfers[{at}].{field}"),
            expected,
        })
    };
    wire.iter().enumerate().map(numbered).collect()
}

/// One transfer. Its fields must be those of its kind, so that none that was meant is silently left out.
pub fn transfer(wire: &wire::Transfer) -> Parsed<Transfer> {
    let kind = match wire.kind() {
        TransferKind::Single => {
            only(wire, &[Field::Accounts, Field::Amount, Field::Balancing, Field::DebitOwner])?;
            Kind::Single(one_move(wire)?)
        }
        TransferKind::Hold => {
            only(
                wire,
                &[
                    Field::Accounts,
                    Field::Amount,
                    Field::Balancing,
                    Field::DebitOwner,
                    Field::Timeout,
                    Field::Coordinator,
                ],
            )?;
            let timeout_ms = (wire.timeout_ms > 0).then_some(wire.timeout_ms);
            let coordinator = wire.coordinator.as_ref().map(coordinator).transpose()?;
            Kind::Hold { of: one_move(wire)?, timeout_ms, coordinator }
        }
        TransferKind::Post => {
            only(wire, &[Field::Hold, Field::Amount])?;
            let amount = (wire.amount_units > 0).then(|| Amount::new(wire.amount_units));
            Kind::Post { hold: id("hold_id", &wire.hold_id)?, amount }
        }
        TransferKind::Void => {
            only(wire, &[Field::Hold])?;
            Kind::Void { hold: id("hold_id", &wire.hold_id)? }
        }
        TransferKind::Unspecified => return malformed("kind", "SINGLE, HOLD, POST or VOID"),
    };
    Ok(Transfer { id: id("transfer_id", &wire.transfer_id)?, linked: wire.linked, tag: wire.tag, kind })
}

fn one_move(wire: &wire::Transfer) -> Parsed<Move> {
    Ok(Move {
        debit: id("debit_account_id", &wire.debit_account_id)?,
        credit: id("credit_account_id", &wire.credit_account_id)?,
        amount: Amount::new(wire.amount_units),
        balancing: wire.balancing,
        debit_owner: match wire.debit_owner.as_str() {
            "" => None,
            text => Some(principal("debit_owner", text)?),
        },
    })
}

fn coordinator(wire: &wire::Coordinator) -> Parsed<Coordinator> {
    match u16::try_from(wire.service) {
        Ok(number) if number > 0 => Ok(Coordinator {
            service: ServiceId(number),
            id: id("coordinator.coordination_id", &wire.coordination_id)?,
        }),
        _ => malformed("coordinator.service", "a service's number"),
    }
}

/// The fields that only some kinds have.
#[derive(PartialEq)]
enum Field {
    Accounts,
    Amount,
    Balancing,
    DebitOwner,
    Hold,
    Timeout,
    Coordinator,
}

fn only(wire: &wire::Transfer, allowed: &[Field]) -> Parsed<()> {
    let accounts = !wire.debit_account_id.is_empty() || !wire.credit_account_id.is_empty();
    let given = [
        (Field::Accounts, "debit_account_id", accounts),
        (Field::Amount, "amount_units", wire.amount_units > 0),
        (Field::Balancing, "balancing", wire.balancing),
        (Field::DebitOwner, "debit_owner", !wire.debit_owner.is_empty()),
        (Field::Hold, "hold_id", !wire.hold_id.is_empty()),
        (Field::Timeout, "timeout_ms", wire.timeout_ms > 0),
        (Field::Coordinator, "coordinator", wire.coordinator.is_some()),
    ];
    match given.iter().find(|(field, _, given)| *given && !allowed.contains(field)) {
        Some((_, name, _)) => malformed(*name, "nothing: transfers of this kind have no such field"),
        None => Ok(()),
    }
}

/// A transfer's result.
pub fn result(result: TransferResult) -> wire::TransferResult {
    wire::TransferResult {
        code: result.code as i32,
        amount_units: result.amount.units(),
        burned_units: result.burned.units(),
    }
}

/// An account as it stands.
pub fn account(state: &State, id: Id, account: &Account) -> wire::Account {
    let balance = &account.balance;
    let (balance_units, overdrawn_units) = balance.net();
    wire::Account {
        account_id: id.to_string(),
        asset: state.asset_at(account.asset).map_or(0, |asset| asset.params.id),
        owner: account.owner.to_string(),
        balance_units,
        overdrawn_units,
        available_units: account.available(balance),
        debits_pending_units: balance.debits_pending,
        credits_pending_units: balance.credits_pending,
        debits_posted: balance.debits_posted.to_be_bytes().to_vec().into(),
        credits_posted: balance.credits_posted.to_be_bytes().to_vec().into(),
        frozen_out: account.frozen_out,
        closed: account.closed,
        history: account.history,
        debits_must_not_exceed_credits: !account.may_be_overdrawn,
        credit_limit_units: account.credit_limit,
        rate_units: account.rate.map_or(0, RateLimit::units),
        rate_window_ms: account.rate.map_or(0, RateLimit::window_ms),
    }
}

/// An open hold.
pub fn hold(state: &State, id: Id, hold: &Hold) -> wire::GetHoldResponse {
    wire::GetHoldResponse {
        hold_id: id.to_string(),
        debit_account_id: text_at(state, hold.debit),
        credit_account_id: text_at(state, hold.credit),
        amount_units: hold.amount,
        expires_at_us: hold.expires.map_or(0, |at| at.micros()),
        opener: hold.opener.to_string(),
        coordinator: hold
            .coordinator
            .map(|by| wire::Coordinator { service: by.service.0.into(), coordination_id: by.id.to_string() }),
    }
}

/// What is known of a transfer.
pub fn known(state: &State, id: Id, known: &Known) -> wire::GetTransferResponse {
    wire::GetTransferResponse {
        transfer_id: id.to_string(),
        kind: known.kind.into(),
        code: known.code.into(),
        debit_account_id: text_at(state, known.debit),
        credit_account_id: text_at(state, known.credit),
        amount_units: known.amount,
        seq: known.seq,
    }
}

/// The supply of every asset (E-1.1).
pub fn supplies(state: &State) -> Vec<wire::Supply> {
    let supply = |asset: &crate::state::Asset| {
        let params = &asset.params;
        let outside = asset.external.and_then(|place| state.accounts.at(place));
        let came_in = outside.map_or(0, |(_, account)| account.balance.net().1);
        let cap_units = params.cap.map_or(0, |cap| cap.units());
        wire::Supply {
            asset: Some(wire::Asset {
                id: params.id,
                name: params.name.clone(),
                decimals: params.decimals,
                cap_units,
            }),
            destroyed_units: asset.destroyed,
            existing_units: if params.cap.is_some() {
                cap_units.saturating_sub(asset.destroyed)
            } else {
                came_in
            },
        }
    };
    state.assets.iter().map(supply).collect()
}

fn text_at(state: &State, place: holmes_kernel::Place) -> String {
    state.id_at(place).map(|id| id.to_string()).unwrap_or_default()
}
