//! The end: every log rebuilt and held to what stands, services held to each other, the supply, and what the scenario
//! expects of balances.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value as Json, json};

use super::cast::STAFF;
use super::cluster::CELL;
use super::expect;
use super::file::By;
use super::play::Verdict;
use super::tell::{line, wrong_text};
use super::world::{World, text};
use crate::output;
use crate::verify::{self, Row};

impl World<'_> {
    /// Says what it has come to.
    pub(super) async fn close(&mut self, verdict: &mut Verdict) -> Result<()> {
        self.logs(verdict).await?;
        self.machines(verdict)?;
        self.supply(verdict).await?;
        self.balances(verdict).await?;
        self.verdict(verdict)
    }

    /// What `holmes verify` says of the logs, and that what stands is what they say.
    async fn logs(&mut self, verdict: &mut Verdict) -> Result<()> {
        let (roles, journal) = (self.cluster.roles.clone(), self.cluster.journal.clone());
        let rows = verify::rows(&roles, &journal, CELL, |_| {}).await;
        for row in &rows {
            verdict.looked(1, usize::from(!row.is_ok()));
        }
        let mut apart = Vec::new();
        for role in &roles {
            let stands =
                self.cluster.digest(role.name).map(|digest| output::hex(&digest)).unwrap_or_default();
            let rebuilt = rows.iter().find_map(|row| row.digest_of(role.name));
            verdict.looked(1, usize::from(rebuilt != Some(stands.as_str())));
            if rebuilt != Some(stands.as_str()) {
                apart.push(json!({ "service": role.name, "stands": stands, "rebuilt": rebuilt }));
            }
        }
        if self.teller.is_json() {
            rows.iter().try_for_each(|row| line(&serde_json::to_value(row)?))?;
            return apart.iter().try_for_each(line);
        }
        let columns = verify::COLUMNS.iter().map(|name| (*name).to_owned()).collect();
        let table = output::table(columns, rows.iter().map(Row::cells).collect());
        table.iter().try_for_each(|row| output::text(&format!("           {row}")))?;
        apart.iter().try_for_each(|row| output::text(&format!("           WRONG {row}")))
    }

    /// Invariants of the machines as they stand; halted logs and parked sources too.
    fn machines(&mut self, verdict: &mut Verdict) -> Result<()> {
        let broken: Vec<String> = self.cluster.rig.check().iter().map(ToString::to_string).collect();
        verdict.looked(1, broken.len());
        if self.teller.is_json() {
            return line(
                &json!({ "invariants": if broken.is_empty() { "hold" } else { "broken" }, "broken": broken }),
            );
        }
        broken.iter().try_for_each(|why| output::text(&format!("           WRONG {why}")))
    }

    async fn supply(&mut self, verdict: &mut Verdict) -> Result<()> {
        let told = self.must(STAFF, "Ledger/GetSupply", json!({})).await?;
        let wanted = self.plan.closing.supply.clone();
        for row in told["supplies"].as_array().into_iter().flatten() {
            let asset = self.plan.assets.iter().find(|asset| row["asset"]["id"] == asset.id);
            let asset = asset.with_context(|| format!("an asset that the profile has not: {row}"))?.clone();
            let mut wrong = Vec::new();
            let pairs = wanted.get(&asset.name).map(|of| {
                [
                    ("existing", "existingUnits", &of.value.existing),
                    ("destroyed", "destroyedUnits", &of.value.destroyed),
                ]
            });
            for (path, field, wanted) in pairs.into_iter().flatten() {
                let Some(wanted) = wanted else { continue };
                let got: u64 = text(row, field)?.parse()?;
                wrong.extend(self.compared(
                    &format!("supply.{}.{path}", asset.name),
                    &wanted.value,
                    got,
                    wanted.referenced.line(),
                )?);
                verdict.looked(1, 0);
            }
            verdict.looked(0, wrong.len());
            let coins = |field: &str| {
                let units = row[field].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
                output::coins(units, asset.decimals)
            };
            let (existing, destroyed) = (coins("existingUnits"), coins("destroyedUnits"));
            let shown = format!("supply of {}: {existing} exist, {destroyed} were destroyed", asset.name);
            self.closing_line(json!({ "supply": asset.name, "of": row }), &wrong, &shown)?;
        }
        Ok(())
    }

    async fn balances(&mut self, verdict: &mut Verdict) -> Result<()> {
        for (account, wanted) in self.plan.closing.balances.clone() {
            let named = match account.split_once('.') {
                Some(_) => self.expanded(&Json::String(format!("${{{account}}}")), 1),
                None => self.expanded(&Json::String(format!("${{account:{account}}}")), 1),
            };
            let id = named.map_err(anyhow::Error::msg)?;
            let line = wanted.referenced.line();
            let (json, shown, wrong) = match self.balance(&id).await? {
                Some(units) => (
                    json!({ "balance": account, "units": units.to_string() }),
                    format!("{account} has {}", self.coins(&wanted.value, units)),
                    self.compared(&account, &wanted.value, units, line)?,
                ),
                None => {
                    let (wanted, got) = (wanted.value.as_str().into(), "no such account".into());
                    let wrong = expect::difference(line, &account, &wanted, &got);
                    (json!({ "balance": account }), format!("{account} was never opened"), Some(wrong))
                }
            };
            verdict.looked(1, usize::from(wrong.is_some()));
            self.closing_line(json, wrong.as_slice(), &shown)?;
        }
        Ok(())
    }

    /// The balance of an account, if there is one.
    async fn balance(&mut self, id: &Json) -> Result<Option<u64>> {
        let method = self.cluster.method("Ledger/GetAccount")?;
        match self.call(STAFF, By::Signature, &method, json!({ "account_id": id })).await? {
            Ok(told) => Ok(Some(text(&told["account"], "balanceUnits")?.parse()?)),
            Err(refused) if refused.reason == "ACCOUNT_NOT_FOUND" => Ok(None),
            Err(refused) => bail!("{id}: {}: {}", refused.reason, refused.message),
        }
    }

    /// An amount that is not as wanted.
    fn compared(&self, path: &str, wanted: &str, got: u64, line: u64) -> Result<Option<Json>> {
        let (compare, asset, units) =
            expect::amount(&self.plan.assets, wanted).map_err(anyhow::Error::msg)?;
        if expect::holds(compare, got, units) {
            return Ok(None);
        }
        let got = format!("{} {}", output::coins(got, asset.decimals), asset.name);
        Ok(Some(expect::difference(line, path, &wanted.into(), &got.into())))
    }

    /// Base units in the asset of what was wanted.
    fn coins(&self, wanted: &str, units: u64) -> String {
        match expect::amount(&self.plan.assets, wanted) {
            Ok((_, asset, _)) => format!("{} {}", output::coins(units, asset.decimals), asset.name),
            Err(_) => units.to_string(),
        }
    }

    fn closing_line(&self, mut json: Json, wrong: &[Json], shown: &str) -> Result<()> {
        if self.teller.is_json() {
            if !wrong.is_empty() {
                json["wrong"] = Json::Array(wrong.to_vec());
            }
            return line(&json);
        }
        output::text(&format!("           {shown}"))?;
        wrong.iter().try_for_each(|wrong| output::text(&format!("           WRONG {}", wrong_text(wrong))))
    }

    fn verdict(&self, verdict: &Verdict) -> Result<()> {
        let (name, looked, failed) = (&self.plan.name, verdict.expectations, verdict.failed);
        let said = if verdict.holds() { "holds" } else { "fails" };
        if self.teller.is_json() {
            return line(
                &json!({ "verdict": said, "scenario": name, "expectations": looked, "failed": failed }),
            );
        }
        output::text(&match failed {
            0 => format!("{name} holds: {looked} expectations, invariants and agreements"),
            failed => format!(
                "{name} FAILS: {failed} of {looked} expectations, invariants and agreements do not hold"
            ),
        })
    }
}
