//! What callers ask of the ledger: singles, batches, chains whose transfers happen together or not at all, and holds that
//! are posted or given back later.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use holmes_kernel::Id;
use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::ledger_client::LedgerClient;
use holmes_runtime::fresh_id;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::server::{PATIENCE, Server};
use crate::world::World;

/// Transfers of the batches: one command, and several.
const BATCHES: [usize; 2] = [8, 2_000];
/// The longest chain of a batch of several commands, and of a request of its own.
const CHAINS: [usize; 2] = [7, 12];
/// What the payer starts with: more than is ever moved, a unit at a time.
const FUNDS: u64 = 1_000_000_000;
/// What a hold reserves; a post moves one unit of it, and the rest is free again.
const HELD: u64 = 3;

/// Whose money it is, and where it goes.
#[derive(Clone)]
pub(crate) struct Payer {
    key: String,
    from: String,
    to: String,
    /// Whether there is a market in which it can open sessions.
    pub(crate) has_market: bool,
    /// How far the callers' clock is off, ms: ids carry their time.
    pub(crate) offset_ms: Arc<AtomicI64>,
}

/// A request, and what became of it.
pub(crate) struct Order {
    pub(crate) request: Id,
    pub(crate) transfers: Vec<Move>,
    /// The first answer; `None` while there is none.
    pub(crate) answer: Option<wire::CreateTransfersResponse>,
    /// When it was heard, microseconds since the Unix epoch.
    pub(crate) answered_at_us: u64,
    /// Why there is none.
    pub(crate) why_not: Option<Status>,
}

/// A transfer of a request.
#[derive(Clone, Copy)]
pub(crate) struct Move {
    pub(crate) id: Id,
    kind: Kind,
    /// Together with the next one, or not at all.
    pub(crate) linked: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Single,
    Hold,
    Post(Id),
    Void(Id),
}

impl Move {
    /// Units that are in the receiving account once it has happened.
    pub(crate) fn arrives(&self) -> u64 {
        match self.kind {
            Kind::Single | Kind::Post(_) => 1,
            Kind::Hold | Kind::Void(_) => 0,
        }
    }

    /// What it is called where it is counted.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Single => "acknowledged transfers",
            Kind::Hold => "acknowledged holds",
            Kind::Post(_) | Kind::Void(_) => "acknowledged ends of holds",
        }
    }

    fn to_wire(self, payer: &Payer) -> wire::Transfer {
        let (kind, amount_units, hold) = match self.kind {
            Kind::Single => (wire::TransferKind::Single, 1, None),
            Kind::Hold => (wire::TransferKind::Hold, HELD, None),
            Kind::Post(hold) => (wire::TransferKind::Post, 1, Some(hold)),
            Kind::Void(hold) => (wire::TransferKind::Void, 0, Some(hold)),
        };
        let account = |of: &String| if hold.is_some() { String::new() } else { of.clone() };
        wire::Transfer {
            transfer_id: self.id.to_string(),
            kind: kind.into(),
            debit_account_id: account(&payer.from),
            credit_account_id: account(&payer.to),
            amount_units,
            hold_id: hold.map(|hold| hold.to_string()).unwrap_or_default(),
            linked: self.linked,
            ..wire::Transfer::default()
        }
    }
}

