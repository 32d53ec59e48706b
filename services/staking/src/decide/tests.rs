//! Given, when, then.

use holmes_kernel::machine::Rejection as _;
use holmes_kernel::{
    Amount, Ctx, Id, LogId, Machine, Meta, Opened, Principal, PrincipalKind, ServiceId, Time,
};
use holmes_proto::staking::v1::event::Event as Kind;
use holmes_proto::staking::v1::{BondCause, BondChanged, NodeKind, NodeRegistered, NodeState};

use crate::command::{LeaseFact, SeenHold};
use crate::params::MOST_OFFERS_PER_NODE;
use crate::state::vault_account;
use crate::{Command, LEDGER, Reply, Staking, State, params};

const HOL: u64 = 1_000_000_000;
const DAY_MS: u64 = 86_400_000;
const ALICE: Principal = Principal::new(PrincipalKind::Account, Id::from_bytes([1; 16]));
const BOB: Principal = Principal::new(PrincipalKind::Account, Id::from_bytes([2; 16]));
const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
const TELLER: Principal = Principal::service(LEDGER);
const NODE: Id = Id::from_bytes([11; 16]);
const VERIFIER: Id = Id::from_bytes([12; 16]);

/// Staking in which Alice owns a compute node of 1 CU and a verifier, neither bonded.
struct Given {
    state: State,
    now: Time,
    seq: u64,
    holds: u8,
}

impl Given {
    fn new() -> Given {
        let opened = Opened { params: params::encoded_defaults(), ..Opened::default() };
        let state = Staking::init(&opened).unwrap();
        let mut given = Given { state, now: Time::from_millis(20_832 * DAY_MS), seq: 1, holds: 0 };
        for (node, kind, claim_milli_cu) in
            [(NODE, NodeKind::Compute, 1_000), (VERIFIER, NodeKind::Verifier, 0)]
        {
            given.happened(
                ALICE,
                Kind::NodeRegistered(NodeRegistered {
                    node: node.to_bytes().to_vec().into(),
                    owner: ALICE.to_bytes().to_vec().into(),
                    public_key: vec![0; 32].into(),
                    kind: kind.into(),
                    claim_milli_cu,
                }),
            );
        }
        given
    }

    /// A node in a state, with 1,000 HOL bonded where that state has a bond.
    fn at(state: NodeState) -> Given {
        let mut given = Given::new();
        if state == NodeState::Registered {
            return given;
        }
        given.rate(1_000);
        given.bond(NODE, 1_000 * HOL);
        match state {
            NodeState::Jailed => given.done(STAFF, Command::Jail { node: NODE, cause: "late".into() }),
            NodeState::Tombstoned => {
                given.done(STAFF, Command::Tombstone { node: NODE, cause: "lied".into() })
            }
            NodeState::Unbonding | NodeState::Exited => given.done(ALICE, all()),
            _ => {}
        }
        if state == NodeState::Exited {
            given.now = given.now.after_millis(14 * DAY_MS);
            given.done(Principal::SYSTEM, Command::Pay);
            given.answer(None);
        }
        assert_eq!(given.stands(), state);
        given
    }

    fn happened(&mut self, principal: Principal, kind: Kind) {
        let event = holmes_proto::staking::v1::Event { event: Some(kind) };
        let meta = Meta { ts: self.now, principal, term: 1, seq: self.seq };
        Staking::evolve(&mut self.state, &event, &meta);
        self.seq += 1;
    }

