//! Whatever is asked, and whatever the ledger answers, the invariants hold and the log tells the same again.

use std::collections::BTreeMap;

use holmes_kernel::{Amount, Event as _, Id, LogId, Principal, ServiceId};
use holmes_ledger::{react, system_account};
use holmes_proto::staking::v1::event::Event as Kind;
use holmes_proto::staking::v1::{NodeKind, Params};
use holmes_staking::command::{LeaseFact, SeenHold};
use holmes_staking::state::Awaited;
use holmes_staking::{Command, LEDGER, SCHEDULING, Staking, State};
use holmes_testing::Driver;
use proptest::prelude::*;

use crate::harness::{HOL, STAFF, START, node_id, opened, owner, registration, with};

const LOG: LogId = LogId::new(1, ServiceId(3));
const EPOCH_MS: u64 = 45_000;

/// Staking beside a ledger that answers when, and as, the test likes.
struct Play {
    staking: Driver<Staking>,
    /// Nodes that hold leases, as scheduling would have it, by the place of the grant.
    leases: BTreeMap<u64, u16>,
    granted: u64,
    /// What lies in bonds/HOL, as the ledger would have it.
    vault: u64,
}

impl Play {
    fn new(params: &Params) -> Play {
        Play {
            staking: Driver::new(LOG, START, opened(params)),
            leases: BTreeMap::new(),
            granted: 0,
            vault: 0,
        }
    }

    fn state(&self) -> &State {
        self.staking.state()
    }

    fn hear(&mut self, command: Command) {
        self.staking.hear(LEDGER, command);
    }

    /// Answers one of the sends that wait; a post or a payout that is carried out moves money.
    fn answer(&mut self, which: usize, refused: Option<&str>) {
        let waiting: Vec<(u64, Awaited)> = self.state().awaited.iter().map(|(seq, it)| (*seq, *it)).collect();
        let Some((seq, awaited)) = waiting.get(which % waiting.len().max(1)) else { return };
        match (awaited, refused) {
            (Awaited::Bond { offer, .. }, None) => self.vault += offer.amount,
            (Awaited::Payout { unbonding, .. }, None) => {
                self.vault -= self.state().unbondings[unbonding].paying
            }
            _ => {}
        }
        self.hear(Command::Answered { seq: *seq, refused: refused.map(str::to_owned) });
    }

    fn agrees(&self) {
        self.staking.check();
        assert_eq!(self.state().vault.units, self.vault);
        let held =
            self.state().leases.iter().flat_map(|(node, held)| held.keys().map(|grant| (*grant, *node)));
        let held: BTreeMap<u64, Id> = held.collect();
        assert_eq!(held, self.leases.iter().map(|(grant, n)| (*grant, node_id(*n))).collect());
    }
}

