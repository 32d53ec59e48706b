//! `holmes wallet`: what a holder of tokens or dollars has, and how he sends some.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use holmes_kernel::{Id, PrincipalKind};
use holmes_proto::heard;
use holmes_proto::ledger::v1::{
    Account, Asset, CreateTransfersRequest, CreateTransfersResponse, GetSupplyRequest, GetSupplyResponse,
    ListAccountsRequest, ListAccountsResponse, OpenAccountRequest, OpenAccountResponse, Transfer,
    TransferCode, TransferKind, TransferResult,
};
use holmes_runtime::config::Config;
use holmes_runtime::fresh_id;
use serde::Serialize;

use crate::client::{Client, Proof};
use crate::output::{self, Format, coins, units};
use crate::profile;

/// What is done, and as whom.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes wallet balance --sign-with wallet.key
  holmes wallet open HOL --sign-with wallet.key
  holmes wallet send 12.5 --from ACCOUNT --to ACCOUNT --sign-with wallet.key

An API key sees what there is; it moves money only when it has the scope `admin`. A transfer that does not happen \
is exit code 1, with its reason on stderr; when the outcome is not known, the same --id makes sure that it happens \
once.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Where the server's gRPC port is: http://HOST:PORT, or HOST:PORT.
    #[arg(long, global = true, default_value = "http://127.0.0.1:7070", env = "HOLMES_SERVER")]
    server: String,
    /// API key.
    #[arg(long, global = true, env = "HOLMES_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Sign with this key file; no API key is sent then.
    #[arg(long, global = true, value_name = "FILE")]
    sign_with: Option<PathBuf>,
    /// Profile of the network, which a signature covers: a built-in name or a file.
    #[arg(long, global = true)]
    profile: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// What each account has.
    Balance,
    /// Open an account for an asset.
    Open {
        /// The asset's name, as in HOL or USD.
        asset: String,
    },
    /// Send an amount to an account.
    Send {
        /// How much, in whole coins: 12.5.
        amount: String,
        /// From which of your accounts.
        #[arg(long)]
        from: Id,
        /// To which account.
        #[arg(long)]
        to: Id,
        /// The transfer's id; by default a fresh one, told on stderr.
        #[arg(long)]
        id: Option<Id>,
    },
}

/// An account, as its holder reads it.
#[derive(Serialize)]
struct Row {
    account: String,
    asset: String,
    balance: String,
    available: String,
    held: String,
}

/// A transfer that happened.
#[derive(Serialize)]
struct Sent {
    transfer: String,
    asset: String,
    amount: String,
    burned: String,
}

/// Carries it out.
pub(crate) async fn run(args: Args, mut config: Config, format: Format) -> Result<()> {
    config.cell.profile = args.profile.clone().unwrap_or(config.cell.profile);
    let proof = Proof::of(args.sign_with.as_deref(), PrincipalKind::Account, args.key.as_deref())?;
    if matches!(proof, Proof::Nobody) {
        bail!("whose wallet? Name its key file (--sign-with) or an API key (--key)");
    }
    let client = Client::connected(&args.server, profile::network(&config)?, proof).await?;
    let wallet = Wallet::of(client);
    match args.action {
        Action::Balance => wallet.balance(format).await,
        Action::Open { asset } => wallet.open(&asset, format).await,
        Action::Send { amount, from, to, id } => wallet.send(&amount, (from, to), id, format).await,
    }
}

/// What a caller has in the ledger.
pub(crate) struct Wallet {
    client: Client,
}

impl Wallet {
    /// The wallet of whom a client speaks for.
    pub(crate) fn of(client: Client) -> Wallet {
        Wallet { client }
    }

    /// The assets that there are.
    pub(crate) async fn assets(&self) -> Result<Vec<Asset>> {
        let method = "holmes.ledger.v1.Ledger/GetSupply";
        let all: GetSupplyResponse = self.client.ask(method, fresh_id(), GetSupplyRequest {}).await?;
        Ok(all.supplies.into_iter().filter_map(|supply| supply.asset).collect())
    }

