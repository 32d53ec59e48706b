//! Who takes part: operators with their bonds, renters with their money.

use anyhow::{Result, bail};
use ed25519_dalek::Signer as _;
use holmes_accounts::possession;
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_proto::accounts::v1 as accounts;
use holmes_proto::ledger::v1 as ledger;
use holmes_proto::market::v1 as market;
use holmes_proto::scheduling::v1 as scheduling;
use holmes_proto::staking::v1 as staking;
use holmes_proto::treasury::v1 as treasury;
use holmes_runtime::fresh_id;

use super::tell::Teller;
use super::world::{World, until};
use crate::client::{Client, Proof};
use crate::output::coins;

/// Number and decimals of an asset of the demo's profile.
pub(super) const TOKEN: (u32, u32) = (1, 9);
/// The same of the dollar.
pub(super) const DOLLAR: (u32, u32) = (2, 6);
/// What comes in for the renter who pays in dollars, micro-dollars.
const DEPOSIT_MICRO_USD: u64 = 25_000_000;

/// Waits for genesis, and shows where the tokens are.
pub(super) async fn genesis(tell: &Teller, world: &mut World) -> Result<()> {
    let staff = world.staff.clone();
    until(world, "genesis", async || {
        let at: treasury::GetGenesisResponse = staff
            .ask("holmes.treasury.v1.Treasury/GetGenesis", fresh_id(), treasury::GetGenesisRequest {})
            .await?;
        Ok((at.state() == treasury::GenesisState::Completed).then_some(()))
    })
    .await?;
    let shared: treasury::GetAllocationsResponse = staff
        .ask("holmes.treasury.v1.Treasury/GetAllocations", fresh_id(), treasury::GetAllocationsRequest {})
        .await?;
    let row = |name: &str, share_ppb: u64, units: u64| {
        vec![name.to_owned(), format!("{} %", share_ppb as f64 / 1e7), coins(units, TOKEN.1)]
    };
    let of = &shared.allocations;
    let mut rows: Vec<_> = of.iter().map(|of| row(&of.name, of.share_ppb, of.amount_units)).collect();
    let (share, units) = (of.iter().map(|of| of.share_ppb).sum(), of.iter().map(|of| of.amount_units).sum());
    rows.push(row("all", share, units));
    tell.table(&["ALLOCATION", "SHARE", "AMOUNT HOL"], &rows)?;
    let paid = |name: &str| -> Result<Id> {
        let grant = shared.grants.iter().find(|grant| grant.name == name);
        Ok(grant.map(|grant| grant.account_id.parse()).transpose()?.unwrap_or_default())
    };
    for operator in &mut world.operators {
        operator.hol_account = paid(operator.name)?;
    }
    for renter in &mut world.renters {
        renter.account = paid(renter.name)?;
    }
    let total: u64 = shared.grants.iter().map(|grant| grant.amount_units).sum();
    tell.line(&format!(
        "{} grants of {} HOL together were paid from the ecosystem's allocation",
        shared.grants.len(),
        coins(total, TOKEN.1)
    ))
}

/// Every operator registers, bonds and attaches a node.
pub(super) async fn operators(tell: &Teller, world: &mut World) -> Result<()> {
    for at in 0..world.operators.len() {
        register(world, at).await?;
        let bonded = bond(world, at).await?;
        let of = &world.operators[at];
        tell.line(&format!("{} has bonded {} HOL for a {}", of.name, coins(bonded, TOKEN.1), of.hardware))?;
        let pid = world.attach(at)?;
        let name = world.operators[at].name;
        tell.line(&format!("{name}'s executor runs as process {pid}"))?;
    }
    for at in 0..world.operators.len() {
        attached(world, at).await?;
    }
    tell.line("all three are attached and may serve")
}