#[derive(Clone, Debug)]
enum Op {
    Register(u16, bool, u32),
    Rate(u16, u32),
    Offer { node: u16, by: u8, units: u64, elsewhere: bool },
    Bond(u16, usize),
    Answer(usize, Option<&'static str>),
    Unbond(u16, Option<u64>),
    Lease(u16),
    EndLease(usize),
    Payout(u16),
    Jail(u16),
    Unjail(u16),
    Tombstone(u16),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let node = || 1..6u16;
    let units = || prop_oneof![1..5_000 * HOL, 1..400_000 * HOL];
    let refused = prop_oneof![4 => Just(None), 1 => Just(Some("HOLD_ENDED")), 1 => Just(Some("INTERNAL"))];
    prop_oneof![
        3 => (node(), any::<bool>(), 400..3_000u32).prop_map(|(n, compute, r)| Op::Register(n, compute, r)),
        4 => (node(), 400..3_000u32).prop_map(|(n, r)| Op::Rate(n, r)),
        6 => (node(), 1..4u8, units(), prop::bool::weighted(0.1))
            .prop_map(|(node, by, units, elsewhere)| Op::Offer { node, by, units, elsewhere }),
        6 => (node(), 0..4usize).prop_map(|(n, which)| Op::Bond(n, which)),
        12 => (any::<usize>(), refused).prop_map(|(which, refused)| Op::Answer(which, refused)),
        4 => (node(), proptest::option::of(units())).prop_map(|(n, units)| Op::Unbond(n, units)),
        4 => node().prop_map(Op::Lease),
        2 => any::<usize>().prop_map(Op::EndLease),
        1 => node().prop_map(Op::Payout),
        2 => node().prop_map(Op::Jail),
        2 => node().prop_map(Op::Unjail),
        1 => node().prop_map(Op::Tombstone),
        8 => (0..EPOCH_MS * 20).prop_map(Op::Wait),
    ]
}

/// Two owners share the nodes.
fn owner_of(node: u16) -> Principal {
    owner(1 + (node % 2) as u8)
}

impl Play {
    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Register(n, compute, rating) => {
                let (kind, claim) =
                    if compute { (NodeKind::Compute, rating) } else { (NodeKind::Verifier, 0) };
                drop(
                    self.staking
                        .ask(owner_of(n), Command::RegisterNode(registration(n, owner_of(n), kind, claim))),
                );
            }
            Op::Rate(n, rating_milli_cu) => {
                drop(self.staking.ask(STAFF, Command::SetRating { node: node_id(n), rating_milli_cu }));
            }
            Op::Offer { node, by, units, elsewhere } => {
                let hold = SeenHold {
                    hold: self.staking.fresh(),
                    debit: Id::from_bytes([by; 16]),
                    credit: system_account(if elsewhere { "fees/HOL" } else { "bonds/HOL" }),
                    amount: Amount::new(units),
                    coordination: node_id(node),
                };
                self.hear(Command::NoteHolds { opener: owner(by), holds: vec![hold] });
            }
            Op::Bond(n, which) => {
                let offered = self.state().nodes.get(&node_id(n)).and_then(|node| node.offers.get(which));
                let hold = offered.map_or(Id::default(), |offer| offer.hold);
                drop(self.staking.ask(owner_of(n), Command::Bond { node: node_id(n), hold }));
            }
            Op::Answer(which, refused) => self.answer(which, refused),
            Op::Unbond(n, units) => {
                let amount = units.map(Amount::new);
                let unbond = Command::Unbond { node: node_id(n), amount, account: None };
                let answer = self.staking.ask(owner_of(n), unbond);
                let leased = self.leases.values().any(|of| *of == n);
                assert!(!leased || answer.is_err(), "E-6.5: {n} unbonds while it holds a lease");
                let says_so = answer.is_err_and(|refusal| refusal.reason == "NODE_HOLDS_LEASE");
                assert!(leased || !says_so, "E-6.5: {n} holds no lease");
            }
            Op::Lease(n) => {
                self.granted += 1;
                let grant = self.granted;
                let fact =
                    LeaseFact { grant, node: node_id(n), until: Some(self.staking.now.after_millis(60_000)) };
                self.leases.insert(grant, n);
                self.staking.hear(SCHEDULING, Command::NoteLeases(vec![fact]));
            }
            Op::EndLease(which) => {
                let grants: Vec<u64> = self.leases.keys().copied().collect();
                let Some(grant) = grants.get(which % grants.len().max(1)) else { return };
                let n = self.leases.remove(grant).expect("it is among them");
                let fact = LeaseFact { grant: *grant, node: node_id(n), until: None };
                self.staking.hear(SCHEDULING, Command::NoteLeases(vec![fact]));
            }
            Op::Payout(n) => {
                let account = Id::v7(1, [n as u8; 10]);
                drop(self.staking.ask(owner_of(n), Command::SetPayoutAccount { node: node_id(n), account }));
            }
            Op::Jail(n) => {
                drop(self.staking.ask(STAFF, Command::Jail { node: node_id(n), cause: "why".into() }));
            }
            Op::Unjail(n) => drop(self.staking.ask(STAFF, Command::Unjail { node: node_id(n) })),
            Op::Tombstone(n) => {
                drop(self.staking.ask(STAFF, Command::Tombstone { node: node_id(n), cause: "why".into() }));
            }
            Op::Wait(ms) => self.staking.wait(ms),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn whatever_is_asked_and_answered_the_invariants_hold_and_the_log_tells_it_again(
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut play = Play::new(&with(|params| params.epoch_s = 45));
        for op in &ops {
            play.apply(op);
            play.agrees();
        }
        play.staking.check_replay();
        // What is sent, the ledger can read; and it is the last event of its entry (the shard sees to that).
        for event in play.staking.events() {
            if let Some(send) = event.send() {
                let read = react::command(ServiceId(3), send.command).unwrap();
                prop_assert!(!matches!(read, holmes_ledger::Command::Malformed { .. }), "{read:?}");
            }
        }
    }

    #[test]
    fn all_that_was_bonded_comes_back_when_all_is_unbonded(
        bonds in proptest::collection::vec((1..6u16, 1..600_000 * HOL), 1..12),
    ) {
        let mut play = Play::new(&with(|params| params.epoch_s = 45));
        for (n, units) in bonds {
            play.apply(&Op::Register(n, true, 1_000));
            let by = 1 + (n % 2) as u8;
            play.apply(&Op::Offer { node: n, by, units, elsewhere: false });
            play.apply(&Op::Bond(n, 0));
            play.apply(&Op::Wait(1));
            while !play.state().awaited.is_empty() {
                play.answer(0, None);
            }
        }
        (1..6).for_each(|n| play.apply(&Op::Unbond(n, None)));
        for day in 0..200 {
            play.staking.wait(EPOCH_MS);
            if day < 18 {
                play.answer(0, Some("INTERNAL"));
            }
            while !play.state().awaited.is_empty() {
                play.answer(0, None);
                play.staking.wait(0);
            }
            play.agrees();
        }
        prop_assert_eq!(play.vault, 0);
        let paid: u64 = play.staking.events().map(|event| match event.event {
            Some(Kind::PayoutMade(e)) => e.amount_units,
            _ => 0,
        }).sum();
        let posted: u64 = play.staking.events().map(|event| match event.event {
            Some(Kind::BondPosted(e)) => e.amount_units,
            _ => 0,
        }).sum();
        prop_assert_eq!(paid, posted);
    }
}
