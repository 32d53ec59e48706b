//! Given, when, then.

#[path = "tests/money.rs"]
mod money;

use holmes_kernel::machine::Rejection as _;
use holmes_kernel::{
    Amount, Ctx, Id, LogId, Machine, Meta, Opened, Principal, PrincipalKind, ServiceId, Time,
};
use holmes_proto::emission::v1::event::Event as Kind;
use holmes_proto::emission::v1::{EpochClosed, Event, Params};
use prost::Message;

use crate::command::{Fact, Outcome, WorkRow};
use crate::state::{Awaited, Node, due};
use crate::{Command, Emission, LEDGER, MARKET, Reply, SCHEDULING, STAKING, State, params};

const HOL: u64 = 1_000_000_000;
const DAY_MS: u64 = 86_400_000;
const ALICE: Principal = Principal::new(PrincipalKind::Account, Id::from_bytes([1; 16]));
const BOB: Principal = Principal::new(PrincipalKind::Account, Id::from_bytes([2; 16]));
const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
const ONE: Id = Id::from_bytes([11; 16]);
const TWO: Id = Id::from_bytes([12; 16]);
/// A price and fees at which κ cuts nothing.
const RICH: u64 = 1_000_000_000_000_000;
const DAY_ONE_TRR: u64 = 142_296_258_824_876;
const DAY_ONE_BR: u64 = 94_841_674_521_834;

/// Emission that knows of two nodes of 1 CU, Alice's and Bob's, both bonded as required since yesterday.
struct Given {
    state: State,
    now: Time,
    seq: u64,
    published: Vec<EpochClosed>,
}

impl Given {
    fn new() -> Given {
        Given::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Params)) -> Given {
        let mut wire = params::defaults();
        wire.tge_at_ms = DAY_MS * 20_000;
        change(&mut wire);
        let opened = Opened { params: wire.encode_to_vec(), ..Opened::default() };
        let state = Emission::init(&opened).unwrap();
        let now = Time::from_millis(20_000 * DAY_MS + 1);
        let mut given = Given { state, now, seq: 1, published: Vec::new() };
        given.run();
        given.note(STAKING, vec![bonded(ONE, ALICE, 1_000), bonded(TWO, BOB, 1_000)]);
        given.note(STAKING, vec![payout(ONE), payout(TWO)]);
        given.close(vec![], vec![]); // in the first epoch they had nothing when it began
        given
    }

    fn when(&mut self, principal: Principal, command: Command) -> Result<Vec<Kind>, &'static str> {
        let ctx = Ctx { now: self.now, principal, log: LogId::new(1, ServiceId(6)), term: 1, seq: self.seq };
        let mut events = Vec::new();
        Emission::decide(&self.state, &command, &ctx, &mut events).map_err(|why| why.reason())?;
        assert!(events.len() <= holmes_kernel::frame::ENTRY_EVENTS);
        for event in &events {
            let meta = Meta { ts: self.now, principal, term: 1, seq: self.seq };
            Emission::evolve(&mut self.state, event, &meta);
            self.seq += 1;
            if let Some(Kind::EpochClosed(closed)) = &event.event {
                self.published.push(closed.clone());
            }
        }
        assert_eq!(Emission::check_step(&self.state, &events), Ok(()), "{command:?}");
        assert_eq!(Emission::check(&self.state), [], "{command:?}");
        Ok(events.into_iter().filter_map(|event| event.event).collect())
    }

    fn note(&mut self, source: ServiceId, facts: Vec<Fact>) -> Vec<Kind> {
        let command = Command::Note { source, at: self.now, facts };
        self.when(Principal::service(source), command).unwrap()
    }

    /// Lets all that is due now happen, and the ledger carry out all that is asked.
    fn run(&mut self) {
        self.run_with(None);
    }

    fn run_with(&mut self, refused: Option<&str>) {
        for _ in 0..1_000 {
            if let Some(seq) = self.state.awaited.keys().next().copied() {
                self.answer(seq, refused);
                continue;
            }
            match due(&self.state) {
                Some((at, command)) if at <= self.now => {
                    let kinds = self.when(Principal::SYSTEM, command.clone()).unwrap();
                    assert!(!kinds.is_empty(), "a due command without events halts the log: {command:?}");
                }
                _ => return,
            }
        }
        panic!("it does not come to rest");
    }

    fn answer(&mut self, seq: u64, refused: Option<&str>) {
        let transfers = match &self.state.awaited[&seq] {
            Awaited::Payments(rows) => rows.len(),
            _ => 1,
        };
        let outcome = Outcome::Done(vec![refused.unwrap_or_default().to_owned(); transfers]);
        self.when(Principal::service(LEDGER), Command::Answered { seq, outcome }).unwrap();
    }

    fn epoch(&self) -> u64 {
        self.state.next
    }

    /// Goes on to the next epoch's beginning, after which every source seals the one that is over.
    fn seal(&mut self) {
        let epoch = self.epoch();
        self.now = self.state.params.calendar.ends(epoch).after_millis(5_000);
        for source in [STAKING, SCHEDULING, MARKET] {
            self.note(source, vec![Fact::Sealed(epoch)]);
        }
    }

    /// A whole epoch with this work and these beats, at a price of a dollar.
    fn close(&mut self, work: Vec<WorkRow>, beats: Vec<(Id, u32)>) -> EpochClosed {
        let epoch = self.epoch();
        if !work.is_empty() {
            self.note(MARKET, vec![Fact::Work { epoch, rows: work }]);
        }
        self.note(MARKET, vec![Fact::Price { epoch, micro_usd: 1_000_000 }]);
        let rows = beats.into_iter().map(|(node, beats)| (node, beats, true)).collect();
        self.note(SCHEDULING, vec![Fact::Attendance { epoch, rows }]);
        self.seal();
        self.run();
        self.published.last().cloned().unwrap()
    }

    fn node(&self, id: Id) -> &Node {
        self.state.nodes.get(&id).unwrap()
    }

    fn shares(&self, id: Id) -> [u64; 2] {
        let closed = self.state.closed.values().next_back().unwrap();
        closed.rows.as_ref().unwrap().get(&id).unwrap().shares
    }
}

