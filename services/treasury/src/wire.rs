//! Between the wire's messages and the treasury's types, and what of the ledger's wire the treasury speaks.

use holmes_kernel::{Amount, Id, Principal, ServiceId, Time, canon};
use holmes_proto::ledger::v1 as ledger;
use holmes_proto::treasury::v1 as wire;
use prost::Message;

use crate::genesis::{self, Step};
use crate::state::{State, Vesting};

/// The ledger's number.
pub const LEDGER: ServiceId = <ledger::Event as holmes_kernel::Event>::SERVICE;
/// Ours.
pub const US: ServiceId = <wire::Event as holmes_kernel::Event>::SERVICE;

/// The id that the ledger gives an account with a name: BLAKE3-128 of "account:" and the name.
pub fn account_id(name: &str) -> Id {
    Id::from_bytes(canon::hash(format!("account:{name}").as_bytes()))
}

/// A transfer to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its id.
    pub id: Id,
    /// Account debited.
    pub debit: Id,
    /// Account credited.
    pub credit: Id,
    /// How much.
    pub amount: Amount,
}

/// Asks the ledger for an account with a name, ours, whose balances are all kept.
pub fn open_named(asset: u32, name: String) -> Vec<u8> {
    sent(ledger::command::Command::OpenAccount(ledger::OpenAccountRequest {
        asset,
        name,
        history: true,
        ..Default::default()
    }))
}

/// Asks the ledger for a party's account.
pub fn open_owned(asset: u32, account: Id, owner: Principal) -> Vec<u8> {
    sent(ledger::command::Command::OpenAccount(ledger::OpenAccountRequest {
        account_id: account.to_string(),
        asset,
        owner: owner.to_string(),
        ..Default::default()
    }))
}

/// Asks the ledger for transfers that happen all or none (E-2.2).
pub fn chain(transfers: &[Transfer]) -> Vec<u8> {
    let last = transfers.len().saturating_sub(1);
    let linked = |(at, transfer): (usize, &Transfer)| ledger::Transfer {
        transfer_id: transfer.id.to_string(),
        kind: ledger::TransferKind::Single.into(),
        debit_account_id: transfer.debit.to_string(),
        credit_account_id: transfer.credit.to_string(),
        amount_units: transfer.amount.units(),
        linked: at < last,
        ..Default::default()
    };
    let transfers = transfers.iter().enumerate().map(linked).collect();
    sent(ledger::command::Command::CreateTransfers(ledger::CreateTransfersRequest {
        transfers,
        ..Default::default()
    }))
}

fn sent(command: ledger::command::Command) -> Vec<u8> {
    ledger::Command { command: Some(command) }.encode_to_vec()
}

/// How the cap is shared out.
pub fn allocations(state: &State) -> wire::GetAllocationsResponse {
    let params = &state.params;
    let text = |name: String| account_id(&name).to_string();
    let allocation = |allocation: &crate::params::Allocation| wire::Allocation {
        name: allocation.name.clone(),
        share_ppb: allocation.share.ppb(),
        amount_units: allocation.amount.units(),
        account_id: text(genesis::spending_account(params, allocation)),
        vesting_account_id: genesis::vesting_account(params, allocation).map(text).unwrap_or_default(),
    };
    let grant = |grant: &crate::params::Grant| wire::Grant {
        name: grant.name.clone(),
        owner: grant.owner.to_string(),
        account_id: state
            .genesis
            .tge_at
            .map(|at| genesis::grant_account(params, &grant.owner, at).to_string())
            .unwrap_or_default(),
        amount_units: grant.amount.units(),
    };
    wire::GetAllocationsResponse {
        asset: params.asset,
        cap_units: params.cap.units(),
        allocations: params.allocations.iter().map(allocation).collect(),
        grants: params.grants.iter().map(grant).collect(),
    }
}

/// What has vested.
pub fn vestings(state: &State) -> wire::GetVestingResponse {
    wire::GetVestingResponse {
        tge_at_us: micros(state.genesis.tge_at),
        epoch_s: state.params.epoch_s,
        vestings: state.vestings.iter().map(|vesting| self::vesting(state, vesting)).collect(),
    }
}

fn vesting(state: &State, vesting: &Vesting) -> wire::Vesting {
    let next = state.next_release(vesting);
    let up_to = |day: u64| vesting.schedule.vested(vesting.granted, day).units();
    wire::Vesting {
        name: state.name_of(vesting.allocation).to_owned(),
        granted_units: vesting.granted.units(),
        vested_units: up_to(vesting.day),
        released_units: vesting.released.units(),
        day: vesting.day,
        vesting_days: vesting.schedule.vesting_days,
        cliff_days: vesting.schedule.cliff_days,
        next_release_at_us: micros(next.map(|(at, _)| at)),
        next_release_units: next
            .map_or(0, |(at, _)| up_to(state.day_at(at)).saturating_sub(vesting.released.units())),
        refused_reason: vesting.errand.refused.clone(),
    }
}

/// How far genesis is.
pub fn genesis(state: &State) -> wire::GetGenesisResponse {
    let genesis = &state.genesis;
    let errand = &genesis.errand;
    let retries = errand.attempt > 0 && errand.awaits.is_none() && !genesis.stalled;
    let progress = match (genesis.tge_at, genesis.completed_at) {
        (None, _) => wire::GenesisState::NotBegun,
        (_, Some(_)) => wire::GenesisState::Completed,
        _ if genesis.stalled => wire::GenesisState::Stalled,
        _ if retries => wire::GenesisState::Retrying,
        _ => wire::GenesisState::Running,
    };
    let next = genesis::step(&state.params, genesis.step);
    wire::GetGenesisResponse {
        state: progress.into(),
        steps_done: genesis.step,
        steps: genesis::steps(&state.params),
        step: next.map(|step| words(state, step)).unwrap_or_default(),
        refusals: errand.attempt,
        refused_reason: errand.refused.clone(),
        retry_at_us: if retries { errand.not_before.micros() } else { 0 },
        tge_at_us: micros(genesis.tge_at),
        completed_at_us: micros(genesis.completed_at),
    }
}

fn words(state: &State, step: Step<'_>) -> String {
    let asset = &state.params.asset_name;
    match step {
        Step::OpenAccount(name) => format!("open account {name}"),
        Step::ShareOut => format!("move genesis/{asset} to the allocations"),
        Step::OpenGrantAccount(grant) => {
            format!("open an account of {} for grant {}", grant.owner, grant.name)
        }
        Step::PayGrant(grant) => format!("pay grant {}", grant.name),
    }
}

fn micros(at: Option<Time>) -> u64 {
    at.map_or(0, Time::micros)
}
