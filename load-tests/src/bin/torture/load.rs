//! Load: callers that move money in singles and batches, note what each was answered, and ask again with the same request
//! id where they were not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use holmes_kernel::Id;
use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::ledger_client::LedgerClient;
use holmes_runtime::fresh_id;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::server::Server;
use crate::world::World;

/// Callers at once.
const CALLERS: u64 = 8;
/// Transfers of the batches: one command, and several.
const BATCHES: [usize; 2] = [8, 2_000];
/// What the payer starts with: more than is ever moved, a unit at a time.
const FUNDS: u64 = 1_000_000_000;

/// Whose money it is, and where it goes.
#[derive(Clone)]
pub(crate) struct Payer {
    key: String,
    from: String,
    to: String,
    /// How far the callers' clock is off, ms: ids carry their time.
    pub(crate) offset_ms: Arc<AtomicI64>,
}

/// A request, and what became of it.
pub(crate) struct Order {
    pub(crate) request: Id,
    pub(crate) transfers: Vec<Id>,
    /// The first answer; `None` while there is none.
    pub(crate) answer: Option<wire::CreateTransfersResponse>,
    /// Why there is none.
    pub(crate) why_not: Option<Status>,
}

/// How callers ask.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// How long a caller waits for an answer.
    pub(crate) deadline: Duration,
    /// How many refusals a caller takes before it stops.
    pub(crate) refusals: u32,
    /// Most transfers of a request.
    pub(crate) largest: usize,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner { deadline: Duration::from_secs(20), refusals: 1, largest: BATCHES[1] }
    }
}

impl Payer {
    /// Makes a renter with a key, and two accounts in dollars: one full, one empty.
    pub(crate) fn new(world: &World, server: &Server) -> Result<Payer> {
        let id = || fresh_id().to_string();
        let account = id();
        let roles = ["ROLE_RENTER"];
        let renter = json!({ "account_id": account, "name": "payer", "roles": roles });
        world.staff(server, "Accounts/CreateAccount", &renter)?;
        let made = world.json(&["keys", "api", "-o", "json"])?;
        let text = |name: &str| made[0][name].as_str().context("keys api says a key").map(str::to_owned);
        let (key, hash) = (text("api_key")?, text("key_hash")?);
        let offer =
            json!({ "account_id": account, "key_id": id(), "hash": hash, "roles": roles, "admin": true });
        world.staff(server, "Accounts/CreateApiKey", &offer)?;
        let (from, to) = (id(), id());
        for account in [&from, &to] {
            let open = json!({ "account_id": account, "asset": 2 });
            world.with_key(server, &key, "Ledger/OpenAccount", &open)?;
        }
        let deposit = json!({ "account_id": from, "amount_units": FUNDS.to_string(), "reference": "wire" });
        world.staff(server, "Ledger/RecordDeposit", &deposit)?;
        Ok(Payer { key, from, to, offset_ms: Arc::default() })
    }

    /// What has arrived, base units: as many as transfers happened.
    pub(crate) fn arrived(&self, world: &World, server: &Server) -> Result<u64> {
        let wanted = json!({ "account_id": self.to });
        let found = world.with_key(server, &self.key, "Ledger/GetAccount", &wanted)?;
        let balance = found["account"]["balanceUnits"].as_str().context("a balance")?;
        Ok(balance.parse()?)
    }

    fn id(&self) -> Id {
        let (id, offset) = (fresh_id(), self.offset_ms.load(Ordering::Relaxed));
        match (offset, id.moment()) {
            (1.., Some(at)) | (..=-1, Some(at)) => {
                let mut random = [0; 10];
                random.copy_from_slice(&id.to_bytes()[6..]);
                Id::v7(at.millis().saturating_add_signed(offset), random)
            }
            _ => id,
        }
    }

    fn order(&self, dice: &mut fastrand::Rng, largest: usize) -> Order {
        let size = match dice.u8(..20) {
            0 => BATCHES[1],
            1..5 => BATCHES[0],
            _ => 1,
        };
        let transfers = (0..size.min(largest)).map(|_| self.id()).collect();
        Order { request: self.id(), transfers, answer: None, why_not: None }
    }

