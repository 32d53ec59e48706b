//! Load: callers that move money and open sessions, note what each was answered, and ask again with the same request id
//! where they were not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use holmes_proto::ledger::v1::ledger_client::LedgerClient;
use holmes_proto::market::v1::market_client::MarketClient;
use tonic::transport::{Channel, Endpoint};

use crate::errand::Errand;
use crate::order::{Order, Payer};
use crate::server::Server;

/// Callers at once.
const CALLERS: u64 = 8;
/// Callers that also open sessions, and how many each: a renter may have 64 at once, one that is closed may take a second to
/// end, and deaths leave some open.
const RENTERS: u64 = 2;
const SESSIONS: usize = 12;

/// How callers ask.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// How long a caller waits for an answer.
    pub(crate) deadline: Duration,
    /// How many refusals a caller takes before it stops.
    pub(crate) refusals: u32,
    /// Most transfers of a request.
    pub(crate) largest: usize,
    /// Nothing but the largest requests.
    pub(crate) only_large: bool,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner { deadline: Duration::from_secs(20), refusals: 1, largest: usize::MAX, only_large: false }
    }
}

/// What callers have asked.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) orders: Vec<Order>,
    pub(crate) errands: Vec<Errand>,
}

async fn channel(server: &Server) -> Result<Channel> {
    let endpoint = Endpoint::new(server.address().to_owned())?.connect_timeout(Duration::from_secs(10));
    endpoint.connect().await.context("the server answers, and cannot be reached")
}

/// Connects to a server's ledger.
pub(crate) async fn connect(server: &Server) -> Result<LedgerClient<Channel>> {
    Ok(LedgerClient::new(channel(server).await?))
}

/// Connects to a server's market.
pub(crate) async fn market(server: &Server) -> Result<MarketClient<Channel>> {
    Ok(MarketClient::new(channel(server).await?))
}

/// Callers at work.
pub(crate) struct Load {
    going: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<Result<Asked>>>,
}

impl Load {
    /// Lets callers work until they are stopped or refused.
    pub(crate) async fn start(server: &Server, payer: &Payer, seed: u64, manner: Manner) -> Result<Load> {
        let going = Arc::new(AtomicBool::new(true));
        let mut callers = Vec::new();
        for number in 0..CALLERS {
            let rents = payer.has_market && number < RENTERS;
            let caller = Caller {
                ledger: connect(server).await?,
                market: if rents { Some(market(server).await?) } else { None },
                payer: payer.clone(),
                dice: fastrand::Rng::with_seed(seed ^ (number << 56)),
                manner,
                refused: 0,
                asked: Asked::default(),
            };
            callers.push(tokio::spawn(caller.work(Arc::clone(&going))));
        }
        Ok(Load { going, callers })
    }

    /// Waits until the callers have ended; what they have asked.
    pub(crate) async fn end(self) -> Result<Asked> {
        self.going.store(false, Ordering::Relaxed);
        let mut all = Asked::default();
        for caller in self.callers {
            let asked = caller.await??;
            all.orders.extend(asked.orders);
            all.errands.extend(asked.errands);
        }
        Ok(all)
    }
}

/// One of the callers.
struct Caller {
    ledger: LedgerClient<Channel>,
    market: Option<MarketClient<Channel>>,
    payer: Payer,
    dice: fastrand::Rng,
    manner: Manner,
    refused: u32,
    asked: Asked,
}

impl Caller {
    async fn work(mut self, going: Arc<AtomicBool>) -> Result<Asked> {
        while going.load(Ordering::Relaxed) && self.refused < self.manner.refusals {
            match self.dice.u8(..40) {
                _ if self.manner.only_large => {
                    let order = self.payer.large_order();
                    self.ask(order).await?;
                }
                0..3 => self.hold().await?,
                3..5 if self.market.is_some() && self.asked.errands.len() < SESSIONS => self.rent().await?,
                _ => {
                    let order = self.payer.order(&mut self.dice, self.manner.largest);
                    self.ask(order).await?;
                }
            }
        }
        Ok(self.asked)
    }

    /// Asks once; whether it was answered.
    async fn ask(&mut self, mut order: Order) -> Result<bool> {
        let answered = self.payer.ask(&mut self.ledger, &mut order, self.manner.deadline).await?;
        self.asked.orders.push(order);
        self.note(answered).await;
        Ok(answered)
    }

    /// Holds something, and ends the hold by another request.
    async fn hold(&mut self) -> Result<()> {
        let order = self.payer.hold();
        let held: Vec<_> = order.transfers.iter().map(|transfer| transfer.id).collect();
        if self.ask(order).await? {
            for hold in held {
                let end = self.payer.end_of(hold, &mut self.dice);
                self.ask(end).await?;
            }
        }
        Ok(())
    }

    /// Opens a session and closes it.
    async fn rent(&mut self) -> Result<()> {
        let Some(market) = &mut self.market else { return Ok(()) };
        let mut errand = Errand::new(&self.payer);
        let answered = errand.go_on(&self.payer, market, self.manner.deadline).await?;
        self.asked.errands.push(errand);
        self.note(answered).await;
        Ok(())
    }

    /// Whoever was refused tries a little later.
    async fn note(&mut self, answered: bool) {
        if !answered {
            self.refused += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