    fn when(&mut self, principal: Principal, command: Command) -> Result<Vec<Kind>, &'static str> {
        let ctx = Ctx { now: self.now, principal, log: LogId::new(1, ServiceId(3)), term: 1, seq: self.seq };
        let mut events = Vec::new();
        Staking::decide(&self.state, &command, &ctx, &mut events).map_err(|why| why.reason())?;
        let kinds: Vec<Kind> = events.iter().filter_map(|event| event.event.clone()).collect();
        kinds.iter().for_each(|kind| self.happened(principal, kind.clone()));
        assert_eq!(Staking::check_step(&self.state, &events), Ok(()), "{command:?}");
        assert_eq!(Staking::check(&self.state), [], "{command:?}");
        Ok(kinds)
    }

    fn done(&mut self, principal: Principal, command: Command) {
        let kinds = self.when(principal, command).unwrap();
        assert!(!kinds.is_empty());
    }

    fn rate(&mut self, rating_milli_cu: u32) {
        self.done(STAFF, Command::SetRating { node: NODE, rating_milli_cu });
    }

    fn seen(&mut self, node: Id, units: u64) -> SeenHold {
        self.holds += 1;
        let hold = Id::v7(self.now.millis(), [self.holds; 10]);
        let credit = vault_account("HOL");
        SeenHold {
            hold,
            debit: Id::from_bytes([9; 16]),
            credit,
            amount: Amount::new(units),
            coordination: node,
        }
    }

    /// Alice's hold is seen and asked for; the ledger has not answered.
    fn ask_bond(&mut self, node: Id, units: u64) {
        let seen = self.seen(node, units);
        self.done(TELLER, Command::NoteHolds { opener: ALICE, holds: vec![seen] });
        self.done(ALICE, Command::Bond { node, hold: seen.hold });
    }

    fn bond(&mut self, node: Id, units: u64) {
        self.ask_bond(node, units);
        self.answer(None);
    }

    fn answer(&mut self, refused: Option<&str>) {
        let seq = *self.state.awaited.keys().next_back().unwrap();
        self.done(TELLER, Command::Answered { seq, refused: refused.map(str::to_owned) });
    }

    fn stands(&self) -> NodeState {
        self.state.nodes.get(&NODE).unwrap().state()
    }
}

/// A lease that was granted until then, in seconds since 1970, or that has ended.
fn leased(grant: u64, node: Id, until_s: Option<u64>) -> LeaseFact {
    LeaseFact { grant, node, until: until_s.map(|s| Time::from_millis(s * 1_000)) }
}

fn all() -> Command {
    Command::Unbond { node: NODE, amount: None, account: None }
}

#[test]
fn every_state_takes_what_leads_on_and_refuses_the_rest() {
    // E-6.1
    use NodeState::{Active, Exited, Jailed, Registered, Tombstoned, Unbonding};
    let jail = || Command::Jail { node: NODE, cause: "late".into() };
    let unjail = || Command::Unjail { node: NODE };
    let rate = || Command::SetRating { node: NODE, rating_milli_cu: 900 };
    let bury = || Command::Tombstone { node: NODE, cause: "lied".into() };
    let wrong = Err("WRONG_STATE");
    let rows = [
        (Registered, [wrong, wrong, Ok(Registered), Err("AMOUNT_ZERO"), Ok(Tombstoned)]),
        (Active, [Ok(Jailed), wrong, Ok(Active), Ok(Unbonding), Ok(Tombstoned)]),
        (Jailed, [Ok(Jailed), Ok(Active), Ok(Jailed), Ok(Unbonding), Ok(Tombstoned)]),
        (Unbonding, [wrong, wrong, wrong, wrong, Ok(Tombstoned)]),
        (Exited, [wrong, wrong, wrong, wrong, Ok(Tombstoned)]),
        (Tombstoned, [wrong, wrong, wrong, Ok(Tombstoned), Ok(Tombstoned)]),
    ];
    for (from, expected) in rows {
        let asked = [(STAFF, jail()), (STAFF, unjail()), (STAFF, rate()), (ALICE, all()), (STAFF, bury())];
        for ((who, command), expected) in asked.into_iter().zip(expected) {
            let mut given = Given::at(from);
            let became = given.when(who, command.clone()).map(|_| given.stands());
            assert_eq!(became, expected, "{from:?} {command:?}");
        }
    }
}