    fn message(&self, order: &Order, deadline: Duration) -> Result<Request<wire::CreateTransfersRequest>> {
        let transfer = |id: &Id| wire::Transfer {
            transfer_id: id.to_string(),
            kind: wire::TransferKind::Single.into(),
            debit_account_id: self.from.clone(),
            credit_account_id: self.to.clone(),
            amount_units: 1,
            ..wire::Transfer::default()
        };
        let mut request = Request::new(wire::CreateTransfersRequest {
            request_id: order.request.to_string(),
            transfers: order.transfers.iter().map(transfer).collect(),
            ..wire::CreateTransfersRequest::default()
        });
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.key).parse()?);
        request.set_timeout(deadline);
        Ok(request)
    }

    /// Asks once; an answer is held to what was asked, and to the first one if there was one.
    pub(crate) async fn ask(
        &self,
        client: &mut LedgerClient<Channel>,
        order: &mut Order,
        deadline: Duration,
    ) -> Result<bool> {
        match client.create_transfers(self.message(order, deadline)?).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let all_done = answer.results.iter().all(|result| result.code() == wire::TransferCode::Ok);
                ensure!(
                    all_done && answer.results.len() == order.transfers.len(),
                    "request {} was answered with {:?}",
                    order.request,
                    answer.results.iter().find(|result| result.code() != wire::TransferCode::Ok)
                );
                match &order.answer {
                    Some(first) if *first != answer => {
                        bail!("request {} was answered otherwise when asked again", order.request)
                    }
                    _ => order.answer = Some(answer),
                }
                Ok(true)
            }
            Err(status) if is_honest(&status) => {
                order.why_not = Some(status);
                Ok(false)
            }
            Err(status) => bail!("request {} was refused as if it were wrong: {status}", order.request),
        }
    }
}

/// What a caller may hear of a server that dies, stands still or has no room. Anything else would call a good request bad.
fn is_honest(status: &Status) -> bool {
    let expected = matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal
            | Code::Aborted
    );
    expected && !status.message().is_empty()
}

/// Connects to a server.
pub(crate) async fn connect(server: &Server) -> Result<LedgerClient<Channel>> {
    let endpoint = Endpoint::new(server.address().to_owned())?.connect_timeout(Duration::from_secs(10));
    Ok(LedgerClient::new(endpoint.connect().await.context("the server answers, and cannot be reached")?))
}

/// Callers at work.
pub(crate) struct Load {
    going: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<Result<Vec<Order>>>>,
}

impl Load {
    /// Lets callers work until they are stopped or refused.
    pub(crate) async fn start(server: &Server, payer: &Payer, seed: u64, manner: Manner) -> Result<Load> {
        let going = Arc::new(AtomicBool::new(true));
        let mut callers = Vec::new();
        for caller in 0..CALLERS {
            let (client, payer, going) = (connect(server).await?, payer.clone(), Arc::clone(&going));
            let dice = fastrand::Rng::with_seed(seed ^ (caller << 56));
            callers.push(tokio::spawn(call(client, payer, dice, manner, going)));
        }
        Ok(Load { going, callers })
    }

    /// Waits until the callers have ended; what they have asked.
    pub(crate) async fn end(self) -> Result<Vec<Order>> {
        self.going.store(false, Ordering::Relaxed);
        let mut orders = Vec::new();
        for caller in self.callers {
            orders.extend(caller.await??);
        }
        Ok(orders)
    }
}

async fn call(
    mut client: LedgerClient<Channel>,
    payer: Payer,
    mut dice: fastrand::Rng,
    manner: Manner,
    going: Arc<AtomicBool>,
) -> Result<Vec<Order>> {
    let (mut orders, mut refused) = (Vec::new(), 0);
    while going.load(Ordering::Relaxed) && refused < manner.refusals {
        let mut order = payer.order(&mut dice, manner.largest);
        if !payer.ask(&mut client, &mut order, manner.deadline).await? {
            refused += 1;
            // Whoever was refused tries a little later.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        orders.push(order);
    }
    Ok(orders)
}
