//! `holmes ask`: a question to the network, the words as they come, and beside them where they came from and what they
//! cost.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use holmes_proto::inference::v1::generate_response::Part;
use holmes_proto::inference::v1::{
    ChatMessage, Conversation, Ended, GenerateRequest, GenerateResponse, GenerateWork, Sampling, Started,
    Terms, generate_work::Prompt,
};
use holmes_proto::ledger::v1::{Account, ListAccountsRequest, ListAccountsResponse};
use holmes_runtime::auth::Network;
use holmes_runtime::fresh_id;

use crate::client::{self, Client, Proof};

/// What is asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  export HOLMES_API_KEY=hk_…
  holmes ask --model holmes-tiny \"Sort these numbers: 41, 7, 93, 18\"
  holmes ask --model smollm2-135m-instruct --most 200 \"Write a poem about logs\" > poem.txt

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

/// Asks, and prints the answer.
pub(crate) async fn run(args: Args) -> Result<()> {
    let nowhere = Network { genesis: [0; 16], cell: 0 }; // an API key signs nothing
    let client = Client::new(&args.to, nowhere, Proof::ApiKey(args.key.clone()))?;
    let before = match balances(&client).await {
        Ok(before) => before,
        Err(why) => return Err(client::wrong_port(&client::address(&args.to)?).await.unwrap_or(why)),
    };
    let id = fresh_id();
    let message = ChatMessage { role: "user".into(), content: args.question.clone() };
    let request = GenerateRequest {
        request_id: id.to_string(),
        model: args.model.clone(),
        work: Some(GenerateWork {
            prompt: Some(Prompt::Chat(Conversation { messages: vec![message] })),
            max_tokens: args.most,
            sampling: Some(Sampling { temperature: args.temperature, seed: seed(id), ..Default::default() }),
            ..Default::default()
        }),
        terms: Some(Terms { asset: args.asset, max_price_micro_usd: args.max_price, ..Default::default() }),
    };
    let mut stream = client.stream("holmes.inference.v1.Inference/Generate", id, request).await?;
    let (started, ended) = follow(&mut stream).await?;
    let usage = ended.usage.unwrap_or_default();
    eprintln!();
    eprintln!("node      {}", started.node_id);
    eprintln!("lease     {}", started.lease_id);
    eprintln!("session   {}", started.session_id);
    eprintln!("tokens    {} read, {} written", usage.input_tokens, usage.output_tokens);
    eprintln!(
        "price     {} micro-dollars, at most {} were asked for",
        ended.price_micro_usd, started.most_micro_usd
    );
    for receipt in &ended.receipts {
        eprintln!("receipt   {receipt}");
    }
    // The answer is whole: a server that drains need not tell balances any more.
    for (was, now) in before.iter().zip(balances(&client).await.unwrap_or_default()) {
        eprintln!(
            "balance   account {}, asset {}: {} available before, {} now (holds are settled by the window)",
            now.account_id, now.asset, was.available_units, now.available_units
        );
    }
    Ok(())
}

/// Prints words as they come; answers where the call ran last and how it ended.
async fn follow(stream: &mut tonic::Streaming<GenerateResponse>) -> Result<(Started, Ended)> {
    let mut at = Started::default();
    let mut out = std::io::stdout().lock();
    while let Some(message) = stream.message().await.context("the answer broke off")? {
        match message.part {
            Some(Part::Started(started)) => at = started,
            Some(Part::Tokens(tokens)) => {
                out.write_all(tokens.text.as_bytes())?;
                out.flush()?;
            }
            Some(Part::Moved(moved)) => {
                eprintln!("\n(node {} was lost; {} goes on)", moved.lost_node_id, moved.node_id);
                (at.node_id, at.lease_id) = (moved.node_id, moved.lease_id);
            }
            Some(Part::Ended(ended)) => {
                writeln!(out)?;
                return Ok((at, ended));
            }
            None => {}
        }
    }
    bail!("the answer broke off: the same request id tells what became of it")
}

async fn balances(client: &Client) -> Result<Vec<Account>> {
    let method = "holmes.ledger.v1.Ledger/ListAccounts";
    let all: ListAccountsResponse = client.ask(method, fresh_id(), ListAccountsRequest::default()).await?;
    Ok(all.accounts)
}

/// A seed of its own for every question.
fn seed(id: holmes_kernel::Id) -> u64 {
    let bytes = id.to_bytes();
    bytes[8..].iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}
