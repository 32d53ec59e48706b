//! Whatever is asked, metered and answered, the invariants hold, nothing is lost, and the log tells the same again.

use std::collections::BTreeSet;
use std::time::Duration;

use holmes_kernel::{Event as _, Id, LogId, ServiceId};
use holmes_ledger::command as ledger;
use holmes_market::command::{Metered, OpenSession};
use holmes_market::state::{Purse, Stage};
use holmes_market::{Command, LEDGER, Market, SCHEDULING, State};
use holmes_proto::heard::Refused;
use holmes_proto::market::v1::{Params, WorkCredit};
use holmes_testing::Driver;
use proptest::prelude::*;

use crate::harness::{Calls, HOL, MINUTE, STAFF, START, USD, World, account, node, opened, party, with};

const LOG: LogId = LogId::new(1, ServiceId(5));

/// What happens beside a real ledger.
#[derive(Clone, Debug)]
enum Deed {
    Open { n: u8, asset: u32, budget: u64 },
    Meter { session: usize, calls: Vec<Calls> },
    Close(usize),
    Wait(u64),
    Freeze(u8, u32, bool),
    Name(u8, u32, bool),
}

fn calls() -> impl Strategy<Value = Calls> {
    let credit = prop_oneof![Just(WorkCredit::Full), Just(WorkCredit::Quarter), Just(WorkCredit::None)];
    // Prices from below a micro-dollar to far beyond every budget.
    let pico = prop_oneof![0..3_000_000u64, 0..1_000_000_000u64];
    (0..6u8, credit, 1..30u64, 0..2_000u64, pico, 0..1_000_000u64).prop_map(
        |(node, credit, calls, tokens, pico, micro_units)| Calls {
            node,
            owner: 11 + node % 3,
            credit,
            calls,
            tokens,
            pico,
            micro_units,
        },
    )
}

fn deed() -> impl Strategy<Value = Deed> {
    let asset = || prop_oneof![Just(HOL), Just(USD)];
    prop_oneof![
        2 => (1..4u8, asset(), 50_000..40_000_000u64).prop_map(|(n, asset, budget)| Deed::Open { n, asset, budget }),
        8 => (0..64usize, proptest::collection::vec(calls(), 1..4))
            .prop_map(|(session, calls)| Deed::Meter { session, calls }),
        1 => (0..64usize).prop_map(Deed::Close),
        4 => (0..200u64).prop_map(Deed::Wait),
        1 => (1..4u8, asset(), any::<bool>()).prop_map(|(n, asset, frozen)| Deed::Freeze(n, asset, frozen)),
        1 => (11..14u8, asset(), any::<bool>()).prop_map(|(n, asset, real)| Deed::Name(n, asset, real)),
    ]
}

fn freeze(world: &mut World, n: u8, asset: u32, frozen_out: bool) {
    let command = ledger::Command::SetFrozen { account: account(n, asset), frozen_out };
    world.ask_ledger(STAFF, command).expect("staff freeze accounts");
}