#[test]
fn a_verifier_needs_its_flat_bond_and_no_rating() {
    // E-6.2
    let mut given = Given::new();
    given.bond(VERIFIER, 1_000 * HOL - 1);
    assert_eq!(given.state.nodes.get(&VERIFIER).unwrap().state(), NodeState::Registered);
    given.bond(VERIFIER, 1);
    assert_eq!(given.state.nodes.get(&VERIFIER).unwrap().state(), NodeState::Active);
    assert_eq!(given.state.inputs().bonded, Amount::ZERO); // S is of compute bonds
    let rate = Command::SetRating { node: VERIFIER, rating_milli_cu: 1_000 };
    assert_eq!(given.when(STAFF, rate), Err("RATING_OUT_OF_RANGE"));
}

#[test]
fn a_higher_rating_asks_for_its_collateral_at_once() {
    // E-6.2: the days to follow are for rises of the base.
    let mut given = Given::at(NodeState::Active);
    let kinds = given.when(STAFF, Command::SetRating { node: NODE, rating_milli_cu: 64_000 }).unwrap();
    let [Kind::BondChanged(BondChanged { qualified, cause, required_units, .. })] = kinds.as_slice() else {
        panic!("{kinds:?}")
    };
    assert_eq!((*qualified, *cause), (false, BondCause::Rated as i32));
    assert!(*required_units >= 64 * 250 * HOL);
    assert_eq!(given.state.inputs().nodes, 0);
}

#[test]
fn nobody_speaks_for_time_or_for_another_service() {
    let mut given = Given::new();
    let of_time = [
        Command::OpenVault,
        Command::Recompute,
        Command::Continue,
        Command::Lapse,
        Command::Pay,
        Command::Seal,
    ];
    let seen = given.seen(NODE, HOL);
    let of_ledger = [
        Command::NoteHolds { opener: ALICE, holds: vec![seen] },
        Command::Answered { seq: 1, refused: None },
    ];
    let of_emission =
        [Command::NoteEmission { next_emission: Amount::new(1), circulating: Some(Amount::new(2)) }];
    let of_scheduling = [Command::NoteLeases(vec![leased(1, NODE, Some(60))])];
    for command in of_time.into_iter().chain(of_ledger).chain(of_emission).chain(of_scheduling) {
        for who in [ALICE, STAFF, Principal::service(ServiceId(9))] {
            assert_eq!(given.when(who, command.clone()), Err("FORBIDDEN"), "{command:?}");
        }
    }
}

#[test]
fn holds_of_others_or_in_favour_of_others_are_no_offers_and_the_newest_are_kept() {
    let mut given = Given::new();
    let elsewhere = SeenHold { credit: vault_account("USD"), ..given.seen(NODE, HOL) };
    let unknown = given.seen(Id::from_bytes([99; 16]), HOL);
    let mine = given.seen(NODE, HOL);
    let note = |opener, holds| Command::NoteHolds { opener, holds };
    assert_eq!(given.when(TELLER, note(ALICE, vec![elsewhere, unknown])), Ok(vec![]));
    assert_eq!(given.when(TELLER, note(BOB, vec![mine])), Ok(vec![]));
    for _ in 0..2 * MOST_OFFERS_PER_NODE {
        let seen = given.seen(NODE, HOL);
        given.done(TELLER, note(ALICE, vec![seen]));
    }
    let offers = &given.state.nodes.get(&NODE).unwrap().offers;
    assert_eq!(offers.len(), MOST_OFFERS_PER_NODE);
    assert_eq!(offers.back().unwrap().hold, Id::v7(given.now.millis(), [given.holds; 10]));
}