    /// All accounts of the caller, page by page.
    pub(crate) async fn accounts(&self) -> Result<Vec<Account>> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let asked = ListAccountsRequest { page_token, ..Default::default() };
            let method = "holmes.ledger.v1.Ledger/ListAccounts";
            let page: ListAccountsResponse = self.client.ask(method, fresh_id(), asked).await?;
            all.extend(page.accounts);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    async fn balance(&self, format: Format) -> Result<()> {
        let assets = self.assets().await?;
        let mut rows = Vec::new();
        for account in self.accounts().await? {
            let asset = asset(&assets, |asset| asset.id == account.asset)?;
            let shown = |units| coins(units, asset.decimals);
            rows.push(Row {
                account: account.account_id,
                asset: asset.name.clone(),
                balance: shown(account.balance_units),
                available: shown(account.available_units),
                held: shown(account.debits_pending_units),
            });
        }
        if rows.is_empty() {
            eprintln!("there is no account yet: `holmes wallet open HOL` opens one");
        }
        output::rows(format, &["ACCOUNT", "ASSET", "BALANCE", "AVAILABLE", "HELD"], &rows, |row| {
            [&row.account, &row.asset, &row.balance, &row.available, &row.held].map(String::clone).to_vec()
        })
    }

    async fn open(&self, name: &str, format: Format) -> Result<()> {
        let assets = self.assets().await?;
        let asset = asset(&assets, |asset| asset.name == name)?;
        let (id, account) = (fresh_id(), fresh_id());
        let asked = OpenAccountRequest {
            request_id: id.to_string(),
            account_id: account.to_string(),
            asset: asset.id,
            ..Default::default()
        };
        let method = "holmes.ledger.v1.Ledger/OpenAccount";
        let opened: OpenAccountResponse = self.client.ask(method, id, asked).await?;
        output::rows(format, &["ACCOUNT"], &[opened.account_id], |account| vec![account.clone()])
    }

    async fn send(&self, amount: &str, sides: (Id, Id), id: Option<Id>, format: Format) -> Result<()> {
        let from = sides.0.to_string();
        let account = self.accounts().await?.into_iter().find(|account| account.account_id == from);
        let account = account.with_context(|| {
            format!("--from {from} is no account of yours: `holmes wallet balance` lists them")
        })?;
        let assets = self.assets().await?;
        let asset = asset(&assets, |asset| asset.id == account.asset)?;
        let amount_units = units(amount, asset.decimals)
            .with_context(|| format!("{amount} is no amount of {}", asset.name))?;
        let id = id.unwrap_or_else(|| {
            let id = fresh_id();
            eprintln!("transfer {id}");
            id
        });
        let transfer = Transfer {
            transfer_id: id.to_string(),
            kind: TransferKind::Single.into(),
            debit_account_id: from,
            credit_account_id: sides.1.to_string(),
            amount_units,
            ..Default::default()
        };
        let result = self.carried_out(transfer).await?;
        let shown = |units| coins(units, asset.decimals);
        let sent = Sent {
            transfer: id.to_string(),
            asset: asset.name.clone(),
            amount: shown(result.amount_units),
            burned: shown(result.burned_units),
        };
        output::rows(format, &["TRANSFER", "ASSET", "AMOUNT", "BURNED"], &[sent], |sent| {
            [&sent.transfer, &sent.asset, &sent.amount, &sent.burned].map(String::clone).to_vec()
        })
    }