/// The operator's account with its own key, and the node under it.
async fn register(world: &World, at: usize) -> Result<()> {
    let of = &world.operators[at];
    let nobody = Client::new(&world.url, world.network.clone(), Proof::Nobody)?;
    let owner = Principal::new(PrincipalKind::Account, of.id());
    let wallet = of.wallet.verifying_key().to_bytes();
    let network = possession::Network { genesis: world.network.genesis, cell: world.network.cell };
    let statement = possession::statement(&network, owner, Some(of.id()), &wallet);
    let id = fresh_id();
    let account = accounts::CreateAccountRequest {
        request_id: id.to_string(),
        account_id: String::new(),
        name: of.name.into(),
        roles: vec![accounts::Role::Operator.into()],
        key: Some(accounts::OfferedKey {
            public_key: wallet.to_vec().into(),
            label: "wallet".into(),
            possession: of.wallet.sign(&statement).to_bytes().to_vec().into(),
        }),
    };
    let method = "holmes.accounts.v1.Accounts/CreateAccount";
    let _: accounts::CreateAccountResponse = nobody.ask(method, id, account).await?;
    let node = of.node.verifying_key().to_bytes();
    let network = holmes_staking::possession::Network { genesis: network.genesis, cell: network.cell };
    let statement = holmes_staking::possession::statement(&network, owner, &node);
    let id = fresh_id();
    let register = staking::RegisterNodeRequest {
        request_id: id.to_string(),
        public_key: node.to_vec().into(),
        kind: staking::NodeKind::Compute.into(),
        rating_milli_cu: of.rating_milli_cu,
        possession: of.node.sign(&statement).to_bytes().to_vec().into(),
    };
    let _: staking::RegisterNodeResponse =
        of.client.ask("holmes.staking.v1.Staking/RegisterNode", id, register).await?;
    Ok(())
}

/// Holds what is required, bonds the hold, and has the hardware attested. Answers what was bonded, base units.
async fn bond(world: &mut World, at: usize) -> Result<u64> {
    let of = &world.operators[at];
    let (client, node) = (of.client.clone(), of.node_id().to_string());
    let rated = staking::GetRequiredRequest { node_id: node.clone(), rating_milli_cu: 0 };
    let required: staking::GetRequiredResponse =
        client.ask("holmes.staking.v1.Staking/GetRequired", fresh_id(), rated).await?;
    // A little more than required: the requirement follows the network, and may rise before the hold is posted.
    let amount = required.required_units + required.required_units / 20;
    let (id, hold) = (fresh_id(), fresh_id());
    let transfer = ledger::Transfer {
        transfer_id: hold.to_string(),
        kind: ledger::TransferKind::Hold.into(),
        debit_account_id: of.hol_account.to_string(),
        credit_account_id: holmes_ledger::state::system_account("bonds/HOL").to_string(),
        amount_units: amount,
        coordinator: Some(ledger::Coordinator {
            service: u32::from(holmes_proto::service("staking").unwrap_or_default().0),
            coordination_id: node.clone(),
        }),
        ..Default::default()
    };
    transferred(&client, id, transfer).await?;
    let bonding = client.clone();
    until(world, "a bond", async || {
        let id = fresh_id();
        let bond = staking::BondRequest {
            request_id: id.to_string(),
            node_id: node.clone(),
            hold_id: hold.to_string(),
            validate_only: false,
        };
        let asked: Result<staking::BondResponse> =
            bonding.ask("holmes.staking.v1.Staking/Bond", id, bond).await;
        match asked {
            Err(why) if crate::client::is_reason(&why, "HOLD_NOT_OFFERED") => Ok(None), // not yet heard of it
            other => other.map(|_| Some(())),
        }
    })
    .await?;
    let of = &world.operators[at];
    let id = fresh_id();
    let rating = staking::SetRatingRequest {
        request_id: id.to_string(),
        node_id: of.node_id().to_string(),
        rating_milli_cu: of.rating_milli_cu,
    };
    let _: staking::SetRatingResponse =
        world.staff.ask("holmes.staking.v1.Staking/SetRating", id, rating).await?;
    pays_by(&of.client, TOKEN.0, of.hol_account).await?;
    let dollars = dollar_account(&of.client, None).await?;
    pays_by(&of.client, DOLLAR.0, dollars).await?;
    Ok(amount)
}

/// Waits until a node can be given work.
pub(super) async fn attached(world: &mut World, at: usize) -> Result<()> {
    let of = &world.operators[at];
    let (staff, node, process) = (world.staff.clone(), of.node_id().to_string(), of.process());
    until(world, &process, async || {
        let method = "holmes.scheduling.v1.Scheduling/GetNode";
        let question = scheduling::GetNodeRequest { node_id: node.clone() };
        let answer: Result<scheduling::GetNodeResponse> = staff.ask(method, fresh_id(), question).await;
        let known = answer.ok().and_then(|answer| answer.node);
        Ok(known.filter(|node| node.attached && node.qualified).map(|_| ()))
    })
    .await
}

