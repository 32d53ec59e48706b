//! What remembering costs: the request window under as many unique ids as it holds, and bulk submitters, who need none.
//!
//! `cargo run --release -p holmes-sim --example sustained [-- window | submissions]`. No disk is involved: these are the costs
//! of one core's decisions and memory, a second being one of processor time, so that what else runs does not count.

use std::time::{Duration, Instant};

use holmes_kernel::canon;
use holmes_kernel::shard::{Poison, Request, Submission};
use holmes_kernel::ways::Remembered;
use holmes_kernel::{
    Amount, Id, Input, LogId, Opened, Output, Principal, PrincipalKind, Replica, ServiceId, Shard, Time,
    Window, WindowLimits,
};
use holmes_ledger::Ledger;
use holmes_ledger::command::{Command, Kind, Move, Movement, OpenAccount, Transfer, Via};
use holmes_proto::ledger::v1::Asset;
use prost::Message as _;

const START_MS: u64 = 1_800_000_000_000;
/// Ids a second of log time: what fills the window to just below its limit of 20 million in an hour.
const IDS_PER_S: u64 = 5_500;
/// Commands of one frame.
const BATCH: u64 = 256;

fn main() {
    let wanted = std::env::args().nth(1);
    let wants = |what: &str| wanted.as_deref().is_none_or(|wanted| wanted == what);
    if wants("window") {
        window();
    }
    if wants("submissions") {
        submissions();
    }
}

/// Resident memory in bytes, as Linux tells it.
fn resident() -> u64 {
    let told = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = told.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4_096
}

/// Seconds that this thread has run, as Linux tells it.
fn ran() -> f64 {
    let told = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = told.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok());
    nanos.unwrap_or(0) as f64 / 1e9
}

fn ms(pause: Option<&Duration>) -> f64 {
    pause.map_or(0.0, |pause| pause.as_secs_f64() * 1e3)
}

fn id(n: u64) -> Id {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Id::v7(START_MS + n * 1_000 / IDS_PER_S, random)
}

fn window() {
    let before = resident();
    let mut window: Window<Remembered, true> = Window::new(WindowLimits::DEFAULT);
    let askers: Vec<Principal> =
        (0..16).map(|n| Principal::new(PrincipalKind::Gateway, Id::from_bytes([n; 16]))).collect();
    let (hour, total) = (IDS_PER_S * 3_600, IDS_PER_S * 5_400);
    let mut pauses: Vec<Duration> = Vec::new();
    let mut began = ran();
    for n in 0..total {
        let (id, who) = (id(n), askers[(n % 16) as usize]);
        let now = Time::from_millis(START_MS + n * 1_000 / IDS_PER_S);
        if n % BATCH == 0 {
            let (at, held) = (Instant::now(), window.len());
            window.advance(now);
            if window.len() < held {
                pauses.push(at.elapsed());
            }
        }
        assert!(window.get(&who, id).is_none());
        window.admits(&who, id, now).expect("it has room");
        window.insert(who, id, Remembered { digest: [7; 16], seq: n });
        if (n + 1) % (hour / 4) == 0 {
            pauses.sort_unstable();
            let rate = (hour / 4) as f64 / (ran() - began);
            let bytes = (resident() - before) as f64 / window.len() as f64;
            println!(
                "window: {:>10} ids held after {:>10}: {rate:>9.0} ids/s, {bytes:.0} bytes an id, forgetting {:.2} ms at the median, {:.2} at most, {} times",
                window.len(),
                n + 1,
                ms(pauses.get(pauses.len() / 2)),
                ms(pauses.last()),
                pauses.len()
            );
            pauses.clear();
            began = ran();
        }
    }
}

struct Bench {
    shard: Shard<Ledger>,
    now: Time,
    bytes: usize,
    answers: u64,
}

