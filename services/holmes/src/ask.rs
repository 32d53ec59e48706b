//! `holmes ask`: a question to the network, the words as they come, and beside them where they came from and what they
//! cost.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use holmes_kernel::Id;
use holmes_proto::inference::v1::generate_response::Part;
use holmes_proto::inference::v1::{
    ChatMessage, Conversation, Ended, GenerateRequest, GenerateResponse, GenerateWork, Sampling, Started,
    Terms, generate_work::Prompt,
};
use holmes_proto::ledger::v1::{Account, ListAccountsRequest, ListAccountsResponse};
use holmes_runtime::auth::Network;
use holmes_runtime::fresh_id;
use serde::Serialize;

use crate::client::{self, Client, Proof};
use crate::output::{self, Format};

/// What is asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  export HOLMES_API_KEY=hk_…
  holmes ask --model holmes-tiny \"Sort these numbers: 41, 7, 93, 18\"
  holmes ask --model smollm2-135m-instruct --most 200 \"Write a poem about logs\" > poem.txt
  holmes ask --model holmes-tiny -o json \"Sort these numbers: 41, 7\" | jq .price_micro_usd

The words go to stdout as they come; node, lease, price, receipts and balances to stderr. The renter's account and key are
made as docs/how-to/rent-inference.md says.")]
pub(crate) struct Args {
    /// The question.
    question: String,
    /// The model; `holmes call Inference/ListModels` lists them.
    #[arg(long)]
    model: String,
    /// Most tokens of the answer.
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
    /// Where the server's gRPC port is: http://HOST:PORT, or HOST:PORT.
    #[arg(long, default_value = "http://127.0.0.1:7070", env = "HOLMES_SERVER")]
    to: String,
    /// API key.
    #[arg(long, env = "HOLMES_API_KEY", hide_env_values = true)]
    key: String,
}

/// What is known of an answer when it is whole.
#[derive(Serialize)]
struct Answer {
    text: String,
    node: String,
    lease: String,
    session: String,
    finish: String,
    input_tokens: u32,
    output_tokens: u32,
    price_micro_usd: u64,
    most_micro_usd: u64,
    receipts: Vec<String>,
    balances: Vec<Balance>,
}

/// What an account has for other things, before and after.
#[derive(Serialize)]
struct Balance {
    account: String,
    asset: u32,
    before_units: u64,
    available_units: u64,
}

/// Asks, and prints the answer.
pub(crate) async fn run(args: Args, format: Format) -> Result<()> {
    if args.question.trim().is_empty() {
        bail!("the question is empty");
    }
    let nowhere = Network { genesis: [0; 16], cell: 0 }; // an API key signs nothing
    let client = Client::new(&args.to, nowhere, Proof::ApiKey(args.key.clone()))?;
    let before = match balances(&client).await {
        Ok(before) => before,
        Err(why) => return Err(client::wrong_port(&client::address(&args.to)?).await.unwrap_or(why)),
    };
    let id = fresh_id();
    let method = "holmes.inference.v1.Inference/Generate";
    let mut stream = client.stream(method, id, request(&args, id)).await?;
    let mut answer = follow(&mut stream, format == Format::Table).await?;
    // The answer is whole: a server that drains need not tell balances any more.
    let after = balances(&client).await.unwrap_or_default();
    answer.balances = before.iter().zip(&after).map(|(was, now)| balance(was, now)).collect();
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

fn balance(was: &Account, now: &Account) -> Balance {
    Balance {
        account: now.account_id.clone(),
        asset: now.asset,
        before_units: was.available_units,
        available_units: now.available_units,
    }
}

/// Tells all but the words, which stand on stdout already.
fn tell(answer: &Answer) {
    eprintln!();
    eprintln!("node      {}", answer.node);
    eprintln!("lease     {}", answer.lease);
    eprintln!("session   {}", answer.session);
    eprintln!("tokens    {} read, {} written", answer.input_tokens, answer.output_tokens);
    eprintln!(
        "price     {} micro-dollars, at most {} were asked for",
        answer.price_micro_usd, answer.most_micro_usd
    );
    for receipt in &answer.receipts {
        eprintln!("receipt   {receipt}");
    }
    for of in &answer.balances {
        eprintln!(
            "balance   account {}, asset {}: {} available before, {} now (holds are settled by the window)",
            of.account, of.asset, of.before_units, of.available_units
        );
    }
}

/// Follows a call to its end; prints words as they come where they are `shown`.
async fn follow(stream: &mut tonic::Streaming<GenerateResponse>, shown: bool) -> Result<Answer> {
    let (mut at, mut text) = (Started::default(), String::new());
    let mut out = std::io::stdout().lock();
    while let Some(message) = stream.message().await.context("the answer broke off")? {
        match message.part {
            Some(Part::Started(started)) => at = started,
            Some(Part::Tokens(tokens)) if shown => {
                out.write_all(tokens.text.as_bytes())?;
                out.flush()?;
            }
            Some(Part::Tokens(tokens)) => text.push_str(&tokens.text),
            Some(Part::Moved(moved)) => {
                eprintln!("\n(node {} was lost; {} goes on)", moved.lost_node_id, moved.node_id);
                (at.node_id, at.lease_id) = (moved.node_id, moved.lease_id);
            }
            Some(Part::Ended(ended)) => {
                if shown {
                    writeln!(out)?;
                }
                return Ok(answer(at, ended, text));
            }
            None => {}
        }
    }
    bail!("the answer broke off: the same request id tells what became of it")
}

fn answer(at: Started, ended: Ended, text: String) -> Answer {
    let usage = ended.usage.unwrap_or_default();
    Answer {
        text,
        node: at.node_id,
        lease: at.lease_id,
        session: at.session_id,
        finish: ended.reason().as_str_name().trim_start_matches("FINISH_REASON_").to_owned(),
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        price_micro_usd: ended.price_micro_usd,
        most_micro_usd: at.most_micro_usd,
        receipts: ended.receipts,
        balances: Vec::new(),
    }
}

async fn balances(client: &Client) -> Result<Vec<Account>> {
    let method = "holmes.ledger.v1.Ledger/ListAccounts";
    let all: ListAccountsResponse = client.ask(method, fresh_id(), ListAccountsRequest::default()).await?;
    Ok(all.accounts)
}

/// A seed of its own for every question.
fn seed(id: Id) -> u64 {
    let bytes = id.to_bytes();
    bytes[8..].iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}