fn bonded(node: Id, owner: Principal, rating_milli_cu: u32) -> Fact {
    let (slashable, required) = (Amount::new(1_000 * HOL), Amount::new(1_000 * HOL));
    Fact::Node {
        node,
        owner,
        kind: 1,
        slashable,
        required,
        rating_milli_cu,
        barred: false,
        registered: false,
    }
}

fn payout(node: Id) -> Fact {
    Fact::Payout { node, account: Id::from_bytes([99; 16]), posted: true }
}

fn worked(node: Id, owner: Principal, full: bool, units: u64, fees_micro_usd: u64) -> WorkRow {
    WorkRow { node, owner, full, units, fees_micro_usd }
}

#[test]
fn an_epoch_pays_its_pools_by_work_and_presence() {
    // E-4.1, E-4.6, E-5.4; day one of E-4.8
    let mut given = Given::new();
    let work = vec![worked(ONE, ALICE, true, 300, RICH), worked(TWO, BOB, true, 100, RICH)];
    let closed = given.close(work, vec![(ONE, 5_760), (TWO, 2_880)]);
    let [trr, br, verifier] = closed.pools.as_slice() else { panic!("three pools") };
    assert_eq!((trr.target_units, trr.paid_units), (DAY_ONE_TRR, DAY_ONE_TRR));
    assert_eq!((br.target_units, br.paid_units), (DAY_ONE_BR, DAY_ONE_BR));
    assert_eq!((verifier.actual_units, verifier.paid_units), (0, 0));
    assert_eq!(given.shares(ONE), [DAY_ONE_TRR / 4 * 3, (u128::from(DAY_ONE_BR) * 2 / 3) as u64]);
    assert_eq!(given.shares(ONE)[0] + given.shares(TWO)[0], DAY_ONE_TRR);
    let node = given.node(ONE);
    assert_eq!(node.totals.liquid, given.shares(ONE)[0] / 4);
    assert_eq!(node.totals.locked, given.shares(ONE)[0] - given.shares(ONE)[0] / 4);
    assert_eq!(node.totals.paid, node.totals.liquid + given.shares(ONE)[1]);
    assert_eq!(closed.scheduled_units, closed.pools.iter().map(|pool| pool.target_units).sum::<u64>());
    assert_eq!(closed.next_scheduled_units, given.state.targets().iter().sum::<u64>());
}