#[test]
fn a_refusal_that_was_not_the_holds_fault_leaves_the_offer_and_a_second_try_is_another_transfer() {
    let mut given = Given::new();
    given.ask_bond(NODE, HOL);
    given.answer(Some("INTERNAL"));
    let node = given.state.nodes.get(&NODE).unwrap();
    assert_eq!((node.bond, node.pending, node.bond_refused.as_str()), (0, 0, "INTERNAL"));
    let hold = node.offers[0].hold;
    let send = |kinds: Vec<Kind>| match kinds.as_slice() {
        [Kind::BondRequested(e)] => e.send.clone(),
        other => panic!("{other:?}"),
    };
    let first = send(given.when(ALICE, Command::Bond { node: NODE, hold }).unwrap());
    given.answer(Some("EXISTS_DIFFERENT")); // somebody has guessed its transfer id
    let second = send(given.when(ALICE, Command::Bond { node: NODE, hold }).unwrap());
    assert_ne!(first, second);
    given.answer(None);
    let late = given.when(TELLER, Command::Answered { seq: 3, refused: None });
    assert_eq!(late, Ok(vec![])); // an answer to none is dropped
    assert_eq!(given.state.vault.units, HOL);
}

#[test]
fn a_part_leaves_only_if_what_stays_is_enough_and_all_of_it_only_when_nothing_is_on_its_way_in() {
    // E-6.2, E-6.5
    let mut given = Given::at(NodeState::Active);
    let part = |units| Command::Unbond { node: NODE, amount: Some(Amount::new(units)), account: None };
    let required = given.state.nodes.get(&NODE).unwrap().required(&given.state.params, given.now).units();
    let surplus = 1_000 * HOL - required;
    assert_eq!(given.when(ALICE, part(surplus + 1)), Err("BELOW_REQUIRED"));
    assert_eq!(given.when(ALICE, part(1_000 * HOL + 1)), Err("EXCEEDS_BOND"));
    given.done(ALICE, part(surplus));
    assert_eq!(given.stands(), NodeState::Active);
    given.ask_bond(NODE, HOL);
    assert_eq!(given.when(ALICE, all()), Err("BOND_PENDING"));
    given.answer(Some("HOLD_ENDED"));
    let events: Vec<_> = given.when(ALICE, all()).unwrap();
    let events: Vec<_> =
        events.into_iter().map(|kind| holmes_proto::staking::v1::Event { event: Some(kind) }).collect();
    let ready_at = given.now.after_millis(14 * DAY_MS);
    let reply = Reply::Unbonding { unbonding: 2, amount: Amount::new(required), ready_at };
    assert_eq!(Staking::reply(&all(), &events), reply);
}

#[test]
fn a_node_that_holds_a_lease_does_not_unbond_and_once_its_leases_have_ended_it_does() {
    // E-6.5
    for from in [NodeState::Active, NodeState::Jailed, NodeState::Tombstoned] {
        let mut given = Given::at(from);
        let (scheduling, at) = (Principal::service(crate::SCHEDULING), given.now.millis() / 1_000);
        let note = |facts: &[LeaseFact]| Command::NoteLeases(facts.to_vec());
        let another = leased(9, VERIFIER, Some(at + 60));
        given.done(
            scheduling,
            note(&[leased(5, NODE, Some(at + 60)), another, leased(6, NODE, Some(at + 20))]),
        );
        let part = Command::Unbond { node: NODE, amount: Some(Amount::new(1)), account: None };
        for asked in [all(), part] {
            assert_eq!(given.when(ALICE, asked), Err("NODE_HOLDS_LEASE"), "{from:?}");
        }
        assert_eq!(given.when(BOB, all()), Err("FORBIDDEN"), "whose it is comes first");
        let ctx = Ctx { now: given.now, principal: ALICE, log: LogId::default(), term: 1, seq: 1 };
        let why = Staking::decide(&given.state, &all(), &ctx, &mut Vec::new()).unwrap_err();
        let says = |words| assert!(why.to_string().contains(words), "{why}");
        ["holds 2 leases", "SIGTERM", "within 60 s"].into_iter().for_each(says);
        assert!(!why.is_remembered(), "the same request succeeds when the lease is over");
        given.done(scheduling, note(&[leased(5, NODE, None)]));
        assert_eq!(given.when(ALICE, all()), Err("NODE_HOLDS_LEASE"), "one is left");
        given.now = given.now.after_millis(3_600_000);
        assert_eq!(given.when(ALICE, all()), Err("NODE_HOLDS_LEASE"), "it may have been renewed");
        given.done(
            scheduling,
            note(&[leased(6, NODE, None), leased(7, NODE, Some(0)), leased(7, NODE, None)]),
        );
        given.done(ALICE, all());
        assert_eq!(given.state.leases.keys().collect::<Vec<_>>(), [&VERIFIER]);
    }
}