/// Renters with API keys and money: one in dollars that came in by wire, one in tokens of a grant.
pub(super) async fn renters(tell: &Teller, world: &mut World) -> Result<()> {
    for at in 0..world.renters.len() {
        let renter = &world.renters[at];
        let id = fresh_id();
        let account = accounts::CreateAccountRequest {
            request_id: id.to_string(),
            account_id: renter.id.to_string(),
            name: renter.name.into(),
            roles: vec![accounts::Role::Renter.into()],
            key: None,
        };
        let _: accounts::CreateAccountResponse =
            world.staff.ask("holmes.accounts.v1.Accounts/CreateAccount", id, account).await?;
        let id = fresh_id();
        let key = accounts::CreateApiKeyRequest {
            request_id: id.to_string(),
            account_id: renter.id.to_string(),
            key_id: fresh_id().to_string(),
            hash: blake3::hash(renter.api_key.as_bytes()).as_bytes().to_vec().into(),
            label: "demo".into(),
            roles: vec![accounts::Role::Renter.into()],
            admin: false,
            expires_at_us: 0,
        };
        let _: accounts::CreateApiKeyResponse =
            world.staff.ask("holmes.accounts.v1.Accounts/CreateApiKey", id, key).await?;
        let (asset, account) = match renter.asset {
            "HOL" => (TOKEN, renter.account),
            _ => (DOLLAR, dollar_account(&renter.client, Some(&world.staff)).await?),
        };
        pays_by(&renter.client, asset.0, account).await?;
        let method = "holmes.ledger.v1.Ledger/GetAccount";
        let question = ledger::GetAccountRequest { account_id: account.to_string() };
        let has: ledger::GetAccountResponse = renter.client.ask(method, fresh_id(), question).await?;
        let balance = has.account.unwrap_or_default().balance_units;
        tell.line(&format!("{} has {} {} to spend", renter.name, coins(balance, asset.1), renter.asset))?;
        world.renters[at].account = account;
    }
    Ok(())
}

/// Opens the caller's account in dollars; with `staff`, a wire comes in for it.
async fn dollar_account(client: &Client, staff: Option<&Client>) -> Result<Id> {
    let (id, account) = (fresh_id(), fresh_id());
    let open = ledger::OpenAccountRequest {
        request_id: id.to_string(),
        account_id: account.to_string(),
        asset: DOLLAR.0,
        ..Default::default()
    };
    let _: ledger::OpenAccountResponse = client.ask("holmes.ledger.v1.Ledger/OpenAccount", id, open).await?;
    if let Some(staff) = staff {
        let id = fresh_id();
        let wire = ledger::RecordDepositRequest {
            request_id: id.to_string(),
            account_id: account.to_string(),
            amount_units: DEPOSIT_MICRO_USD,
            reference: format!("wire {account}"),
            validate_only: false,
        };
        let _: ledger::RecordDepositResponse =
            staff.ask("holmes.ledger.v1.Ledger/RecordDeposit", id, wire).await?;
    }
    Ok(account)
}

/// Tells the market by which account the caller pays and is paid.
async fn pays_by(client: &Client, asset: u32, account: Id) -> Result<()> {
    let id = fresh_id();
    let set =
        market::SetAccountRequest { request_id: id.to_string(), asset, account_id: account.to_string() };
    let _: market::SetAccountResponse = client.ask("holmes.market.v1.Market/SetAccount", id, set).await?;
    Ok(())
}

/// One transfer that must happen.
async fn transferred(client: &Client, id: Id, transfer: ledger::Transfer) -> Result<()> {
    let transfers = ledger::CreateTransfersRequest {
        request_id: id.to_string(),
        transfers: vec![transfer],
        ..Default::default()
    };
    let method = "holmes.ledger.v1.Ledger/CreateTransfers";
    let answer: ledger::CreateTransfersResponse = client.ask(method, id, transfers).await?;
    match answer.results.first().map(ledger::TransferResult::code) {
        Some(ledger::TransferCode::Ok) => Ok(()),
        other => bail!("the ledger did not make the hold: {other:?}"),
    }
}