impl Bench {
    fn new() -> Bench {
        let usd = Asset { id: 2, name: "USD".into(), decimals: 6, cap_units: 0 };
        let params = holmes_ledger::params::defaults(vec![usd]).encode_to_vec();
        let opened = Opened { cell: 1, shard: 0, profile_hash: vec![5; 16], params };
        let (log, now) = (LogId::new(1, ServiceId(1)), Time::from_millis(START_MS));
        let first = Replica::<Ledger>::provision(log, now, opened).expect("the parameters are right");
        let shard = Shard::new(Replica::open(log, &first).expect("it opens"), 1, Poison::new());
        Bench { shard, now, bytes: 0, answers: 0 }
    }

    /// Brings commands that arrived together, and makes them durable at once.
    fn bring(&mut self, inputs: impl Iterator<Item = Input<Command>>) {
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
                        answer.expect("it is carried out");
                        self.answers += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn ask(&mut self, principal: Principal, n: u64, command: Command) {
        let (request_id, digest) = (Id::v7(self.now.millis(), fill(n)), canon::digest(&command));
        let traceparent = String::new();
        let request = Request { ticket: 0, principal, request_id, digest, traceparent, command };
        self.bring(std::iter::once(Input::Request(request)));
    }
}

fn fill(n: u64) -> [u8; 10] {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    random
}

/// One core's submissions a second, with one transfer each and with many, beside requests with ids.
fn submissions() {
    let (staff, bulk) =
        (Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16])), Principal::service(ServiceId(9)));
    let accounts: Vec<Id> = (0..1_000u64).map(|n| Id::v7(START_MS, fill(n))).collect();
    for (way, transfers) in
        [("submission", 1u64), ("submission", 16), ("submission", 250), ("request", 1), ("request", 250)]
    {
        let mut bench = Bench::new();
        for (n, account) in (0..).zip(&accounts) {
            let open = OpenAccount {
                account: *account,
                asset: 2,
                owner: bulk,
                name: String::new(),
                history: false,
                via: Via::Call,
            };
            bench.ask(bulk, n, Command::OpenAccount(open));
            let reference = format!("first {n}");
            let movement = Movement { account: *account, amount: Amount::new(1 << 40), reference };
            bench.ask(bulk, 1_000 + n, Command::RecordDeposit(movement));
        }
        bench.ask(staff, 9_999, Command::RegisterSubmitter { submitter: bulk, registered: true });
        let total = if transfers == 1 { 1_000_000 } else { 4_000_000 / transfers };
        let (bytes, began) = (bench.bytes, ran());
        for batch in 0..total / 250 {
            let now = bench.now;
            let input = |at: u64| {
                let number = batch * 250 + at + 1;
                let transfer = |item: u64| {
                    let n = number * transfers + item;
                    let of =
                        |n: u64| accounts[(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % 1_000];
                    let (debit, credit) = (of(n), of(n + 7));
                    let credit = if debit == credit { of(n + 1) } else { credit };
                    let kind = Kind::Single(Move {
                        debit,
                        credit,
                        amount: Amount::new(1),
                        balancing: false,
                        debit_owner: None,
                    });
                    Transfer { id: Id::v7(now.millis(), fill(n)), linked: false, tag: 0, kind }
                };
                let via = if way == "submission" { Via::Number } else { Via::Call };
                let command =
                    Command::CreateTransfers { via, transfers: (0..transfers).map(transfer).collect() };
                let (digest, traceparent) = (canon::digest(&command), String::new());
                if way == "submission" {
                    Input::Submission(Submission {
                        ticket: 0,
                        principal: bulk,
                        number,
                        digest,
                        traceparent,
                        command,
                    })
                } else {
                    let request_id = Id::v7(now.millis(), fill(1 << 40 | number));
                    Input::Request(Request {
                        ticket: 0,
                        principal: bulk,
                        request_id,
                        digest,
                        traceparent,
                        command,
                    })
                }
            };
            bench.bring((0..250).map(input));
        }
        let seconds = ran() - began;
        println!(
            "{way:>10} of {transfers:>3} transfers: {:>8.0} a second, {:>8.0} transfers/s, {:>4.0} bytes of log a transfer",
            total as f64 / seconds,
            (total * transfers) as f64 / seconds,
            (bench.bytes - bytes) as f64 / (total * transfers) as f64
        );
    }
}
