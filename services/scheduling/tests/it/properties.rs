//! Whatever comes in whatever order: the invariants hold after every command, and the log gives the same state again.

use std::collections::BTreeMap;

use holmes_kernel::Id;
use holmes_proto::scheduling::v1::{DetachReason, LeaseEnd};
use holmes_scheduling::Command;
use holmes_scheduling::command::{Attach, Line, MarketFact, NodeFact, Place, Presence, Reply};
use holmes_scheduling::offer::Offer;
use holmes_scheduling::state::LeaseId;
use proptest::prelude::*;

use crate::harness::{MODEL, START, World, capabilities, gateway, node, owner, public, session, with};

#[derive(Clone, Debug)]
enum Step {
    Start(u8),
    Attach(u8, u8, u32),
    Detach(u8),
    Presence(u8, Vec<u8>),
    Place(u64, Option<u8>, Vec<u8>),
    Renew(usize, u64),
    End(usize),
    Report(usize, u8, u64),
    Checkpoint(usize, u8, u64),
    Stand(u8, bool, u32),
    Fund(u128),
    Closing(u64),
    Close,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (100u8..102).prop_map(Step::Start),
        4 => (1u8..6, 100u8..102, 1u32..4).prop_map(|(n, of, slots)| Step::Attach(n, of, slots)),
        1 => (1u8..6).prop_map(Step::Detach),
        2 => (100u8..102, prop::collection::vec(any::<u8>(), 2)).prop_map(|(of, beats)| Step::Presence(of, beats)),
        8 => (1u64..400, prop::option::weighted(0.2, 1u8..6), prop::collection::vec(1u8..6, 0..2))
            .prop_map(|(allowance, named, avoid)| Step::Place(allowance, named, avoid)),
        2 => (0usize..8, 1u64..600).prop_map(|(at, allowance)| Step::Renew(at, allowance)),
        2 => (0usize..8).prop_map(Step::End),
        6 => (0usize..8, 0u8..6, 0u64..20).prop_map(|(at, call, tokens)| Step::Report(at, call, tokens)),
        6 => (0usize..8, 0u8..6, 0u64..20).prop_map(|(at, call, tokens)| Step::Checkpoint(at, call, tokens)),
        3 => (1u8..6, any::<bool>(), 0u32..3).prop_map(|(n, qualified, rating)| Step::Stand(n, qualified, rating)),
        1 => (0u128..5_000).prop_map(Step::Fund),
        1 => (0u64..30_000).prop_map(Step::Closing),
        1 => Just(Step::Close),
        3 => (0u64..20_000).prop_map(Step::Wait),
    ]
}

fn line(call: u8, tokens: u64) -> Line {
    Line {
        call: Id::v7(START.millis(), [call; 10]),
        input_tokens: tokens,
        output_tokens: tokens,
        finish: 1,
        prompt_commitment: [1; 32],
        output_commitment: [2; 32],
        node_signature: [[3; 32]; 2],
        gateway_signature: [[4; 32]; 2],
    }
}

struct Play {
    world: World,
    leases: Vec<LeaseId>,
    nonce: u8,
    /// What leases owe or were paid, as it was last seen, and the calls that were ever checkpointed or reported.
    owed: BTreeMap<u64, BTreeMap<Id, bool>>,
    /// The market has closed the session without a word of scheduling's: what was not reported then is nobody's.
    closed: bool,
}

impl Play {
    fn new() -> Play {
        let mut world = World::new(&with(|params| {
            (params.most_leases_per_session, params.most_leases, params.late_calls_ms) = (4, 6, 15_000);
        }));
        for n in 1..6 {
            let registered =
                NodeFact::Registered { node: node(n), owner: owner(n % 3), public_key: public(n) };
            let staking = holmes_kernel::Principal::service(holmes_scheduling::STAKING);
            world.ask(staking, Command::NoteNodes(vec![registered])).unwrap();
        }
        Play { world, leases: Vec::new(), nonce: 0, owed: BTreeMap::new(), closed: false }
    }

    /// A call that was checkpointed is still to be metered, or was: no lease is forgotten that owes, no call metered twice.
    fn keeps_what_it_owes(&mut self) -> bool {
        let (owed, closed) = (&mut self.owed, self.closed);
        self.world.look(|state| {
            let kept = owed.iter().all(|(seq, calls)| {
                let lease = state.leases.get(seq);
                calls.iter().all(|(call, paid)| match lease {
                    Some(lease) => lease.calls.contains_key(call) || lease.running.contains_key(call),
                    // It was metered and forgotten while time passed.
                    None => *paid || matches!(state.calls.find(call), Some(Some(_))),
                })
            });
            for (seq, lease) in state.leases.iter() {
                let calls = owed.entry(*seq).or_default();
                calls.extend(lease.running.keys().map(|call| (*call, false)));
                calls.extend(lease.calls.keys().map(|call| (*call, true)));
            }
            kept || closed
        })
    }

