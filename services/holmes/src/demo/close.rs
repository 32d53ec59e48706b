//! What it all comes to: invoices, rewards, supply.

use anyhow::{Context as _, Result, ensure};
use holmes_proto::emission::v1 as emission;
use holmes_proto::ledger::v1 as ledger;
use holmes_proto::market::v1 as market;
use holmes_runtime::fresh_id;

use super::people::{DOLLAR, TOKEN};
use super::tell::{Teller, short};
use super::world::{self, World, until};
use crate::client::Client;
use crate::output::coins;

/// Every renter closes its sessions; the market pays what was metered and gives the rest of the holds back.
pub(super) async fn invoices(tell: &Teller, world: &mut World) -> Result<()> {
    for at in 0..world.renters.len() {
        let (client, name, asset) =
            (world.renters[at].client.clone(), world.renters[at].name, world.renters[at].asset);
        let decimals = if asset == "HOL" { TOKEN.1 } else { DOLLAR.1 };
        let method = "holmes.market.v1.Market/ListSessions";
        let list: market::ListSessionsResponse =
            client.ask(method, fresh_id(), market::ListSessionsRequest::default()).await?;
        for session in list.sessions {
            let id = fresh_id();
            let close = market::CloseSessionRequest {
                request_id: id.to_string(),
                session_id: session.session_id.clone(),
            };
            let _: market::CloseSessionResponse =
                client.ask("holmes.market.v1.Market/CloseSession", id, close).await?;
            let invoice = until(world, "a session's close", async || {
                let question = market::GetInvoiceRequest { session_id: session.session_id.clone() };
                let invoice: market::GetInvoiceResponse =
                    client.ask("holmes.market.v1.Market/GetInvoice", fresh_id(), question).await?;
                let closed =
                    invoice.session.as_ref().is_some_and(|s| s.state() == market::SessionState::Closed);
                Ok(closed.then_some(invoice))
            })
            .await?;
            let session = invoice.session.clone().unwrap_or_default();
            let at = match session.token_price_micro_usd {
                0 => String::new(),
                price => format!(", at {} USD a {asset}", coins(price, DOLLAR.1)),
            };
            tell.line(&format!(
                "{name}, session {}: {} calls, {} micro-dollars + {} fee + {} surcharge, charged {} {asset}{at}",
                short(&session.session_id),
                session.calls,
                invoice.price_micro_usd,
                invoice.buyer_fee_micro_usd,
                invoice.surcharge_micro_usd,
                coins(session.charged_units, decimals)
            ))?;
            let got = format!("NODE GOT {asset}");
            let columns = [
                "WINDOW",
                "NODE",
                "CALLS",
                "TOKENS READ",
                "TOKENS WRITTEN",
                "PRICE MICRO-USD",
                &got,
                "CREDIT",
            ];
            tell.table(&columns, &invoice_rows(&invoice.lines, decimals, |node| world.node_name(node)))?;
        }
    }
    Ok(())
}

/// A row for every line of an invoice, and their sums.
fn invoice_rows(
    lines: &[market::InvoiceLine],
    decimals: u32,
    node_name: impl Fn(&str) -> String,
) -> Vec<Vec<String>> {
    let numbers = |line: &market::InvoiceLine| {
        [line.calls, line.input_tokens, line.output_tokens, line.price_micro_usd, line.paid_units]
    };
    let cells = |window: String, node: String, of: [u64; 5], credit: String| {
        let [calls, read, written, price, paid] = of;
        let counted = [calls, read, written, price].map(|number| number.to_string());
        [vec![window, node], counted.to_vec(), vec![coins(paid, decimals), credit]].concat()
    };
    let row = |line: &market::InvoiceLine| {
        let credit = line.credit().as_str_name().trim_start_matches("WORK_CREDIT_").to_lowercase();
        cells(line.window.to_string(), node_name(&line.node_id), numbers(line), credit)
    };
    let mut sums = [0; 5];
    for line in lines {
        for (sum, number) in sums.iter_mut().zip(numbers(line)) {
            *sum += number;
        }
    }
    let all = cells("all".into(), String::new(), sums, String::new());
    lines.iter().map(row).chain([all]).collect()
}

