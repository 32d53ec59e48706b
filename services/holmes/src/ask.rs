//! `holmes ask`: a question to the network, the words as they come, and beside them where they came from and what they
//! cost.

use std::io::Write as _;

use anyhow::{Context as _, Result, anyhow, bail};
use holmes_kernel::Id;
use holmes_proto::inference::v1::generate_response::Part;
use holmes_proto::inference::v1::{
    ChatMessage, Conversation, Ended, GenerateRequest, GenerateResponse, GenerateWork, Sampling, Started,
    Terms, generate_work::Prompt,
};
use holmes_proto::ledger::v1::{Account, Asset};
use holmes_runtime::auth::Network;
use holmes_runtime::fresh_id;
use serde::Serialize;

use crate::client::{self, Client, Proof};
use crate::output::{self, Format, coins};
use crate::serve;
use crate::wallet::{self, Wallet};

/// What is asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  export HOLMES_API_KEY=hk_…
  holmes ask --model holmes-tiny \"Sort these numbers: 41, 7, 93, 18\"
  holmes ask --model smollm2-135m-instruct --most 200 \"Write a poem about logs\" > poem.txt
  holmes ask --model holmes-tiny -o json \"Sort these numbers: 41, 7\" | jq .price_micro_usd

The words go to stdout as they come; node, lease, price, receipts and balances to stderr. The renter's account and key are \
made as docs/how-to/rent-inference.md says. When an answer breaks off, what was delivered is billed; the question asked \
again with its --request-id does not run twice, but is refused with the name of the receipt.")]
pub(crate) struct Args {
    /// The question.
    question: String,
    /// The model; `holmes call Inference/ListModels` lists them.
    #[arg(long)]
    model: String,
    /// Most tokens of the answer; 0 for as many as fit behind the question, which is the most that it can cost.
    #[arg(long, default_value_t = 128)]
    most: u32,
    /// 0 for always the likeliest word.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Asset that pays: USD, or the network's token.
    #[arg(long, default_value = "USD")]
    asset: String,
    /// Refuse when it could cost more, micro-dollars; 0 for no limit.
    #[arg(long, default_value_t = 0)]
    max_price: u64,
    /// The call's id; by default a fresh one, told on stderr.
    #[arg(long, value_name = "ID")]
    request_id: Option<Id>,
    /// Where the server's gRPC port is: http://HOST:PORT, or HOST:PORT.
    #[arg(long, alias = "to", default_value = "http://127.0.0.1:7070", env = "HOLMES_SERVER")]
    server: String,
    /// API key.
    #[arg(long, env = "HOLMES_API_KEY", hide_env_values = true)]
    key: String,
}

/// What is known of an answer when it is whole.
#[derive(Serialize)]
struct Answer {
    request_id: String,
    text: String,
    node: String,
    lease: String,
    session: String,
    finish: String,
    input_tokens: u32,
    /// What is billed.
    output_tokens: u32,
    /// What came: more than is billed where a node was lost.
    delivered_tokens: usize,
    price_micro_usd: u64,
    most_micro_usd: u64,
    receipts: Vec<String>,
    balances: Vec<Balance>,
}

/// What an account has for other things before and after, and what is held in it now, in whole coins.
#[derive(Debug, PartialEq, Serialize)]
struct Balance {
    account: String,
    asset: String,
    before: String,
    available: String,
    held: String,
}

/// Asks, and prints the answer.
pub(crate) async fn run(args: Args, format: Format) -> Result<()> {
    if args.question.trim().is_empty() {
        bail!("the question is empty");
    }
    let nowhere = Network { genesis: [0; 16], cell: 0 }; // an API key signs nothing
    let client = Client::connected(&args.server, nowhere, Proof::ApiKey(args.key.clone())).await?;
    let wallet = Wallet::of(client.clone());
    let before = wallet.accounts().await?;
    let assets = wallet.assets().await?;
    let id = args.request_id.unwrap_or_else(fresh_id);
    eprintln!("request   {id}");
    let method = "holmes.inference.v1.Inference/Generate";
    let mut stream = match client.stream(method, id, request(&args, id)).await {
        Err(why) if client::is_reason(&why, "INSUFFICIENT_FUNDS") => {
            return Err(anyhow!("{why:#}\n  {}", there_is(&balances(&before, &before, &assets))));
        }
        stream => stream?,
    };
    let mut answer = tokio::select! {
        answer = follow(&client, &mut stream, format == Format::Table) => answer,
        stopped = serve::signal() => stopped.and(Err(anyhow!("you have stopped the answer; what was delivered is billed"))),
    }
    .map_err(|why| anyhow!("{why:#}\n  {}", what_became(id)))?;
    answer.request_id = id.to_string();
    // The answer is whole: a server that drains need not tell balances any more.
    let after = wallet.accounts().await.unwrap_or_default();
    answer.balances = balances(&before, &after, &assets);
    match format {
        Format::Table => tell(&answer),
        Format::Json => output::text(&serde_json::to_string_pretty(&answer)?)?,
    }
    Ok(())
}

