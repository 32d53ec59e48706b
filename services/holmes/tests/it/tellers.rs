//! Callers who move money between few accounts and look at them, and whether what they were answered could have been: in some
//! order of all they did, each between its call and its answer, on one ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holmes_proto::ledger::v1 as wire;
use holmes_proto::ledger::v1::ledger_client::LedgerClient;
use holmes_testing::linear::{self, Called, Model};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::crash::{Payment, connect};
use crate::harness::Server;

const ACCOUNTS: usize = 3;
const TELLERS: u64 = 4;
/// What the accounts have together: little, so that transfers fail.
const UNITS: u64 = 60;
/// Between two operations of a teller: a history is long enough to search.
const PAUSE: Duration = Duration::from_millis(40);

/// What a teller did, and was answered.
#[derive(Debug)]
enum Op {
    /// Whether so much went from one account to another.
    Transfer { from: usize, to: usize, units: u64, went: bool },
    /// What is in an account.
    Read { of: usize, units: u64 },
}

/// A ledger of few accounts.
struct Ledger;

impl Model for Ledger {
    type State = [u64; ACCOUNTS];
    type Op = Op;

    fn step(state: &Self::State, op: &Op) -> Option<Self::State> {
        match *op {
            Op::Transfer { from, to, units, went } => {
                if (state[from] >= units) != went {
                    return None;
                }
                let mut after = *state;
                if went {
                    after[from] -= units;
                    after[to] += units;
                }
                Some(after)
            }
            Op::Read { of, units } => (state[of] == units).then_some(*state),
        }
    }
}

/// Tellers at work.
pub(crate) struct Tellers {
    going: Arc<AtomicBool>,
    tellers: Vec<JoinHandle<Vec<Called<Op>>>>,
}

impl Tellers {
    pub(crate) async fn begin(server: &Server<'_>) -> Tellers {
        let key = server.payer("tellers");
        let units = |at| if at == 0 { UNITS } else { 0 };
        let accounts: Vec<String> = (0..ACCOUNTS).map(|at| server.dollars(&key, units(at))).collect();
        let (going, began) = (Arc::new(AtomicBool::new(true)), Instant::now());
        let mut tellers = Vec::new();
        for n in 0..TELLERS {
            let client = connect(&server.address).await;
            let teller = Teller {
                client,
                key: key.clone(),
                accounts: accounts.clone(),
                began,
                drawn: 0x9e37_79b9_7f4a_7c15 ^ (n << 32),
            };
            tellers.push(tokio::spawn(teller.work(going.clone())));
        }
        Tellers { going, tellers }
    }

    /// Ends their work, and looks whether it could have been; how much they did.
    pub(crate) async fn end(self) -> usize {
        self.going.store(false, Ordering::Relaxed);
        let mut history = Vec::new();
        for teller in self.tellers {
            history.extend(teller.await.expect("a teller ends"));
        }
        let went = |called: &&Called<Op>| matches!(called.op, Op::Transfer { went: true, .. });
        let failed = |called: &&Called<Op>| matches!(called.op, Op::Transfer { went: false, .. });
        let (went, failed) = (history.iter().filter(went).count(), history.iter().filter(failed).count());
        assert!(went > 10 && failed > 10, "{went} transfers went and {failed} did not: no history");
        let begin = std::array::from_fn(|at| if at == 0 { UNITS } else { 0 });
        if let Err(none) = linear::check::<Ledger>(begin, &history) {
            panic!("no ledger answers like this: {none:?}");
        }
        history.len()
    }
}

struct Teller {
    client: LedgerClient<Channel>,
    key: String,
    accounts: Vec<String>,
    began: Instant,
    drawn: u64,
}

impl Teller {
    /// A number below another: the same ones in every run.
    fn draw(&mut self, below: u64) -> u64 {
        self.drawn ^= self.drawn << 13;
        self.drawn ^= self.drawn >> 7;
        self.drawn ^= self.drawn << 17;
        self.drawn % below
    }

    async fn work(mut self, going: Arc<AtomicBool>) -> Vec<Called<Op>> {
        let mut done = Vec::new();
        while going.load(Ordering::Relaxed) {
            let from = self.now();
            let op = if self.draw(2) == 0 { self.transfer().await } else { self.read().await };
            done.push(Called { from, upto: self.now(), op });
            tokio::time::sleep(PAUSE).await;
        }
        done
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a short test")
    }

    fn index(&mut self, below: usize) -> usize {
        usize::try_from(self.draw(below as u64)).expect("small")
    }

    async fn transfer(&mut self) -> Op {
        let from = self.index(ACCOUNTS);
        let to = (from + 1 + self.index(ACCOUNTS - 1)) % ACCOUNTS;
        let units = 1 + self.draw(UNITS / 2);
        let payment = Payment {
            key: self.key.clone(),
            from: self.accounts[from].clone(),
            to: self.accounts[to].clone(),
        };
        let mut message = payment.message(&holmes_runtime::fresh_id().to_string());
        message.transfers[0].amount_units = units;
        let code = loop {
            match self.client.create_transfers(payment.request(message.clone())).await {
                Ok(answer) => break answer.get_ref().results[0].code(),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await, // the same request tells
            }
        };
        let went = match code {
            wire::TransferCode::Ok => true,
            wire::TransferCode::InsufficientFunds => false,
            other => panic!("{other:?}"),
        };
        Op::Transfer { from, to, units, went }
    }

    async fn read(&mut self) -> Op {
        let of = self.index(ACCOUNTS);
        let payment = Payment { key: self.key.clone(), from: String::new(), to: String::new() };
        loop {
            let asked = wire::GetAccountRequest { account_id: self.accounts[of].clone() };
            match self.client.get_account(payment.request(asked)).await {
                Ok(answer) => {
                    let account = answer.into_inner().account.expect("an account");
                    return Op::Read { of, units: account.balance_units };
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}
