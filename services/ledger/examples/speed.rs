//! How many transfers a second one core decides, applies, checks and writes into frames: `Shard::step` with a disk that
//! is always done. Run with `cargo run --release -p holmes-ledger --example speed`.

use std::time::Duration;

use holmes_kernel::shard::{Poison, Request};
use holmes_kernel::{Amount, Id, Input, LogId, Opened, Output, Principal, PrincipalKind, Replica, ServiceId};
use holmes_kernel::{Machine, Meta, Shard, Time, canon};
use holmes_ledger::command::{Kind, Move, OpenAccount, Transfer, Via};
use holmes_ledger::{Command, Ledger, Reply, params, system_account};
use holmes_proto::ledger::v1::{Asset, TransferCode};
use prost::Message;

const START_MS: u64 = 1_800_000_000_000;
const MARKET: Principal = Principal::service(ServiceId(9));

/// Processor time that this thread has had: what others do on the machine meanwhile does not count.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells a thread's time");
    let ns = text.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("its first number is nanoseconds"))
}

/// Numbers that look random and are the same on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    fn id(&mut self, ms: u64) -> Id {
        let mut random = [0; 10];
        random[..6].copy_from_slice(&self.roll().to_be_bytes()[2..]);
        random[6..].copy_from_slice(&self.roll().to_be_bytes()[4..]);
        Id::v7(ms, random)
    }
}

struct Bench {
    shard: Shard<Ledger>,
    now: Time,
    out: Vec<Output<Ledger>>,
    frames: u64,
    bytes: u64,
    happened: usize,
}

impl Bench {
    fn new() -> Bench {
        let hol = Asset { id: 1, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000_000_000_000 };
        let opened = Opened { params: params::defaults(vec![hol]).encode_to_vec(), ..Opened::default() };
        let log = LogId::new(1, ServiceId(1));
        let first =
            Replica::<Ledger>::provision(log, Time::from_millis(START_MS), opened).expect("good parameters");
        let replica = Replica::open(log, &first).expect("the first frame");
        let shard = Shard::new(replica, 1, Poison::new());
        Bench {
            shard,
            now: Time::from_millis(START_MS + 1),
            out: Vec::new(),
            frames: 0,
            bytes: 0,
            happened: 0,
        }
    }

    fn step(&mut self, input: Input<Command>) {
        self.now = self.now.next();
        self.shard.step(self.now, input, &mut self.out);
        let mut appended = false;
        for output in self.out.drain(..) {
            match output {
                Output::Append(frame) => {
                    self.frames += 1;
                    self.bytes += frame.bytes().len() as u64;
                    appended = true;
                }
                Output::Reply { answer: Ok(Reply::Transfers(results)), .. } => {
                    self.happened += results.iter().filter(|r| r.code == TransferCode::Ok).count();
                }
                Output::Reply { answer: Err(why), .. } => panic!("refused: {why}"),
                Output::Halt(why) | Output::Reclaim(why) => panic!("stopped: {why}"),
                _ => {}
            }
        }
        if appended {
            self.step(Input::Appended); // the answers that waited for it
        }
    }

    fn ask(&mut self, request_id: Id, digest: canon::Digest, command: Command) {
        let request =
            Request { ticket: 0, principal: MARKET, request_id, digest, traceparent: String::new(), command };
        self.step(Input::Request(request));
        self.step(Input::Idle);
    }
}

fn opened(bench: &mut Bench, dice: &mut Dice, accounts: usize) -> Vec<Id> {
    let ids: Vec<Id> = (0..accounts).map(|_| dice.id(START_MS)).collect();
    for account in &ids {
        let owner = Principal::new(PrincipalKind::Account, *account);
        let (name, via) = (String::new(), Via::Call);
        let open = OpenAccount { account: *account, asset: 1, owner, name, history: false, via };
        bench.ask(dice.id(START_MS), [0; 16], Command::OpenAccount(open));
    }
    ids
}

fn batch(dice: &mut Dice, size: usize, mut pair: impl FnMut(&mut Dice) -> (Id, Id)) -> Command {
    let transfers = (0..size).map(|_| {
        let (debit, credit) = pair(dice);
        let kind = Kind::Single(Move {
            debit,
            credit,
            amount: Amount::new(1 + dice.roll() % 1_000),
            balancing: false,
            debit_owner: None,
        });
        Transfer { id: dice.id(START_MS), linked: false, tag: 0, kind }
    });
    Command::CreateTransfers { via: Via::Call, transfers: transfers.collect() }
}

const ACCOUNTS: usize = 10_000;

fn main() {
    for (size, batches) in [(1, 100_000), (100, 5_000), (1_000, 1_000), (1_850, 500)] {
        through_the_shard(size, batches);
    }
    machine_only();
}