/// Waits until the running epoch is closed, and shows what it paid (E-4).
pub(super) async fn epoch(tell: &Teller, world: &mut World) -> Result<()> {
    let staff = world.staff.clone();
    // The first epoch pays no base reward: nobody's stake was there from its beginning (E-4.6).
    let ours = world.epoch()?.max(2);
    let (length, left) = (world::EPOCH_S, world.epoch_ends_in(ours)?);
    tell.line(&format!(
        "an epoch of this network lasts {length} s, and its nodes beat once a second; epoch {ours} ends in {left} s"
    ))?;
    let mut told = std::time::Instant::now();
    let closed = until(world, "the epoch's close", async || {
        if told.elapsed().as_secs() >= 15 {
            told = std::time::Instant::now();
            tell.line("waiting for its end; the nodes beat")?;
        }
        Ok(of_epoch(&staff, ours).await.ok())
    })
    .await?;
    tell.line(&format!("epoch {} is closed, with {} active nodes", closed.epoch, closed.active_nodes))?;
    let mut epochs = Vec::new();
    for epoch in 1..=closed.epoch {
        epochs.push(if epoch == closed.epoch { closed.clone() } else { of_epoch(&staff, epoch).await? });
    }
    let columns = ["EPOCH", "POOL", "TARGET HOL", "PAID HOL", "REMAINS HOL"];
    tell.table(&columns, &epochs.iter().flat_map(pool_rows).collect::<Vec<_>>())?;
    let rows = rewards(world, &epochs).await?;
    let columns = [
        "EPOCH",
        "OPERATOR",
        "WORK UNITS",
        "BEATS SEEN",
        "TASK REWARD HOL",
        "BASE REWARD HOL",
        "WHY NOT MORE",
    ];
    tell.table(&columns, &rows)?;
    tell.line("an epoch's task rewards add up to what TRR paid in it, its base rewards to BR's (E-4.6)")?;
    tell.line("a quarter of a task reward is liquid, the rest unlocks by further work (E-5.1)")
}

/// What every operator got in these epochs. Rewards are granted just behind an epoch's figures: they are there when they
/// add up.
async fn rewards(world: &mut World, epochs: &[emission::Epoch]) -> Result<Vec<Vec<String>>> {
    let nodes: Vec<_> =
        world.operators.iter().map(|of| (of.name, of.client.clone(), of.node_id().to_string())).collect();
    let last = epochs.iter().map(|of| of.epoch).max().unwrap_or_default();
    let mut rewards = until(world, "the epoch's rewards", async || {
        let mut found = Vec::new();
        for (name, client, node_id) in &nodes {
            let method = "holmes.emission.v1.Emission/GetNodeRewards";
            let question = emission::GetNodeRewardsRequest { node_id: node_id.clone() };
            let of: emission::GetNodeRewardsResponse = client.ask(method, fresh_id(), question).await?;
            found.extend(of.rewards.into_iter().filter(|of| of.epoch <= last).map(|of| (of, *name)));
        }
        adds_up(epochs, found.iter().map(|(of, _)| of))?;
        Ok(Some(found))
    })
    .await?;
    rewards.sort_by_key(|(reward, name)| (reward.epoch, *name));
    Ok(rewards.iter().map(|(reward, name)| reward_row(name, reward)).collect())
}

/// How an epoch was closed.
async fn of_epoch(staff: &Client, epoch: u64) -> Result<emission::Epoch> {
    let method = "holmes.emission.v1.Emission/GetEpoch";
    let question = emission::GetEpochRequest { epoch };
    let answer: emission::GetEpochResponse = staff.ask(method, fresh_id(), question).await?;
    answer.epoch.with_context(|| format!("epoch {epoch} is not closed"))
}

fn pool_rows(of: &emission::Epoch) -> Vec<Vec<String>> {
    let hol = |units| coins(units, TOKEN.1);
    let row = |pool: &emission::PoolClose| {
        let name = pool.pool().as_str_name().trim_start_matches("POOL_").to_owned();
        let amounts = [pool.target_units, pool.paid_units, pool.remaining_units].map(hol);
        [vec![of.epoch.to_string(), name], amounts.to_vec()].concat()
    };
    of.pools.iter().map(row).collect()
}