    /// In the end everything is metered, or its session was closed by the market alone.
    fn settles(&mut self) {
        self.play(Step::Closing(1_000));
        self.world.wait(1_000_000);
        self.world.look(|state| {
            assert!(state.unsettled.is_empty() && state.drains.is_empty());
            assert!(state.leases.values().all(|lease| lease.running.is_empty()));
            let reserved = state.sessions.values().map(|session| session.reserved);
            assert_eq!(reserved.sum::<u128>(), 0);
        });
    }

    /// What gateways, staking and the market do; refusals are answers too.
    fn play(&mut self, step: Step) {
        let staking = holmes_kernel::Principal::service(holmes_scheduling::STAKING);
        let lease = |at: usize, leases: &[LeaseId]| leases.iter().rev().nth(at).copied();
        let (who, command) = match step {
            Step::Start(of) => (gateway(of), Command::StartGateway { public_key: public(of) }),
            Step::Attach(n, of, slots) => {
                self.nonce = self.nonce.wrapping_add(1);
                let offer = Offer::read(&capabilities(slots)).unwrap();
                let (nonce, signature) = ([self.nonce; 16], [[0; 32]; 2]);
                (gateway(of), Command::Attach(Attach { node: node(n), offer, nonce, signature }))
            }
            Step::Detach(n) => {
                let Some(attached) =
                    self.world.look(|state| state.nodes.get(&node(n)).and_then(|n| n.attached))
                else {
                    return;
                };
                let who =
                    holmes_kernel::Principal::new(holmes_kernel::PrincipalKind::Gateway, attached.gateway);
                let (generation, reason) = (attached.generation, DetachReason::Left.into());
                (who, Command::Detach { node: node(n), generation, reason })
            }
            Step::Presence(of, bitmap) => {
                let epoch = self.world.look(|state| state.params.calendar.epoch(state.at));
                let nodes = (1..6).map(|n| (node(n), bitmap.clone())).collect();
                (gateway(of), Command::ReportPresence(Presence { epoch, first_beat: 0, beats: 16, nodes }))
            }
            Step::Place(allowance, named, avoid) => {
                let avoid = avoid.into_iter().map(node).collect();
                let place = Place {
                    session: session(),
                    model: MODEL.into(),
                    allowance,
                    duration_ms: 0,
                    avoid,
                    named: named.map(node),
                    context: 0,
                };
                (gateway(100), Command::Place(place))
            }
            Step::Renew(at, allowance) => {
                let Some(lease) = lease(at, &self.leases) else { return };
                (gateway(100), Command::RenewLease { lease, allowance, duration_ms: 0 })
            }
            Step::End(at) => {
                let Some(lease) = lease(at, &self.leases) else { return };
                (gateway(100), Command::EndLease { lease, reason: LeaseEnd::Released.into() })
            }
            Step::Report(at, call, tokens) => {
                let Some(lease) = lease(at, &self.leases) else { return };
                let lines = vec![line(call, tokens), line(call + 1, 1)];
                (gateway(100), Command::ReportCalls { lease, lines })
            }
            Step::Checkpoint(at, call, tokens) => {
                let Some(lease) = lease(at, &self.leases) else { return };
                let lines = vec![(lease, line(call, tokens)), (lease, line(call + 1, 2))];
                (gateway(100), Command::Checkpoint(lines))
            }
            Step::Stand(n, qualified, rating) => {
                let (rating_milli_cu, required) = (rating * 1_000, u64::from(rating) + 1);
                let (node, owner) = (node(n), owner(n % 3));
                let stands = NodeFact::Stands { node, owner, qualified, rating_milli_cu, required };
                (staking, Command::NoteNodes(vec![stands]))
            }
            Step::Fund(cap) => {
                let expires_at = START.after_millis(1_000_000);
                let funded = MarketFact::Funded { session: session(), renter: owner(1), cap, expires_at };
                return self.world.market(vec![funded]);
            }
            Step::Closing(ms) => {
                let drains_until = self.world.rig.now().after_millis(ms);
                let closing = MarketFact::Closing { session: session(), drains_until };
                return self.world.market(vec![closing]);
            }
            Step::Close => {
                self.closed = true;
                return self.world.market(vec![MarketFact::Closed { session: session() }]);
            }
            Step::Wait(ms) => return self.world.wait(ms),
        };
        if let Ok(Reply::Placed(granted)) = self.world.ask(who, command) {
            self.leases.extend(LeaseId::from_slice(&granted.lease));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn nothing_breaks_an_invariant_and_the_log_tells_all(steps in prop::collection::vec(step(), 1..80)) {
        let mut play = Play::new();
        for n in 1..6 {
            play.play(Step::Stand(n, true, 1));
        }
        play.play(Step::Start(100));
        play.play(Step::Start(101));
        for step in steps {
            play.play(step);
            prop_assert_eq!(play.world.rig.check(), []);
            prop_assert!(play.keeps_what_it_owes(), "what was checkpointed is lost");
        }
        play.settles();
        prop_assert!(play.world.rig.restart().unwrap().is_empty(), "the rebuilt states have the same digests");
    }
}