fn request(args: &Args, id: Id) -> GenerateRequest {
    let message = ChatMessage { role: "user".into(), content: args.question.clone() };
    let sampling = Sampling { temperature: args.temperature, seed: seed(id), ..Default::default() };
    let (asset, max_price_micro_usd) = (args.asset.clone(), args.max_price);
    GenerateRequest {
        request_id: id.to_string(),
        model: args.model.clone(),
        work: Some(GenerateWork {
            prompt: Some(Prompt::Chat(Conversation { messages: vec![message] })),
            max_tokens: args.most,
            sampling: Some(sampling),
            ..Default::default()
        }),
        terms: Some(Terms { asset, max_price_micro_usd, ..Default::default() }),
    }
}

/// Accounts as they were and as they are; one that there was not before began with nothing.
fn balances(before: &[Account], after: &[Account], assets: &[Asset]) -> Vec<Balance> {
    let balance = |now: &Account| {
        let asset = wallet::asset(assets, |asset| asset.id == now.asset).ok()?;
        let was = before.iter().find(|was| was.account_id == now.account_id);
        let shown = |units| coins(units, asset.decimals);
        Some(Balance {
            account: now.account_id.clone(),
            asset: asset.name.clone(),
            before: shown(was.map_or(0, |was| was.available_units)),
            available: shown(now.available_units),
            held: shown(now.debits_pending_units),
        })
    };
    after.iter().filter_map(balance).collect()
}

/// What a renter has who has not enough.
fn there_is(balances: &[Balance]) -> String {
    if balances.is_empty() {
        return "you have no account yet: docs/how-to/rent-inference.md opens one".into();
    }
    let of = |of: &Balance| format!("{} {} in account {}", of.available, of.asset, of.account);
    format!("available are {}", balances.iter().map(of).collect::<Vec<_>>().join(", "))
}

/// Tells all but the words, which stand on stdout already.
fn tell(answer: &Answer) {
    eprintln!();
    eprintln!("node      {}", answer.node);
    eprintln!("lease     {}", answer.lease);
    eprintln!("session   {}", answer.session);
    eprintln!("tokens    {} read, {}", answer.input_tokens, written(answer));
    eprintln!(
        "price     {} micro-dollars, at most {} were asked for",
        answer.price_micro_usd, answer.most_micro_usd
    );
    for receipt in &answer.receipts {
        eprintln!("receipt   {receipt}");
    }
    for of in &answer.balances {
        eprintln!(
            "balance   account {}: {} {asset} available, {} {asset} held; {} {asset} were available before. A session's hold pays \
             for many calls, and what they do not cost comes back when it ends",
            of.account,
            of.available,
            of.held,
            of.before,
            asset = of.asset
        );
    }
}

/// What was written, and what of it is billed: a node that is lost is paid for what it has signed, and what it delivered
/// beyond that is nobody's debt.
fn written(answer: &Answer) -> String {
    let (delivered, billed) = (answer.delivered_tokens, answer.output_tokens);
    match unsigned(delivered, billed) {
        0 => format!("{billed} written"),
        free => format!(
            "{delivered} written, {billed} billed: the lost node had not signed the other {free}, and unsigned tokens are free"
        ),
    }
}

/// How many tokens of an answer a lost node had delivered and not signed. A node that signs ahead of what arrives leaves
/// none.
pub(crate) fn unsigned(delivered: usize, billed: u32) -> usize {
    delivered.saturating_sub(billed as usize)
}

/// How to learn what became of a call whose end was not heard.
fn what_became(id: Id) -> String {
    format!(
        "request {id}: ask the same again with --request-id {id}; it does not run twice, but is refused (CALL_EXISTS) with the \
         name of its receipt once there is one, and `holmes call Inference/GetReceipt` shows that"
    )
}

