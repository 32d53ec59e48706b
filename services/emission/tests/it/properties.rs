//! Whatever the sources say and the ledger answers, nothing is lost or made, and the log tells the same again.

use holmes_emission::command::Fact;
use holmes_emission::{Command, MARKET, SCHEDULING, STAKING};
use holmes_kernel::{Event as _, ServiceId};
use holmes_ledger::react;
use holmes_proto::emission::v1::event::Event as Kind;
use proptest::prelude::*;

use crate::harness::{EPOCH_MS, HOL, Play, SOURCES, STAFF, account, bonded, node_id, owner, with, worked};

#[derive(Clone, Debug)]
enum Op {
    Bond {
        node: u8,
        slashable: u64,
        rating: u32,
    },
    Required {
        node: u8,
        units: u64,
    },
    Payout(u8, bool),
    Tombstone(u8),
    Work {
        node: u8,
        full: bool,
        units: u64,
        fees: u64,
        late: u64,
    },
    Attend {
        node: u8,
        beats: u32,
        active: bool,
        late: u64,
    },
    Price(u64),
    /// One source seals the running epoch, once it is over.
    Seal(usize),
    /// All of them do.
    SealAll,
    Without(usize),
    Exit {
        node: u8,
        which: usize,
    },
    Answer(usize, Option<&'static str>),
    Settle,
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let node = || 1..7u8;
    let units = prop_oneof![0..1_000u64, 0..100_000_000u64];
    let fees = prop_oneof![0..1_000_000_000u64, 0..100_000_000_000_000u64];
    let refused =
        prop_oneof![3 => Just(None), 1 => Just(Some("ACCOUNT_FROZEN")), 1 => Just(Some("INTERNAL"))];
    let stake = prop_oneof![Just(1_000 * HOL), 0..3_000 * HOL];
    prop_oneof![
        5 => (node(), stake, prop_oneof![Just(0), 1..9_000u32])
            .prop_map(|(node, slashable, rating)| Op::Bond { node, slashable, rating }),
        1 => (node(), 0..3_000 * HOL).prop_map(|(node, units)| Op::Required { node, units }),
        3 => (node(), any::<bool>()).prop_map(|(n, posted)| Op::Payout(n, posted)),
        1 => node().prop_map(Op::Tombstone),
        8 => (node(), any::<bool>(), units, fees, prop_oneof![4 => Just(0u64), 1 => 0..4u64])
            .prop_map(|(node, full, units, fees, late)| Op::Work { node, full, units, fees, late }),
        6 => (node(), 0..4u32, any::<bool>(), prop_oneof![4 => Just(0u64), 1 => 0..4u64])
            .prop_map(|(node, beats, active, late)| Op::Attend { node, beats, active, late }),
        2 => (0..3_000_000u64).prop_map(Op::Price),
        2 => (0..3usize).prop_map(Op::Seal),
        8 => Just(Op::SealAll),
        1 => (0..3usize).prop_map(Op::Without),
        3 => (node(), 0..3usize).prop_map(|(node, which)| Op::Exit { node, which }),
        8 => (any::<usize>(), refused).prop_map(|(which, refused)| Op::Answer(which, refused)),
        3 => Just(Op::Settle),
        4 => (0..EPOCH_MS * 2).prop_map(Op::Wait),
    ]
}

/// Two owners share the nodes.
fn of(node: u8) -> u8 {
    1 + node % 2
}

impl Play {
    /// Goes on to the end of the next epoch to close.
    fn pass_epoch(&mut self) -> u64 {
        self.emission.wait(0);
        let epoch = self.state().next;
        let end = self.state().params.calendar.ends(epoch).millis();
        self.emission.wait(end.saturating_sub(self.emission.now.millis()));
        epoch
    }

    fn note_if(&mut self, source: ServiceId, micro_usd: u64) {
        let epoch = self.state().next;
        if micro_usd > 0 {
            self.note(source, vec![Fact::Price { epoch, micro_usd }]);
        }
    }