impl Payer {
    /// Makes a renter with a key, and two accounts in dollars: one full, one empty. Where there is a market, it can open
    /// sessions there.
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
        let has_market = world.has_every_role();
        let payer = Payer { key, from, to, has_market, offset_ms: Arc::default() };
        if has_market {
            payer.enter_the_market(world, server)?;
        }
        Ok(payer)
    }

    /// Opens the market's door: it is ready once the ledger has opened its accounts, which follows its first start.
    fn enter_the_market(&self, world: &World, server: &Server) -> Result<()> {
        let pays = json!({ "asset": 2, "account_id": self.from });
        world.with_key(server, &self.key, "Market/SetAccount", &pays)?;
        let end = Instant::now() + PATIENCE;
        let opened = loop {
            match world.with_key(server, &self.key, "Market/OpenSession", &json!({ "asset": 2 })) {
                Ok(opened) => break opened,
                Err(why) if format!("{why:#}").contains("NOT_READY") => {
                    ensure!(Instant::now() < end, "the market does not become ready");
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(why) => return Err(why),
            }
        };
        let session = opened["session"]["sessionId"].as_str().context("a session")?;
        let close = json!({ "session_id": session });
        world.with_key(server, &self.key, "Market/CloseSession", &close).map(|_: Value| ())
    }

    /// What has arrived, base units.
    pub(crate) fn arrived(&self, world: &World, server: &Server) -> Result<u64> {
        let wanted = json!({ "account_id": self.to });
        let found = world.with_key(server, &self.key, "Ledger/GetAccount", &wanted)?;
        let balance = found["account"]["balanceUnits"].as_str().context("a balance")?;
        Ok(balance.parse()?)
    }

    /// A fresh id, of the callers' time.
    pub(crate) fn id(&self) -> Id {
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

    /// A request as the dice have it: most are singles, some batches, some chains.
    pub(crate) fn order(&self, dice: &mut fastrand::Rng, largest: usize) -> Order {
        let (size, chain) = match dice.u8(..20) {
            0 => (BATCHES[1], if dice.bool() { CHAINS[0] } else { 1 }),
            1..4 => (BATCHES[0], 1),
            4..7 => (dice.usize(2..=CHAINS[1]), CHAINS[1]),
            _ => (1, 1),
        };
        self.batch(size.min(largest), chain)
    }

    /// As many transfers as a request of several commands has.
    pub(crate) fn large_order(&self) -> Order {
        self.batch(BATCHES[1], 1)
    }

    /// A hold.
    pub(crate) fn hold(&self) -> Order {
        self.asked(vec![Move { id: self.id(), kind: Kind::Hold, linked: false }])
    }

    /// The end of a hold that was made.
    pub(crate) fn end_of(&self, hold: Id, dice: &mut fastrand::Rng) -> Order {
        let kind = if dice.u8(..3) > 0 { Kind::Post(hold) } else { Kind::Void(hold) };
        self.asked(vec![Move { id: self.id(), kind, linked: false }])
    }

    fn batch(&self, size: usize, chain: usize) -> Order {
        let linked = |at: usize| !(at + 1).is_multiple_of(chain) && at + 1 < size;
        let one = |at| Move { id: self.id(), kind: Kind::Single, linked: linked(at) };
        self.asked((0..size).map(one).collect())
    }

    fn asked(&self, transfers: Vec<Move>) -> Order {
        Order { request: self.id(), transfers, answer: None, answered_at_us: 0, why_not: None }
    }

    /// A message with the key of the payer, which waits so long.
    pub(crate) fn signed<T>(&self, message: T, deadline: Duration) -> Result<Request<T>> {
        let mut request = Request::new(message);
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
        let message = wire::CreateTransfersRequest {
            request_id: order.request.to_string(),
            transfers: order.transfers.iter().map(|transfer| transfer.to_wire(self)).collect(),
            ..wire::CreateTransfersRequest::default()
        };
        match client.create_transfers(self.signed(message, deadline)?).await {
            Ok(answer) => order.take(answer.into_inner()).map(|()| true),
            Err(status) if is_honest(&status) => {
                order.why_not = Some(status);
                Ok(false)
            }
            Err(status) => bail!("request {} was refused as if it were wrong: {status}", order.request),
        }
    }
}

impl Order {
    fn take(&mut self, answer: wire::CreateTransfersResponse) -> Result<()> {
        let all_done = answer.results.iter().all(|result| result.code() == wire::TransferCode::Ok);
        ensure!(
            all_done && answer.results.len() == self.transfers.len(),
            "request {} was answered with {:?}",
            self.request,
            answer.results.iter().find(|result| result.code() != wire::TransferCode::Ok)
        );
        match &self.answer {
            Some(first) if *first != answer => {
                bail!("request {} was answered otherwise when asked again", self.request)
            }
            Some(_) => {}
            None => {
                self.answered_at_us =
                    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
                self.answer = Some(answer);
            }
        }
        Ok(())
    }
}

/// What a caller may hear of a server that dies, stands still or has no room. Anything else would call a good request bad,
/// or the server: what it says itself is never that it failed; a line that breaks is told so by the client's own library.
pub(crate) fn is_honest(status: &Status) -> bool {
    let expected = match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted => true,
        Code::Cancelled | Code::Unknown | Code::Internal => status.source().is_some_and(|why| !is_reset(why)),
        _ => false,
    };
    expected && !status.message().is_empty()
}

/// Whether the server gave up a call that it had taken, over a line that stands: what its HTTP/2 says when it panics.
fn is_reset(why: &dyn std::error::Error) -> bool {
    let told = format!("{why:?}"); // with all its causes
    told.contains("Reset(") && told.contains("Remote")
}

#[cfg(test)]
mod tests {
    use tonic::body::Body;
    use tonic::codegen::{Service, http};

    use super::*;

    /// A ledger that fails over every call.
    #[derive(Clone)]
    struct Panics;

    impl tonic::server::NamedService for Panics {
        const NAME: &'static str = "holmes.ledger.v1.Ledger";
    }

    impl Service<http::Request<Body>> for Panics {
        type Response = http::Response<Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<http::Response<Body>, std::convert::Infallible>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            panic!("the server fails over this call")
        }
    }

    #[tokio::test]
    async fn a_server_that_panics_over_a_call_is_not_honest() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let incoming =
            tonic::transport::server::TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
        tokio::spawn(tonic::transport::Server::builder().add_service(Panics).serve_with_incoming(incoming));
        let channel = Channel::from_shared(at).unwrap().connect().await.unwrap();
        let told = LedgerClient::new(channel).get_supply(wire::GetSupplyRequest::default()).await;
        let told = told.expect_err("it panics");
        assert!(!is_honest(&told), "{told:?}");
    }

    #[test]
    fn a_broken_line_is_honest_and_a_server_that_failed_is_not() {
        let broken = Status::from_error(Box::new(std::io::Error::other("the line broke")));
        assert!(is_honest(&broken), "{broken:?}");
        assert!(is_honest(&Status::unavailable("it goes down")));
        let reset =
            std::io::Error::other("hyper::Error(Http2, Error { kind: Reset(StreamId(1), CANCEL, Remote) })");
        assert!(!is_honest(&Status::from_error(Box::new(reset))), "it panicked");
        for status in [Status::internal("it failed"), Status::unknown("?"), Status::unavailable("")] {
            assert!(!is_honest(&status), "{status:?}");
        }
    }
}