#[test]
fn without_work_or_nodes_nothing_is_paid_and_the_pools_wait() {
    // E-14.2, E-4.1: R falls only by what is paid.
    let mut given = Given::new();
    let before = given.state.remaining;
    let closed = given.close(vec![], vec![]);
    assert!(closed.pools.iter().all(|pool| pool.paid_units == 0 && pool.actual_units == 0));
    assert_eq!(given.state.remaining, before);
    assert_eq!(closed.next_scheduled_units, closed.scheduled_units);
}

#[test]
fn without_any_price_work_earns_nothing_and_later_the_last_price_counts() {
    // E-14.5
    let mut given = Given::with(|params| params.sources.truncate(2)); // no market: no price either
    given.state.price = 0;
    let epoch = given.epoch();
    given.note(MARKET, vec![Fact::Work { epoch, rows: vec![worked(ONE, ALICE, true, 300, RICH)] }]);
    given.seal();
    given.run();
    assert_eq!(given.published.last().unwrap().pools[0].actual_units, 0);
    given.close(vec![worked(ONE, ALICE, true, 300, RICH)], vec![]);
    assert!(given.published.last().unwrap().pools[0].paid_units > 0);
    let epoch = given.epoch();
    given.note(MARKET, vec![Fact::Work { epoch, rows: vec![worked(ONE, ALICE, true, 300, RICH)] }]);
    given.seal();
    given.run();
    let told = given.published.last().unwrap();
    assert_eq!((told.token_price_micro_usd, told.pools[0].paid_units > 0), (1_000_000, true));
}

#[test]
fn an_operator_earns_no_more_than_its_fees_allow_and_the_cut_stays_in_the_pool() {
    // E-3.2, κ: $2 of full fees and $1 of others at $1: 10.5 HOL, shared over the operator's nodes.
    let mut given = Given::new();
    let third = Id::from_bytes([13; 16]);
    given.note(STAKING, vec![bonded(third, ALICE, 1_000)]);
    let work = vec![
        worked(ONE, ALICE, true, 300, 2_000_000),
        worked(third, ALICE, false, 400, 1_000_000),
        worked(TWO, BOB, true, 400, RICH),
    ];
    let before = given.state.remaining[0];
    let closed = given.close(work, vec![]);
    let shares = [ONE, TWO, third].map(|id| given.shares(id)[0]);
    assert_eq!(shares[0] + shares[2], 10 * HOL + HOL / 2);
    assert!(shares[0].abs_diff(3 * shares[2]) <= 4, "300 units against a quarter of 400: {shares:?}");
    assert_eq!(shares[1], DAY_ONE_TRR / 2);
    assert_eq!(closed.cut_units, DAY_ONE_TRR / 2 - shares[0] - shares[2]);
    assert_eq!(before - given.state.remaining[0], DAY_ONE_TRR - closed.cut_units);
    assert_eq!(closed.pools[0].actual_units, DAY_ONE_TRR);
}

#[test]
fn work_beyond_the_collateral_and_presence_beyond_the_least_stake_do_not_count() {
    // E-0.6, E-4.6: Alice's rating is good for 86,400 units of 1 milli-CU-second; her stake was half for a moment.
    let mut given = Given::new();
    let half = |slashable| match bonded(ONE, ALICE, 1) {
        Fact::Node { node, owner, kind, required, rating_milli_cu, barred, registered, .. } => {
            Fact::Node { node, owner, kind, slashable, required, rating_milli_cu, barred, registered }
        }
        other => other,
    };
    given.note(STAKING, vec![half(Amount::new(500 * HOL)), half(Amount::new(2_000 * HOL))]);
    let work = vec![worked(ONE, ALICE, true, 1_000_000, RICH), worked(TWO, BOB, true, 86_400, RICH)];
    given.close(work, vec![(ONE, 100), (TWO, 50)]);
    assert_eq!(given.shares(ONE)[0], DAY_ONE_TRR / 2);
    assert_eq!(given.shares(ONE)[1], DAY_ONE_BR / 2);
}