    fn apply(&mut self, op: &Op) {
        let next = self.state().next;
        match *op {
            Op::Bond { node, slashable, rating } => {
                self.note(STAKING, vec![bonded(node, of(node), slashable, rating)])
            }
            Op::Required { node, units } => {
                self.note(STAKING, vec![Fact::Required(vec![(node_id(node), units)])])
            }
            Op::Payout(n, posted) => {
                self.note(STAKING, vec![Fact::Payout { node: node_id(n), account: account(n), posted }])
            }
            Op::Tombstone(n) => {
                let theirs = (1..7).filter(|node| of(*node) == of(n)).map(node_id).collect();
                self.note(STAKING, vec![Fact::Barred(theirs)]);
            }
            Op::Work { node, full, units, fees, late } => {
                let rows = vec![worked(node, of(node), full, units, fees)];
                self.note(MARKET, vec![Fact::Work { epoch: next.saturating_sub(late), rows }]);
            }
            Op::Attend { node, beats, active, late } => {
                let rows = vec![(node_id(node), beats, active)];
                self.note(SCHEDULING, vec![Fact::Attendance { epoch: next.saturating_sub(late), rows }]);
            }
            Op::Price(micro_usd) => self.note_if(MARKET, micro_usd),
            Op::Seal(which) => {
                let epoch = self.pass_epoch();
                self.note(SOURCES[which], vec![Fact::Sealed(epoch)]);
                self.emission.wait(0);
            }
            Op::SealAll => {
                let epoch = self.pass_epoch();
                SOURCES.iter().for_each(|source| self.note(*source, vec![Fact::Sealed(epoch)]));
                self.emission.wait(0);
            }
            Op::Without(which) => {
                let source = SOURCES[which];
                drop(self.emission.ask(STAFF, Command::CloseWithout { epoch: next, source }));
                self.emission.wait(0);
            }
            Op::Exit { node, which } => {
                let grants =
                    self.state().nodes.get(&node_id(node)).map(|node| node.grants.keys().nth(which).copied());
                let epoch = grants.flatten().unwrap_or(1);
                drop(self.emission.ask(owner(of(node)), Command::ExitGrant { node: node_id(node), epoch }));
            }
            Op::Answer(which, refused) => self.answer(which, refused),
            Op::Settle => self.settle(),
            Op::Wait(ms) => self.emission.wait(ms),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_said_and_answered_nothing_is_lost_and_the_log_tells_it_again(
        ops in proptest::collection::vec(op(), 1..150),
    ) {
        // E-4.1, E-4.7, E-5.4: `agrees` checks every invariant of the state after every step.
        let mut play = Play::new(&with(|params| params.without_after_ms = 0));
        let mut remaining = play.state().remaining;
        for op in &ops {
            play.apply(op);
            play.agrees();
            let now = play.state().remaining;
            prop_assert!(now.iter().zip(remaining).all(|(now, before)| *now <= before), "R never rises");
            remaining = now;
        }
        play.emission.check_replay();
        // What is sent, the ledger can read; and it is the last event of its entry (the shard sees to that).
        for event in play.emission.events() {
            if let Some(send) = event.send() {
                let read = react::command(ServiceId(6), send.command).unwrap();
                prop_assert!(!matches!(read, holmes_ledger::Command::Malformed { .. }), "{read:?}");
            }
        }
        // When the ledger carries out all that is asked, nobody with an account waits.
        for _ in 0..40 {
            play.emission.wait(21_600_000);
            play.settle();
        }
        play.agrees();
        prop_assert!(play.state().moves.is_empty() && play.state().pending.is_empty());
        prop_assert!(play.state().nodes.values().all(|node| node.owed == 0 || node.payout.is_none()));
    }

    #[test]
    fn no_transfer_id_is_used_twice(ops in proptest::collection::vec(op(), 1..150)) {
        // E-2.3: the ledger would answer a refused id with its refusal for an hour.
        let mut play = Play::new(&with(|params| params.without_after_ms = 0));
        ops.iter().for_each(|op| play.apply(op));
        let mut ids = std::collections::BTreeSet::new();
        for event in play.emission.events() {
            let Some(send) = event.send() else { continue };
            let command: holmes_proto::ledger::v1::Command = prost::Message::decode(send.command).unwrap();
            if let Some(holmes_proto::ledger::v1::command::Command::CreateTransfers(request)) = command.command {
                for transfer in request.transfers {
                    prop_assert!(ids.insert(transfer.transfer_id.clone()), "{}", transfer.transfer_id);
                }
            }
        }
    }

    #[test]
    fn years_of_epochs_pay_no_more_than_is_scheduled(
        days in proptest::collection::vec((0..5u8, 0..5u8, any::<bool>()), 1..60),
    ) {
        // E-4.7: scheduled never rises, and what is paid lies below its ceiling.
        let mut play = Play::new(&with(|_| {}));
        play.emission.wait(0);
        play.note(STAKING, (1..6).map(|n| bonded(n, of(n), 1_000 * HOL, 1_000)).collect());
        let named = (1..6).map(|n| Fact::Payout { node: node_id(n), account: account(n), posted: true });
        play.note(STAKING, named.collect());
        for (worker, present, priced) in days {
            let epoch = play.state().next;
            play.note_if(MARKET, u64::from(priced) * 700_000);
            play.note(MARKET, vec![Fact::Work { epoch, rows: vec![worked(worker, of(worker), true, 9, 77_777_777)] }]);
            play.note(SCHEDULING, vec![Fact::Attendance { epoch, rows: vec![(node_id(present), 3, true)] }]);
            play.apply(&Op::SealAll);
            play.settle();
            play.agrees();
        }
        let closed = play.emission.events().filter_map(|event| match event.event {
            Some(Kind::EpochClosed(closed)) => Some(closed),
            _ => None,
        });
        let (mut before, mut next) = (u64::MAX, None);
        for epoch in closed {
            prop_assert!(epoch.scheduled_units <= before);
            prop_assert!(next.is_none_or(|next| next == epoch.scheduled_units), "E_next is what comes");
            let paid: u64 = epoch.pools.iter().map(|pool| pool.paid_units).sum();
            prop_assert!(paid <= epoch.ceiling_units);
            (before, next) = (epoch.scheduled_units, Some(epoch.next_scheduled_units));
        }
    }
}
