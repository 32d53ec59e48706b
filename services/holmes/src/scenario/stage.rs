//! The beginning: genesis, then everybody with keys, money and nodes, by the same calls that people would make.

use anyhow::{Context as _, Result, bail};
use ed25519_dalek::Signer as _;
use holmes_accounts::possession;
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_proto::ledger::v1::Asset;
use holmes_proto::market::v1::Params as Market;
use prost_reflect::prost::Message as _;
use serde_json::{Value as Json, json};
use std::time::Duration;

use super::cast::{self, STAFF};
use super::check;
use super::cluster::CELL;
use super::file::{Kind, Node, Person};
use super::world::{World, roles, text};
use crate::output;

/// Genesis has this long, and takes less than a moment of it.
const MOST_STEPS: usize = 60;

/// A little more than required is bonded: the requirement follows the network, and may rise before the hold is posted.
const MORE: u64 = 20;

impl World<'_> {
    /// Everything that is there before the first step.
    pub(super) async fn set(&mut self) -> Result<()> {
        self.genesis().await?;
        self.granted().await?;
        for (name, person) in self.plan.people.clone() {
            self.enters(&name, &person).await.with_context(|| format!("{name} cannot enter"))?;
        }
        for (name, node) in self.plan.nodes.clone() {
            self.node(&name, &node).await.with_context(|| format!("{name} cannot be set up"))?;
        }
        if !self.plan.nodes.is_empty() {
            self.start_gateway().await?;
        }
        for (name, node) in self.plan.nodes.clone() {
            if node.attached {
                self.attach(&name).await.with_context(|| format!("{name} cannot attach"))?;
            }
        }
        Ok(())
    }

    async fn genesis(&mut self) -> Result<()> {
        self.cluster.advance(Duration::ZERO);
        for _ in 0..MOST_STEPS {
            let at = self.must(STAFF, "Treasury/GetGenesis", json!({})).await?;
            if text(&at, "state")? == "GENESIS_STATE_COMPLETED" {
                return Ok(());
            }
            self.cluster.advance(Duration::from_millis(10));
        }
        bail!("genesis does not come to its end: look at --trace")
    }

    /// Takes note of the accounts that genesis has paid grants to.
    async fn granted(&mut self) -> Result<()> {
        let told = self.must(STAFF, "Treasury/GetAllocations", json!({})).await?;
        let Some(asset) =
            self.plan.assets.iter().find(|asset| told["asset"] == asset.id).map(|asset| asset.name.clone())
        else {
            return Ok(());
        };
        for grant in told["grants"].as_array().into_iter().flatten() {
            let name = text(grant, "name")?.replace('_', "-");
            self.plan.cast.has_account(&name, &asset, text(grant, "accountId")?.parse()?);
        }
        Ok(())
    }

    async fn enters(&mut self, name: &str, person: &Person) -> Result<()> {
        let party = self.party(name)?.clone();
        let (public, network) = (party.public(), self.network());
        let owner = (person.is != Kind::Service).then(|| party.id());
        // A member of staff signs as staff, and is known by an account as everybody else.
        let holder = match person.is {
            Kind::Service => party.principal(),
            _ => Principal::new(PrincipalKind::Account, party.id()),
        };
        let statement = possession::statement(&network, holder, owner, &public);
        let key = json!({
            "public_key": output::base64(&public),
            "label": "scenario",
            "possession": output::base64(&party.key.sign(&statement).to_bytes()),
        });
        if person.is == Kind::Service {
            let with = json!({ "service_number": person.number, "key": key });
            self.must(STAFF, "Accounts/RegisterServiceKey", with).await?;
            return Ok(());
        }
        let with = json!({ "name": name, "roles": roles(Some(person.is)), "key": key });
        self.must(STAFF, "Accounts/CreateAccount", with).await?;
        for has in &person.has {
            let (asset, units) = check::amount(&self.plan.assets, &has.value).map_err(anyhow::Error::msg)?;
            let asset = asset.clone();
            self.funded(name, &asset, units).await?;
        }
        Ok(())
    }

    /// An account in an asset, with money in it, by which the market knows its owner.
    async fn funded(&mut self, name: &str, asset: &Asset, units: u64) -> Result<()> {
        let account = match self.party(name)?.accounts.get(&asset.name) {
            Some(account) => *account,
            None => {
                let what = format!("account in {}", asset.name);
                let account = cast::id(self.plan.cast.seed(), self.plan.start, &what, name);
                let with = json!({ "account_id": account.to_string(), "asset": asset.id });
                self.must(name, "Ledger/OpenAccount", with).await?;
                self.plan.cast.has_account(name, &asset.name, account);
                if units > 0 {
                    self.deposit(name, account, units).await?;
                }
                account
            }
        };
        let params = self.plan.profile.params("market", &holmes_market::params::encoded_defaults())?;
        let market = Market::decode(params.as_slice())?;
        if [market.token_asset, market.usd_asset].contains(&asset.id) {
            let with = json!({ "asset": asset.id, "account_id": account.to_string() });
            self.must(name, "Market/SetAccount", with).await?;
        }
        Ok(())
    }

    /// Money comes in from outside.
    async fn deposit(&mut self, name: &str, account: Id, units: u64) -> Result<()> {
        let with = json!({
            "account_id": account.to_string(),
            "amount_units": units.to_string(),
            "reference": format!("wire for {name}"),
        });
        self.must(STAFF, "Ledger/RecordDeposit", with).await.map(drop)
    }

    fn network(&self) -> possession::Network {
        possession::Network { genesis: self.cluster.network.genesis, cell: CELL }
    }

    async fn node(&mut self, name: &str, of: &Node) -> Result<()> {
        let (node, owner) = (self.party(name)?.clone(), of.owner.value.clone());
        let (public, owner_id) = (node.public(), self.party(&owner)?.id());
        let owner_principal = self.principal(&owner)?;
        let network = self.network();
        let keyed = possession::statement(&network, node.principal(), Some(owner_id), &public);
        let key = json!({
            "public_key": output::base64(&public),
            "label": name,
            "possession": output::base64(&node.key.sign(&keyed).to_bytes()),
        });
        self.must(&owner, "Accounts/RegisterNodeKey", json!({ "key": key })).await?;
        let network = holmes_staking::possession::Network { genesis: network.genesis, cell: CELL };
        let statement = holmes_staking::possession::statement(&network, owner_principal, &public);
        let register = json!({
            "public_key": output::base64(&public),
            "kind": "COMPUTE",
            "rating_milli_cu": of.rating,
            "possession": output::base64(&node.key.sign(&statement).to_bytes()),
        });
        self.must(&owner, "Staking/RegisterNode", register).await?;
        let node_id = node.id().to_string();
        if of.bond.as_ref().is_none_or(|bond| bond.value != "none") {
            self.bond(&owner, &node_id, of).await?;
        }
        let rating = json!({ "node_id": node_id, "rating_milli_cu": of.rating });
        self.must(STAFF, "Staking/SetRating", rating).await.map(drop)
    }

    async fn bond(&mut self, owner: &str, node_id: &str, of: &Node) -> Result<()> {
        let required = self.must(owner, "Staking/GetRequired", json!({ "node_id": node_id })).await?;
        let asset = self.bonded_asset()?;
        let units = match &of.bond {
            Some(bond) => check::amount(&self.plan.assets, &bond.value).map_err(anyhow::Error::msg)?.1,
            None => {
                let units: u64 = text(&required, "requiredUnits")?.parse()?;
                units + units / MORE
            }
        };
        let account = self.party(owner)?.accounts.get(&asset).copied();
        let account = account.with_context(|| format!("{owner} has no {asset} to bond"))?;
        let hold = self.fresh();
        let transfer = json!({
            "transfer_id": hold.to_string(),
            "kind": "HOLD",
            "debit_account_id": account.to_string(),
            "credit_account_id": holmes_ledger::system_account(&format!("bonds/{asset}")).to_string(),
            "amount_units": units.to_string(),
            "coordinator": { "service": staking_number(), "coordination_id": node_id },
        });
        let made = self.must(owner, "Ledger/CreateTransfers", json!({ "transfers": [transfer] })).await?;
        let code = &made["results"][0]["code"];
        if code != "TRANSFER_CODE_OK" {
            bail!("{owner} cannot hold {units} base units for the bond: {code}");
        }
        let with = json!({ "node_id": node_id, "hold_id": hold.to_string() });
        self.must(owner, "Staking/Bond", with).await.map(drop)
    }

    /// The name of what is bonded.
    fn bonded_asset(&self) -> Result<String> {
        let params = self.plan.profile.params("staking", &holmes_staking::params::encoded_defaults())?;
        Ok(holmes_proto::staking::v1::Params::decode(params.as_slice())?.asset_name)
    }
}

fn staking_number() -> Json {
    holmes_proto::service("staking").map(|service| service.0).into()
}