#[test]
fn who_bonds_within_an_epoch_has_no_base_reward_for_it_and_a_verifier_never() {
    // E-4.6: the least stake of the epoch is that of its beginning.
    let mut given = Given::new();
    let (late, verifier) = (Id::from_bytes([13; 16]), Id::from_bytes([14; 16]));
    let mut of_verifier = bonded(verifier, BOB, 0);
    if let Fact::Node { kind, .. } = &mut of_verifier {
        *kind = 2;
    }
    given.note(STAKING, vec![bonded(late, BOB, 1_000), of_verifier]);
    given.close(vec![], vec![(ONE, 10), (late, 10), (verifier, 10)]);
    assert_eq!([late, verifier].map(|id| given.shares(id)[1]), [0, 0]);
    given.close(vec![], vec![(ONE, 10), (late, 10), (verifier, 10)]);
    assert!(given.shares(late)[1] > 0);
    assert_eq!(given.shares(verifier)[1], 0);
}

#[test]
fn a_crowd_is_paid_less_than_the_target() {
    // E-4.3: three active nodes where two are wanted.
    let mut given = Given::with(|params| params.target_nodes = 2);
    let third = Id::from_bytes([13; 16]);
    given.note(STAKING, vec![bonded(third, BOB, 1_000)]);
    let closed = given.close(vec![], vec![(ONE, 1), (TWO, 1), (third, 1)]);
    let br = &closed.pools[1];
    assert_eq!((br.m_numerator, br.m_denominator), (2, 3));
    assert_eq!(br.paid_units, (u128::from(DAY_ONE_BR) * 2 / 3) as u64);
}

#[test]
fn an_epoch_waits_for_every_source_and_staff_may_end_the_wait_after_six_hours() {
    // E-0.5
    let mut given = Given::new();
    let epoch = given.epoch();
    given.now = given.state.params.calendar.ends(epoch);
    given.note(STAKING, vec![Fact::Sealed(epoch)]);
    given.note(MARKET, vec![Fact::Sealed(epoch)]);
    given.run();
    assert_eq!(given.epoch(), epoch);
    let without = |epoch, source| Command::CloseWithout { epoch, source };
    assert_eq!(given.when(STAFF, without(epoch, SCHEDULING)), Err("TOO_EARLY"));
    given.now = given.now.after_millis(6 * 3_600_000);
    assert_eq!(given.when(ALICE, without(epoch, SCHEDULING)), Err("FORBIDDEN"));
    assert_eq!(given.when(STAFF, without(epoch + 1, SCHEDULING)), Err("NOT_NEXT_EPOCH"));
    assert_eq!(given.when(STAFF, without(epoch, ServiceId(9))), Err("SOURCE_UNKNOWN"));
    assert_eq!(given.when(STAFF, without(epoch, STAKING)), Ok(vec![]));
    assert_eq!(given.when(STAFF, without(epoch, SCHEDULING)).unwrap().len(), 1);
    given.run();
    assert_eq!(given.epoch(), epoch + 1);
    assert_eq!(given.when(STAFF, without(epoch, SCHEDULING)), Ok(vec![]), "it is so already");
    assert_eq!(given.note(SCHEDULING, vec![Fact::Sealed(epoch)]), vec![], "a late seal changes nothing");
    // Its late facts count in the next epoch.
    given.note(SCHEDULING, vec![Fact::Attendance { epoch, rows: vec![(ONE, 7, true)] }]);
    given.close(vec![], vec![(ONE, 3)]);
    let closed = given.state.closed.values().next_back().unwrap();
    assert_eq!(closed.rows.as_ref().unwrap().get(&ONE).unwrap().beats, 10);
    assert_eq!(given.published.last().unwrap().active_nodes, 1);
}