/// Follows a call to its end; prints words as they come where they are `shown`.
async fn follow(
    client: &Client,
    stream: &mut tonic::Streaming<GenerateResponse>,
    shown: bool,
) -> Result<Answer> {
    let (mut at, mut text, mut seen) = (Started::default(), String::new(), 0);
    let mut out = std::io::stdout().lock();
    while let Some(message) = client.next(stream).await.context("the answer broke off")? {
        match message.part {
            Some(Part::Started(started)) => at = started,
            Some(Part::Tokens(tokens)) => {
                seen += tokens.ids.len();
                text.push_str(&tokens.text);
                if shown {
                    out.write_all(tokens.text.as_bytes())?;
                    out.flush()?;
                }
            }
            Some(Part::Moved(moved)) => {
                let (lost, goes_on) = (&moved.lost_node_id, &moved.node_id);
                eprintln!("\n(node {lost} was lost; {goes_on} goes on from token {seen})");
                (at.node_id, at.lease_id) = (moved.node_id, moved.lease_id);
            }
            Some(Part::Ended(ended)) => {
                if shown {
                    writeln!(out)?;
                }
                return Ok(answer(at, ended, text, seen));
            }
            None => {}
        }
    }
    bail!("the answer broke off without an end")
}

fn answer(at: Started, ended: Ended, text: String, delivered_tokens: usize) -> Answer {
    let usage = ended.usage.unwrap_or_default();
    Answer {
        request_id: String::new(),
        text,
        node: at.node_id,
        lease: at.lease_id,
        session: at.session_id,
        finish: ended.reason().as_str_name().trim_start_matches("FINISH_REASON_").to_owned(),
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        delivered_tokens,
        price_micro_usd: ended.price_micro_usd,
        most_micro_usd: at.most_micro_usd,
        receipts: ended.receipts,
        balances: Vec::new(),
    }
}

/// A seed of its own for every question.
fn seed(id: Id) -> u64 {
    let bytes = id.to_bytes();
    bytes[8..].iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use holmes_proto::inference::v1::Usage;

    use super::*;

    #[test]
    fn balances_are_told_in_coins_account_by_account() {
        let assets = [
            Asset { id: 1, name: "HOL".into(), decimals: 9, ..Asset::default() },
            Asset { id: 2, name: "USD".into(), decimals: 6, ..Asset::default() },
        ];
        let account = |id: &str, asset, available_units| Account {
            account_id: id.into(),
            asset,
            available_units,
            debits_pending_units: available_units / 2,
            ..Account::default()
        };
        let before = [account("a", 2, 5_000_000)];
        let after = [account("b", 1, 7), account("a", 2, 4_000_000)];
        let told = balances(&before, &after, &assets);
        let row = |account: &str, asset: &str, before: &str, available: &str, held: &str| Balance {
            account: account.into(),
            asset: asset.into(),
            before: before.into(),
            available: available.into(),
            held: held.into(),
        };
        assert_eq!(
            told,
            [
                row("b", "HOL", "0.000000000", "0.000000007", "0.000000003"),
                row("a", "USD", "5.000000", "4.000000", "2.000000")
            ]
        );
        assert_eq!(there_is(&told[1..]), "available are 4.000000 USD in account a");
    }

    #[test]
    fn tokens_of_a_lost_node_that_it_had_not_signed_are_told_as_delivered_and_free() {
        let of = |delivered, output_tokens| {
            let usage = Some(Usage { output_tokens, ..Usage::default() });
            let ended = Ended { usage, ..Ended::default() };
            written(&answer(Started::default(), ended, String::new(), delivered))
        };
        assert_eq!(of(14, 14), "14 written");
        assert_eq!(
            of(180, 172),
            "180 written, 172 billed: the lost node had not signed the other 8, and unsigned tokens are free"
        );
    }

    #[test]
    fn a_call_whose_end_was_not_heard_is_named_with_the_way_to_its_receipt() {
        let id: Id = "0192f3a0-7c1d-7b43-9b0e-3f1d2c4b5a69".parse().unwrap();
        let told = what_became(id);
        for words in
            ["--request-id 0192f3a0-7c1d-7b43-9b0e-3f1d2c4b5a69", "CALL_EXISTS", "Inference/GetReceipt"]
        {
            assert!(told.contains(words), "{told}");
        }
    }
}