#[test]
fn a_lease_that_staking_hears_of_late_does_not_undo_an_unbonding() {
    // E-6.5: the race. What unbonds stays slashable until it is paid, and is paid in its time.
    let mut given = Given::at(NodeState::Active);
    let scheduling = Principal::service(crate::SCHEDULING);
    given.done(ALICE, all());
    given.done(scheduling, Command::NoteLeases(vec![leased(5, NODE, Some(u64::MAX / 2_000_000))]));
    let node = given.state.nodes.get(&NODE).unwrap();
    assert_eq!((node.state(), node.bond, node.unbonding), (NodeState::Unbonding, 0, 1_000 * HOL));
    given.now = given.now.after_millis(14 * DAY_MS);
    given.done(Principal::SYSTEM, Command::Pay);
    given.answer(None);
    assert_eq!(given.stands(), NodeState::Exited);
    given.done(scheduling, Command::NoteLeases(vec![leased(5, NODE, None)]));
    assert!(given.state.leases.is_empty());
}

#[test]
fn a_node_asks_so_often_and_no_more_but_is_never_kept_in() {
    let mut given = Given::new();
    given.bond(NODE, 1_000 * HOL);
    let part = || Command::Unbond { node: NODE, amount: Some(Amount::new(1)), account: None };
    (0..32).for_each(|_| given.done(ALICE, part()));
    assert_eq!(given.when(ALICE, part()), Err("TOO_MANY_UNBONDINGS"));
    given.done(ALICE, all());
    assert_eq!(given.stands(), NodeState::Unbonding);
}

#[test]
fn the_base_follows_what_emission_publishes_and_parameters_only_before() {
    // E-6.2
    let mut given = Given::new();
    let emission = Principal::service(crate::EMISSION);
    let before = given.state.inputs();
    assert_eq!(before.next_emission, given.state.params.inputs.next_emission);
    let note = |circulating| Command::NoteEmission { next_emission: Amount::new(7), circulating };
    given.done(emission, note(None));
    let told = given.state.inputs();
    assert_eq!((told.next_emission, told.circulating), (Amount::new(7), before.circulating));
    given.done(emission, note(Some(Amount::new(9))));
    assert_eq!(given.state.inputs().circulating, Amount::new(9));
    given.done(emission, note(None));
    assert_eq!(given.state.inputs().circulating, Amount::new(9), "what was said last still holds");
}

#[test]
fn every_epoch_is_sealed_in_its_turn_and_only_when_it_is_over() {
    // E-0.5
    let mut given = Given::new();
    let epoch = given.now.millis() / DAY_MS + 1;
    assert_eq!(given.state.seals_next, epoch);
    let sealed_at = Time::from_millis(epoch * DAY_MS + 5_000);
    let seal = |state: &State| state.seals_at();
    assert_eq!(seal(&given.state), Some(sealed_at));
    given.now = sealed_at.after_millis(2 * DAY_MS);
    for missed in [epoch, epoch + 1, epoch + 2] {
        let kinds = given.when(Principal::SYSTEM, Command::Seal).unwrap();
        assert!(matches!(kinds.as_slice(), [Kind::EpochSealed(e)] if e.epoch == missed), "{kinds:?}");
    }
    assert!(seal(&given.state).unwrap() > given.now);
}