#[test]
fn missed_epochs_close_one_by_one_each_with_its_own_facts() {
    // E-14.1
    let mut given = Given::new();
    let first = given.epoch();
    for (epoch, node) in [(first, ONE), (first + 1, TWO)] {
        given.note(SCHEDULING, vec![Fact::Attendance { epoch, rows: vec![(node, 1, true)] }]);
    }
    given.now = given.state.params.calendar.ends(first + 1);
    for source in [STAKING, SCHEDULING, MARKET] {
        given.note(source, vec![Fact::Sealed(first), Fact::Sealed(first + 1)]);
    }
    given.run();
    let paid = |epoch: u64, id: Id| {
        given.state.closed[&epoch].rows.as_ref().unwrap().get(&id).map_or(0, |row| row.shares[1])
    };
    assert!(paid(first, ONE) > 0 && paid(first, TWO) == 0);
    assert!(paid(first + 1, TWO) > 0 && paid(first + 1, ONE) == 0);
}

#[test]
fn a_source_whose_log_began_later_has_sealed_what_lies_before() {
    // E-0.5: the first epoch that a source seals is that of its log's first event.
    let mut given = Given::new();
    let first = given.epoch();
    given.now = given.state.params.calendar.ends(first + 5);
    for source in [STAKING, MARKET] {
        given.note(source, (first..=first + 5).map(Fact::Sealed).collect());
    }
    given.run();
    assert_eq!(given.epoch(), first, "scheduling has sealed nothing yet");
    given.note(SCHEDULING, vec![Fact::Sealed(first + 5)]);
    given.run();
    assert_eq!(given.epoch(), first + 6);
}

#[test]
fn nobody_speaks_for_time_for_the_ledger_or_for_a_source() {
    let mut given = Given::new();
    let of_time =
        [Command::Close, Command::Continue, Command::Burn, Command::OpenAccount, Command::Move, Command::Pay];
    let of_others = [
        Command::Answered { seq: 1, outcome: Outcome::Done(vec![]) },
        Command::Note { source: STAKING, at: given.now, facts: vec![Fact::Sealed(9)] },
    ];
    for command in of_time.into_iter().chain(of_others) {
        for who in [ALICE, STAFF, Principal::service(MARKET)] {
            assert_eq!(given.when(who, command.clone()), Err("FORBIDDEN"), "{command:?}");
        }
    }
    let late = Command::Answered { seq: 999, outcome: Outcome::Refused("X".into()) };
    assert_eq!(given.when(Principal::service(LEDGER), late), Ok(vec![]), "an answer to none is dropped");
}

#[test]
fn a_close_of_many_nodes_takes_bounded_steps_and_loses_nothing() {
    // Design: jobs of at most 256 items; E-0.4
    let mut given = Given::new();
    let id = |n: u16| {
        let mut bytes = [77; 16];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        Id::from_bytes(bytes)
    };
    let facts = |n: u16| {
        vec![
            bonded(id(n), BOB, 500 + u32::from(n)),
            Fact::Payout { node: id(n), account: id(n), posted: true },
        ]
    };
    (0..700).for_each(|n| drop(given.note(STAKING, facts(n))));
    given.close(vec![], vec![]);
    let work: Vec<WorkRow> = (0..700).map(|n| worked(id(n), BOB, true, 1 + u64::from(n) * 7, RICH)).collect();
    let closed = given.close(work, (0..700).map(|n| (id(n), 1 + u32::from(n % 13))).collect());
    assert_eq!(closed.nodes, 700);
    let shares: Vec<[u64; 2]> = (0..700).map(|n| given.shares(id(n))).collect();
    assert_eq!(shares.iter().map(|share| share[0]).sum::<u64>(), DAY_ONE_TRR);
    assert_eq!(shares.iter().map(|share| share[1]).sum::<u64>(), DAY_ONE_BR);
    let weights: Vec<(Id, u128)> = (0..700).map(|n| (id(n), u128::from(1 + u64::from(n) * 7))).collect();
    let exact = holmes_kernel::apportion(Amount::new(DAY_ONE_TRR), &weights);
    assert!(shares.iter().zip(exact).all(|(share, exact)| share[0] == exact.units()), "E-0.4 to the unit");
    assert_eq!(given.state.books.owed, 0);
}