/// Accounts that are not poor.
fn funded(bench: &mut Bench, dice: &mut Dice) -> Vec<Id> {
    let ids = opened(bench, dice, ACCOUNTS);
    let genesis = system_account("genesis/HOL");
    for some in ids.chunks(1_000) {
        let mut rest = some.iter();
        let grants = batch(dice, some.len(), |_| (genesis, *rest.next().expect("one each")));
        let Command::CreateTransfers { via, mut transfers } = grants else { unreachable!() };
        for grant in &mut transfers {
            let Kind::Single(of) = &mut grant.kind else { unreachable!() };
            of.amount = Amount::new(1_000_000_000);
        }
        bench.ask(dice.id(START_MS), [0; 16], Command::CreateTransfers { via, transfers });
    }
    ids
}

fn two_of(ids: &[Id], dice: &mut Dice) -> (Id, Id) {
    let debit = dice.roll() as usize % ids.len();
    let credit = (debit + 1 + dice.roll() as usize % (ids.len() - 1)) % ids.len();
    (ids[debit], ids[credit])
}

fn through_the_shard(size: usize, batches: usize) {
    let (mut bench, mut dice) = (Bench::new(), Dice(7));
    let ids = funded(&mut bench, &mut dice);
    let commands: Vec<(Id, Command)> = (0..batches)
        .map(|_| (dice.id(START_MS), batch(&mut dice, size, |dice| two_of(&ids, dice))))
        .collect();
    let began = cpu();
    let digests: Vec<canon::Digest> = commands.iter().map(|(_, command)| canon::digest(command)).collect();
    let digesting = cpu() - began;
    let (frames, bytes, happened) = (bench.frames, bench.bytes, bench.happened);
    let began = cpu();
    for ((id, command), digest) in commands.into_iter().zip(digests) {
        bench.ask(id, digest, command);
    }
    let took = cpu() - began;
    assert_eq!(bench.happened - happened, size * batches);
    assert_eq!(bench.shard.replica().check(), []);
    let transfers = (size * batches) as f64;
    println!(
        "batches of {size:>5}: {:>9.0} transfers/s through Shard::step ({:.0} ns each; {:.0} bytes and {:.3} frames each), \
         command digests {:.0} ns each",
        transfers / took.as_secs_f64(),
        took.as_nanos() as f64 / transfers,
        (bench.bytes - bytes) as f64 / transfers,
        (bench.frames - frames) as f64 / transfers,
        digesting.as_nanos() as f64 / transfers,
    );
}

/// `decide` and `evolve` alone, without window of requests, frames and hashes.
fn machine_only() {
    let (mut bench, mut dice) = (Bench::new(), Dice(7));
    let ids = opened(&mut bench, &mut dice, ACCOUNTS);
    let hol = Asset { id: 1, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000_000_000_000 };
    let opened = Opened { params: params::defaults(vec![hol]).encode_to_vec(), ..Opened::default() };
    let mut state = Ledger::init(&opened).expect("good parameters");
    let ctx = |seq| holmes_kernel::Ctx {
        now: Time::from_millis(START_MS + 1 + seq),
        principal: MARKET,
        log: LogId::new(1, ServiceId(1)),
        term: 1,
        seq,
    };
    let mut run = |command: &Command, seq: u64, took: &mut [u128; 3]| {
        let (ctx, mut events) = (ctx(seq), Vec::new());
        let began = cpu();
        Ledger::decide(&state, command, &ctx, &mut events).expect("well formed");
        took[0] += (cpu() - began).as_nanos();
        let began = cpu();
        let meta = Meta { ts: ctx.now, principal: MARKET, term: 1, seq };
        events.iter().for_each(|event| Ledger::evolve(&mut state, event, &meta));
        took[1] += (cpu() - began).as_nanos();
        let began = cpu();
        Ledger::check_step(&state, &events).expect("conserved");
        took[2] += (cpu() - began).as_nanos();
    };
    for (seq, account) in ids.iter().enumerate() {
        let owner = Principal::new(PrincipalKind::Account, *account);
        let (name, via) = (String::new(), Via::Call);
        let open = OpenAccount { account: *account, asset: 1, owner, name, history: false, via };
        run(&Command::OpenAccount(open), seq as u64, &mut [0; 3]);
    }
    let genesis = system_account("genesis/HOL");
    let mut took = [0; 3];
    let (size, batches) = (1_000, 500);
    for seq in 0..batches {
        let command = batch(&mut dice, size, |dice| (genesis, ids[dice.roll() as usize % ids.len()]));
        run(&command, seq, &mut took);
    }
    let each = took.map(|ns| ns as f64 / (size as u64 * batches) as f64);
    println!(
        "the machine alone, batches of {size}: decide {:.0} ns, evolve {:.0} ns, check_step {:.0} ns each: \
         {:.0} transfers/s for decide and evolve",
        each[0],
        each[1],
        each[2],
        1e9 / (each[0] + each[1]),
    );
}