fn carry_out(world: &mut World, sessions: &mut Vec<Id>, deed: &Deed) {
    let known = |at: usize, sessions: &[Id]| sessions.get(at % sessions.len().max(1)).copied();
    match deed {
        Deed::Open { n, asset, budget } => {
            let (session, asset, budget) = (world.fresh(), Some(*asset), Some(*budget));
            let open = OpenSession { session, renter: Some(party(*n)), asset, budget };
            // Staff's request ids are of their own: the session has the id that the command names.
            if world.ask(STAFF, Command::OpenSession(open)).is_ok() {
                sessions.push(session);
            }
        }
        Deed::Meter { session, calls } => {
            world.meter(known(*session, sessions).unwrap_or_default(), calls);
        }
        Deed::Close(at) => {
            if let Some(session) = known(*at, sessions) {
                drop(world.ask(STAFF, Command::CloseSession { session }));
            }
        }
        Deed::Wait(seconds) => world.wait(Duration::from_secs(*seconds)),
        Deed::Freeze(n, asset, frozen_out) => freeze(world, *n, *asset, *frozen_out),
        Deed::Name(n, asset, real) => {
            let account = if *real { account(*n, *asset) } else { Id::v7(1, [99; 10]) };
            world
                .ask(party(*n), Command::SetAccount { asset: *asset, account })
                .expect("owners name accounts");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn money_is_neither_lost_nor_made_between_renters_owners_and_the_network(
        deeds in proptest::collection::vec(deed(), 1..80), token_price in 1..2_000_000u64,
    ) {
        // E-2.1, E-9.1, E-9.2
        let mut world = World::new(&with(|params| {
            params.token_price_micro_usd = token_price;
            params.most_sessions_per_renter = 6;
        }));
        let mut sessions = Vec::new();
        for deed in &deeds {
            carry_out(&mut world, &mut sessions, deed);
        }
        prop_assert_eq!(world.rig.restart().expect("the logs are whole"), Vec::<&str>::new());
        for n in 1..4 {
            [HOL, USD].into_iter().for_each(|asset| freeze(&mut world, n, asset, false));
        }
        for n in 11..14 {
            [HOL, USD].into_iter().for_each(|asset| carry_out(&mut world, &mut sessions, &Deed::Name(n, asset, true)));
        }
        (0..sessions.len()).for_each(|at| carry_out(&mut world, &mut sessions, &Deed::Close(at)));
        world.wait(4 * MINUTE); // they drain, and are settled
        world.wait(Duration::from_secs(2 * 21_600)); // what was refused is paid in the end
        for session in &sessions {
            let (stage, metered, price) = world.see(*session, |s| (s.stage, s.metered, s.totals.price));
            prop_assert_eq!(stage, Stage::Closed);
            prop_assert_eq!(price, metered / 1_000_000);
        }
        for (asset, name) in [(HOL, "HOL"), (USD, "USD")] {
            prop_assert_eq!(world.balance(Purse::Market.account(name)), 0);
            prop_assert_eq!(world.balance(Purse::Unclaimed.account(name)), 0);
            let parties: u64 = [1, 2, 3, 11, 12, 13].into_iter().map(|n| world.has(n, asset)).sum();
            let kept: u64 =
                [Purse::Fees, Purse::Surcharges, Purse::Rounding].into_iter().map(|purse| world.balance(purse.account(name))).sum();
            prop_assert_eq!(parties + kept, 3 * crate::harness::WEALTH[usize::from(asset == USD)]);
        }
    }
}

/// What happens beside a ledger of every mood.
#[derive(Clone, Debug)]
enum Op {
    Open { n: u8, asset: u32, budget: u64 },
    Meter { session: usize, calls: Calls },
    Close(usize),
    Drained(usize),
    Lease { session: usize, ms: u64 },
    Answer { which: usize, refused: Option<(usize, Option<u32>)> },
    Name(u8, u32),
    Wait(u64),
}

const REASONS: [&str; 7] = [
    "INTERNAL",
    "INSUFFICIENT_FUNDS",
    "ACCOUNT_FROZEN",
    "CREDIT_NOT_FOUND",
    "HOLD_ENDED",
    "HOLD_NOT_FOUND",
    "FORBIDDEN",
];

fn op() -> impl Strategy<Value = Op> {
    let asset = || prop_oneof![Just(HOL), Just(USD)];
    let refused = proptest::option::of((0..REASONS.len(), proptest::option::of(0..8u32)));
    prop_oneof![
        3 => (1..4u8, asset(), 50_000..40_000_000u64).prop_map(|(n, asset, budget)| Op::Open { n, asset, budget }),
        8 => (0..64usize, calls()).prop_map(|(session, calls)| Op::Meter { session, calls }),
        2 => (0..64usize).prop_map(Op::Close),
        2 => (0..64usize).prop_map(Op::Drained),
        3 => (0..64usize, 0..400_000u64).prop_map(|(session, ms)| Op::Lease { session, ms }),
        8 => (0..64usize, refused).prop_map(|(which, refused)| Op::Answer { which, refused }),
        2 => (11..14u8, asset()).prop_map(|(n, asset)| Op::Name(n, asset)),
        5 => (0..400_000u64).prop_map(Op::Wait),
    ]
}

/// The market beside a ledger that answers when, and as, the test likes.
struct Play {
    market: Driver<Market>,
    sessions: Vec<Id>,
    /// Sessions of which scheduling has said that no call follows.
    drained: BTreeSet<Id>,
}

impl Play {
    fn new(params: &Params) -> Play {
        let mut play = Play {
            market: Driver::new(LOG, START, opened(params)),
            sessions: Vec::new(),
            drained: BTreeSet::new(),
        };
        play.market.wait(1);
        while !play.state().awaited.is_empty() {
            play.answer(0, None);
            play.market.wait(0);
        }
        for n in 1..4 {
            for asset in [HOL, USD] {
                let command = Command::SetAccount { asset, account: account(n, asset) };
                play.market.ask(party(n), command).expect("it is set");
            }
        }
        play
    }

    fn state(&self) -> &State {
        self.market.state()
    }

    fn answer(&mut self, which: usize, refused: Option<(usize, Option<u32>)>) {
        let waiting: Vec<u64> = self.state().awaited.keys().copied().collect();
        let Some(seq) = waiting.get(which % waiting.len().max(1)).copied() else { return };
        let refused = refused.map(|(reason, at)| Refused { reason: REASONS[reason].into(), at });
        self.market.hear(LEDGER, Command::Answered { seq, refused });
    }

    fn apply(&mut self, op: &Op) {
        let known = |at: usize, play: &Play| play.sessions.get(at % play.sessions.len().max(1)).copied();
        match op {
            Op::Open { n, asset, budget } => {
                let session = self.market.fresh();
                let open = OpenSession {
                    session,
                    renter: Some(party(*n)),
                    asset: Some(*asset),
                    budget: Some(*budget),
                };
                if self.market.ask(STAFF, Command::OpenSession(open)).is_ok() {
                    self.sessions.push(session);
                }
            }
            Op::Meter { session, calls } => {
                let (tokens, session) =
                    (calls.calls * calls.tokens, known(*session, self).unwrap_or_default());
                let metered = Metered {
                    session,
                    node: node(calls.node),
                    owner: party(calls.owner),
                    credit: calls.credit as u8,
                    calls: calls.calls,
                    input_tokens: 0,
                    output_tokens: tokens,
                    pico: u128::from(tokens) * u128::from(calls.pico),
                    micro_units: u128::from(tokens) * u128::from(calls.micro_units),
                };
                self.market.hear(
                    SCHEDULING,
                    Command::NoteCalls { metered: vec![metered], drained: Vec::new(), leased: Vec::new() },
                );
            }
            Op::Close(at) => {
                if let Some(session) = known(*at, self) {
                    drop(self.market.ask(STAFF, Command::CloseSession { session }));
                }
            }
            Op::Drained(at) => {
                // As scheduling says it: once, of a session that closes.
                let closing =
                    |id: &Id| self.state().sessions.get(id).is_some_and(|s| s.stage == Stage::Closing);
                if let Some(session) = known(*at, self).filter(closing) {
                    self.drained.insert(session);
                    let drained = vec![session];
                    self.market.hear(
                        SCHEDULING,
                        Command::NoteCalls { metered: Vec::new(), drained, leased: Vec::new() },
                    );
                }
            }
            Op::Lease { session, ms } => {
                // As scheduling says it: a lease was granted or renewed, until then; of a session that is not known, too.
                let session = known(*session, self).unwrap_or_default();
                let leased = vec![(session, self.market.now.after_millis(*ms))];
                self.market.hear(
                    SCHEDULING,
                    Command::NoteCalls { metered: Vec::new(), drained: Vec::new(), leased: leased.clone() },
                );
                let state = self.state();
                let open = state.sessions.get(&session).filter(|session| session.stage == Stage::Open);
                let idle = open.map(|session| session.idle_at(&state.params));
                assert!(idle.is_none_or(|idle| idle >= leased[0].1), "it closes before its lease ends");
            }
            Op::Answer { which, refused } => self.answer(*which, *refused),
            Op::Name(n, asset) => {
                let command = Command::SetAccount { asset: *asset, account: account(*n, *asset) };
                self.market.ask(party(*n), command).expect("owners name accounts");
            }
            Op::Wait(ms) => self.market.wait(*ms),
        }
    }

    /// A funded session is settled for the last time only when scheduling has said that nothing follows, has said nothing
    /// for too long, or the hold is gone; until then whatever is metered on it is billed.
    fn waits_for_scheduling(&self) -> bool {
        let funded = self.state().sessions.iter().filter(|(_, session)| session.funded_seq > 0);
        let closing = funded.filter(|(_, session)| session.stage == Stage::Closing);
        closing.into_iter().all(|(id, session)| {
            let over = session.finishes_at <= self.market.now || session.hold.is_none();
            session.takes_calls().is_ok() || self.drained.contains(id) || over
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn whatever_the_ledger_answers_every_session_ends_and_the_log_tells_it_again(
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut play = Play::new(&with(|params| (params.epoch_s, params.drain_ms) = (450, 1_000)));
        for op in &ops {
            play.apply(op);
            play.market.check();
            prop_assert!(play.waits_for_scheduling(), "a hold is released before the calls are over");
            prop_assert!(serde_json::to_value(play.state()).is_ok(), "people can be shown any state");
        }
        play.market.check_replay();
        // What is sent, the ledger can read; and it is the last event of its entry (the shard sees to that).
        for event in play.market.events() {
            if let Some(send) = event.send() {
                let read = holmes_ledger::react::command(ServiceId(5), send.command).expect("a command of the ledger");
                prop_assert!(!matches!(read, ledger::Command::Malformed { .. }), "{:?}", read);
            }
        }
        // From now on the ledger does what it is asked: everything ends.
        (0..play.sessions.len()).for_each(|at| play.apply(&Op::Close(at)));
        for _ in 0..8 {
            while !play.state().awaited.is_empty() {
                play.answer(0, None);
            }
            play.market.wait(21_600_000);
        }
        play.market.check();
        prop_assert_eq!(play.state().open_sessions, 0);
    }
}