    /// A transfer that happened, now or before.
    async fn carried_out(&self, transfer: Transfer) -> Result<TransferResult> {
        let id = fresh_id();
        let transfers = vec![transfer];
        let asked = CreateTransfersRequest { request_id: id.to_string(), transfers, ..Default::default() };
        let method = "holmes.ledger.v1.Ledger/CreateTransfers";
        let told: CreateTransfersResponse = self.client.ask(method, id, asked).await?;
        let result = *told.results.first().context("the ledger has answered nothing")?;
        match heard::why(u8::try_from(result.code).unwrap_or_default()) {
            Some(reason) => bail!("nothing was sent: {}\n  reason: {reason}", in_words(result.code())),
            None => Ok(result),
        }
    }
}

/// What a transfer that did not happen means for who sends, and what helps.
fn in_words(code: TransferCode) -> &'static str {
    use TransferCode::*;
    match code {
        InsufficientFunds => {
            "less is available in the account than that: `holmes wallet balance` shows what is there; what is held for work \
             or a bond cannot be sent"
        }
        ExistsDifferent => {
            "the id (--id) names another transfer already: send this one without --id, and look whether the other one is \
             what you meant"
        }
        IdInvalid => "the id (--id) is no UUIDv7: leave it out, or make one with `holmes keys id`",
        IdExpired => {
            "the id (--id) is older than an hour, or from the future (E-2.3): look at the balance whether it happened then, \
             and if not, send it without --id"
        }
        WindowFull => "too many transfers within the last hour: wait some minutes, then send it again",
        SameAccount => "--from and --to are one account: name another one",
        CreditNotFound => {
            "there is no account --to: ask its owner for the id that `holmes wallet balance` shows"
        }
        DebitNotFound => "there is no account --from: `holmes wallet balance` lists yours",
        AssetMismatch => {
            "the account --to is one for another asset: ask its owner for the one of this asset (`holmes wallet open` makes \
             one)"
        }
        Forbidden => {
            "whoever signed may not take from this account: sign with its owner's key (--sign-with), or use an API key with the \
             scope admin"
        }
        ReservedAccount => {
            "external accounts move by deposits and withdrawals alone: ask who runs the network"
        }
        AccountClosed => "one of the two accounts is closed: name another one",
        AccountFrozen => "the account --from is frozen: ask who runs the network",
        RateLimited => "that is more than this account's limit lets go now: send less, or wait",
        BalanceOverflow => "the account --to cannot hold so much: send less",
        NetZero => "nothing of it would be left after the burn (E-2.4): send more",
        SystemDebit => "the account --from is the platform's, and only its service disposes of it",
        SystemCredit => {
            "the account --to is the platform's, and only its service pays into it: offer it a hold instead (docs/how-to/operate-a-node.md \
             shows one)"
        }
        // Of kinds of transfers that a wallet does not send, or none at all: the reason says what is known.
        Unspecified | Ok | Exists | AmountZero | LinkedFailed | HoldNotFound | HoldEnded | ExceedsHold
        | TimeoutInvalid | TooManyHolds => "the ledger refused it",
    }
}

/// The one of the assets that is wanted.
pub(crate) fn asset(assets: &[Asset], wanted: impl Fn(&Asset) -> bool) -> Result<&Asset> {
    let names = || assets.iter().map(|asset| asset.name.as_str()).collect::<Vec<_>>().join(", ");
    assets
        .iter()
        .find(|asset| wanted(asset))
        .with_context(|| format!("no such asset; there are: {}", names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_a_transfer_that_a_wallet_sends_says_what_helps() {
        use TransferCode::*;
        for code in [
            ExistsDifferent,
            IdInvalid,
            IdExpired,
            WindowFull,
            SameAccount,
            DebitNotFound,
            CreditNotFound,
            AssetMismatch,
            Forbidden,
            ReservedAccount,
            AccountClosed,
            AccountFrozen,
            InsufficientFunds,
            RateLimited,
            BalanceOverflow,
            NetZero,
            SystemDebit,
            SystemCredit,
        ] {
            assert!(
                in_words(code).split(' ').count() > 7 && in_words(code) != in_words(Unspecified),
                "{code:?}"
            );
        }
    }
}
