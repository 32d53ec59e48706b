//! What it all comes to: invoices, rewards, supply.

use anyhow::Result;
use holmes_proto::emission::v1 as emission;
use holmes_proto::ledger::v1 as ledger;
use holmes_proto::market::v1 as market;
use holmes_runtime::fresh_id;

use super::people::{DOLLAR, TOKEN};
use super::tell::{Teller, short};
use super::world::{self, World, until};
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
            tell.line(&format!(
                "{name}, session {}: {} calls, {} micro-dollars + {} fee + {} surcharge, charged {} {asset}",
                short(&session.session_id),
                session.calls,
                invoice.price_micro_usd,
                invoice.buyer_fee_micro_usd,
                invoice.surcharge_micro_usd,
                coins(session.charged_units, decimals)
            ))?;
            let row = |line: &market::InvoiceLine| {
                vec![
                    line.window.to_string(),
                    world.node_name(&line.node_id),
                    line.calls.to_string(),
                    line.input_tokens.to_string(),
                    line.output_tokens.to_string(),
                    line.price_micro_usd.to_string(),
                    format!("{} {asset}", coins(line.paid_units, decimals)),
                    line.credit().as_str_name().trim_start_matches("WORK_CREDIT_").to_lowercase(),
                ]
            };
            let columns = ["WINDOW", "NODE", "CALLS", "READ", "WRITTEN", "MICRO-USD", "NODE GOT", "CREDIT"];
            tell.table(&columns, &invoice.lines.iter().map(row).collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// Waits until the running epoch is closed, and shows what it paid (E-4).
pub(super) async fn epoch(tell: &Teller, world: &mut World) -> Result<()> {
    let staff = world.staff.clone();
    // The first epoch pays no base reward: nobody's stake was there from its beginning (E-4.6).
    let ours = world.epoch()?.max(2);
    let (length, left) = (world::EPOCH_S, world.epoch_ends_in(ours)?);
    tell.line(&format!("an epoch of this network has {length} s; epoch {ours} ends in {left} s"))?;
    let mut told = std::time::Instant::now();
    let closed = until(world, "the epoch's close", async || {
        if told.elapsed().as_secs() >= 15 {
            told = std::time::Instant::now();
            tell.line("waiting for its end; the nodes beat")?;
        }
        let question = emission::GetEpochRequest { epoch: ours };
        let method = "holmes.emission.v1.Emission/GetEpoch";
        let answer: Result<emission::GetEpochResponse> = staff.ask(method, fresh_id(), question).await;
        Ok(answer.ok().and_then(|answer| answer.epoch))
    })
    .await?;
    tell.line(&format!("epoch {} is closed, with {} active nodes", closed.epoch, closed.active_nodes))?;
    let row = |pool: &emission::PoolClose| {
        let hol = |units| coins(units, TOKEN.1);
        let name = pool.pool().as_str_name().trim_start_matches("POOL_").to_owned();
        vec![name, hol(pool.target_units), hol(pool.paid_units), hol(pool.remaining_units)]
    };
    let columns = ["POOL", "TARGET HOL", "PAID HOL", "REMAINS HOL"];
    tell.table(&columns, &closed.pools.iter().map(row).collect::<Vec<_>>())?;
    let mut rows = Vec::new();
    for operator in &world.operators {
        let node_id = operator.node_id().to_string();
        let method = "holmes.emission.v1.Emission/GetNodeRewards";
        let question = emission::GetNodeRewardsRequest { node_id };
        let of: emission::GetNodeRewardsResponse = operator.client.ask(method, fresh_id(), question).await?;
        rows.extend(of.rewards.iter().map(|reward| reward_row(operator.name, reward)));
    }
    rows.sort_by(|a, b| (&a[0], &a[1]).cmp(&(&b[0], &b[1])));
    let columns =
        ["EPOCH", "OPERATOR", "WORK UNITS", "BEATS", "TASK REWARD HOL", "BASE REWARD HOL", "WHY NOT MORE"];
    tell.table(&columns, &rows)?;
    tell.line("a quarter of a task reward is liquid, the rest unlocks by further work (E-5.1)")
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