/// Whether what the nodes got in each epoch is what its pools paid (E-0.4: to the unit).
fn adds_up<'a>(
    epochs: &[emission::Epoch],
    rewards: impl Iterator<Item = &'a emission::NodeReward> + Clone,
) -> Result<()> {
    for epoch in epochs {
        let got = |units: fn(&emission::NodeReward) -> u64| -> u64 {
            rewards.clone().filter(|reward| reward.epoch == epoch.epoch).map(units).sum()
        };
        for (pool, got) in
            [(emission::Pool::Trr, got(|of| of.trr_units)), (emission::Pool::Br, got(|of| of.br_units))]
        {
            let paid: u64 = epoch.pools.iter().filter(|of| of.pool() == pool).map(|of| of.paid_units).sum();
            ensure!(
                paid == got,
                "epoch {}: {pool:?} paid {paid} base units, the nodes got {got}",
                epoch.epoch
            );
        }
    }
    Ok(())
}

fn reward_row(operator: &str, reward: &emission::NodeReward) -> Vec<String> {
    let reasons = [&reward.no_trr_reason, &reward.no_br_reason].map(|reason| reason.to_lowercase());
    let mut why: Vec<String> = reasons.into_iter().filter(|reason| !reason.is_empty()).collect();
    if reward.cut_units > 0 {
        why.push(format!(
            "κ cut {} HOL: fees bound what work earns (E-3.2)",
            coins(reward.cut_units, TOKEN.1)
        ));
    }
    vec![
        reward.epoch.to_string(),
        operator.to_owned(),
        reward.full_units.clone(),
        reward.beats_seen.to_string(),
        coins(reward.trr_units, TOKEN.1),
        coins(reward.br_units, TOKEN.1),
        why.join(", "),
    ]
}

/// The supply before the requests and now: nothing came into being, nothing is lost (E-1.1).
pub(super) fn supply(tell: &Teller, before: &[ledger::Supply], after: &[ledger::Supply]) -> Result<()> {
    let row = |now: &ledger::Supply| {
        let asset = now.asset.clone().unwrap_or_default();
        let then = before.iter().find(|then| then.asset == now.asset).cloned().unwrap_or_default();
        let shown = |units| coins(units, asset.decimals);
        let cap = if asset.cap_units == 0 { "from outside".into() } else { shown(asset.cap_units) };
        vec![
            asset.name.clone(),
            cap,
            shown(then.existing_units),
            shown(now.existing_units),
            shown(now.destroyed_units),
        ]
    };
    let columns = ["ASSET", "CAP", "EXISTED BEFORE", "EXISTS NOW", "DESTROYED"];
    tell.table(&columns, &after.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u64, trr: u64, br: u64) -> emission::Epoch {
        let pool = |pool: emission::Pool, paid_units| emission::PoolClose {
            pool: pool.into(),
            paid_units,
            ..Default::default()
        };
        let pools = vec![pool(emission::Pool::Trr, trr), pool(emission::Pool::Br, br)];
        emission::Epoch { epoch: number, pools, ..Default::default() }
    }

    #[test]
    fn the_pools_of_every_epoch_carry_its_number() {
        let rows: Vec<_> = [epoch(1, 1, 2), epoch(2, 3, 4)].iter().flat_map(pool_rows).collect();
        let heads: Vec<_> =
            rows.iter().map(|row| (row[0].as_str(), row[1].as_str(), row[3].as_str())).collect();
        let expected = [
            ("1", "TRR", "0.000000001"),
            ("1", "BR", "0.000000002"),
            ("2", "TRR", "0.000000003"),
            ("2", "BR", "0.000000004"),
        ];
        assert_eq!(heads, expected);
    }

    #[test]
    fn what_the_nodes_got_is_held_against_what_the_pools_paid() {
        let reward = |epoch, trr_units, br_units| emission::NodeReward {
            epoch,
            trr_units,
            br_units,
            ..Default::default()
        };
        let rewards = [reward(1, 2, 0), reward(1, 3, 1), reward(2, 0, 9)];
        adds_up(&[epoch(1, 5, 1), epoch(2, 0, 9)], rewards.iter()).unwrap();
        let why = adds_up(&[epoch(1, 5, 1), epoch(2, 1, 9)], rewards.iter()).unwrap_err().to_string();
        assert!(why.contains("epoch 2: Trr paid 1"), "{why}");
    }

    #[test]
    fn an_invoice_ends_with_its_sums() {
        let line = |window, calls, price_micro_usd, paid_units| market::InvoiceLine {
            window,
            calls,
            price_micro_usd,
            paid_units,
            ..Default::default()
        };
        let rows = invoice_rows(&[line(1, 2, 30, 29), line(2, 5, 7, 6)], 6, str::to_owned);
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[2], ["all", "", "7", "0", "0", "37", "0.000035", ""].map(str::to_owned).to_vec());
    }
}
