//! What it all comes to: invoices, rewards, supply.

use anyhow::Result;
use holmes_proto::ledger::v1 as ledger;
use holmes_proto::market::v1 as market;
use holmes_runtime::fresh_id;

use super::people::{DOLLAR, TOKEN};
use super::tell::{Teller, coins, short};
use super::world::{World, until};

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
