//! Bulk submitters, who are numbered and need no ids remembered, beside requests with ids: what one core decides, chains and
//! applies of either, without disk.

use std::time::Instant;

use anyhow::{Result, ensure};
use holmes_kernel::canon;
use holmes_kernel::shard::{Poison, Request, Submission};
use holmes_kernel::{
    Amount, Id, Input, LogId, Opened, Output, Principal, PrincipalKind, Replica, ServiceId, Shard, Time,
};
use holmes_ledger::command::{Command, Kind, Move, Movement, OpenAccount, Transfer, Via};
use holmes_ledger::{Ledger, params};
use holmes_proto::ledger::v1::Asset;
use prost::Message as _;

use super::Found;

const START: Time = Time::from_millis(1_800_000_000_000);
const ACCOUNTS: u64 = 1_000;
const TRANSFERS: u64 = 1_000_000;
/// Commands that arrive together, and share a frame.
const TOGETHER: u64 = 250;
const BULK: Principal = Principal::service(ServiceId(9));
const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));

struct Bench {
    shard: Shard<Ledger>,
    now: Time,
    bytes: usize,
    answers: u64,
}

impl Bench {
    fn new() -> Result<Bench> {
        let usd = Asset { id: 2, name: "USD".into(), decimals: 6, cap_units: 0 };
        let opened =
            Opened { cell: 1, params: params::defaults(vec![usd]).encode_to_vec(), ..Opened::default() };
        let log = LogId::new(1, ServiceId(1));
        let first = Replica::<Ledger>::provision(log, START, opened)?;
        let shard = Shard::new(Replica::open(log, &first)?, 1, Poison::new());
        let mut bench = Bench { shard, now: START, bytes: 0, answers: 0 };
        for n in 0..ACCOUNTS {
            let (account, name, via) = (account(n), String::new(), Via::Call);
            let open = OpenAccount { account, asset: 2, owner: BULK, name, history: false, via };
            bench.ask(BULK, n, Command::OpenAccount(open))?;
            let movement =
                Movement { account, amount: Amount::new(1 << 40), reference: format!("first {n}") };
            bench.ask(BULK, ACCOUNTS + n, Command::RecordDeposit(movement))?;
        }
        bench.ask(STAFF, 2 * ACCOUNTS, Command::RegisterSubmitter { submitter: BULK, registered: true })?;
        Ok(bench)
    }

    fn ask(&mut self, principal: Principal, n: u64, command: Command) -> Result<()> {
        let input = self.request(principal, n, command);
        self.bring(std::iter::once(input))
    }

    fn request(&self, principal: Principal, n: u64, command: Command) -> Input<Command> {
        let (request_id, digest) = (Id::v7(self.now.millis(), fill(n)), canon::digest(&command));
        Input::Request(Request {
            ticket: 0,
            principal,
            request_id,
            digest,
            traceparent: String::new(),
            command,
        })
    }

    /// A command of so many transfers, as the `number`th of either way.
    fn input(&self, numbered: bool, number: u64, each: u64) -> Input<Command> {
        let via = if numbered { Via::Number } else { Via::Call };
        let transfers = (0..each).map(|item| transfer(self.now, number * each + item)).collect();
        let command = Command::CreateTransfers { via, transfers };
        if !numbered {
            return self.request(BULK, 1 << 40 | number, command);
        }
        let (digest, traceparent) = (canon::digest(&command), String::new());
        Input::Submission(Submission { ticket: 0, principal: BULK, number, digest, traceparent, command })
    }

    /// Brings what arrived together, and lets it be durable at once.
    fn bring(&mut self, inputs: impl Iterator<Item = Input<Command>>) -> Result<()> {
        let mut out = Vec::new();
        self.now = self.now.after_millis(1);
        inputs.for_each(|input| self.shard.step(self.now, input, &mut out));
        self.shard.step(self.now, Input::Idle, &mut out);
        while !out.is_empty() {
            for output in std::mem::take(&mut out) {
                match output {
                    Output::Append(frame) => {
                        self.bytes += frame.bytes().len();
                        self.shard.step(self.now, Input::Appended, &mut out);
                        self.shard.step(self.now, Input::Idle, &mut out);
                    }
                    Output::Reply { answer, .. } => {
                        ensure!(answer.is_ok(), "not carried out: {answer:?}");
                        self.answers += 1;
                    }
                    other => anyhow::bail!("{other:?}"),
                }
            }
        }
        Ok(())
    }
}

/// Random bytes of an id, each other's.
fn fill(n: u64) -> [u8; 10] {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    random
}

fn account(n: u64) -> Id {
    Id::v7(START.millis(), fill(n))
}

/// The `n`th transfer, between accounts that differ.
fn transfer(now: Time, n: u64) -> Transfer {
    let debit = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % ACCOUNTS;
    let credit = (debit + 1 + n % (ACCOUNTS - 1)) % ACCOUNTS;
    let (debit, credit, amount) = (account(debit), account(credit), Amount::new(1));
    let kind = Kind::Single(Move { debit, credit, amount, balancing: false, debit_owner: None });
    Transfer { id: Id::v7(now.millis(), fill(n)), linked: false, tag: 0, kind }
}

/// Numbered submissions, and requests with ids, of so many transfers each.
pub(super) fn measure(each: u64) -> Result<Found> {
    let (mut found, total) = (Found::new(), TRANSFERS / each);
    for (rate, log, numbered) in [
        ("transfers by submission", "log of a transfer by submission", true),
        ("transfers by request", "log of a transfer by request", false),
    ] {
        let mut bench = Bench::new()?;
        let (answers, bytes, began) = (bench.answers, bench.bytes, Instant::now());
        for first in (0..total).step_by(TOGETHER as usize) {
            let inputs: Vec<_> =
                (first..total.min(first + TOGETHER)).map(|at| bench.input(numbered, at + 1, each)).collect();
            bench.bring(inputs.into_iter())?;
        }
        ensure!(bench.answers - answers == total, "{} of {total} were answered", bench.answers - answers);
        let transfers = (total * each) as f64;
        found.insert(rate, transfers / began.elapsed().as_secs_f64());
        found.insert(log, (bench.bytes - bytes) as f64 / transfers);
    }
    Ok(found)
}
