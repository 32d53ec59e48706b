//! Given, when, then: transfers here, accounts and the border beside it.

mod accounts;
mod rights;

use holmes_kernel::machine::Rejection as _;
use holmes_kernel::{
    Amount, Ctx, Id, LogId, Machine, Meta, Opened, Principal, PrincipalKind, ServiceId, Time,
};
use holmes_proto::ledger::v1::TransferCode::{self as Code, *};
use holmes_proto::ledger::v1::{Asset, Params};
use prost::Message;

use crate::command::{Coordinator, Kind, Move, Movement, OpenAccount, Rejection, Transfer, Via};
use crate::{Command, Ledger, Reply, State, params, system_account};

const HOL: u32 = 1;
const USD: u32 = 2;
const START_MS: u64 = 1_800_000_000_000;
const MARKET: Principal = Principal::service(ServiceId(9));
const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
const ALICE: Principal = Principal::new(PrincipalKind::Account, Id::from_bytes([1; 16]));
const BOB: Principal = Principal::new(PrincipalKind::Account, Id::from_bytes([2; 16]));

/// A ledger with HOL (cap 10^18) and USD, in which Alice has 1,000 of each and Bob nothing.
struct Given {
    state: State,
    now: Time,
    seq: u64,
    ids: u8,
}

fn assets() -> Vec<Asset> {
    let hol = Asset { id: HOL, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000_000_000_000 };
    vec![hol, Asset { id: USD, name: "USD".into(), decimals: 6, cap_units: 0 }]
}

fn account(owner: Principal, asset: u32) -> Id {
    Id::v7(START_MS, [owner.id.to_bytes()[0], asset as u8, 0, 0, 0, 0, 0, 0, 0, 0])
}

impl Given {
    fn new() -> Given {
        Given::with(params::defaults(assets()))
    }

    fn with(params: Params) -> Given {
        let opened = Opened { params: params.encode_to_vec(), ..Opened::default() };
        let state = Ledger::init(&opened).unwrap();
        let mut given = Given { state, now: Time::from_millis(START_MS), seq: 1, ids: 0 };
        for owner in [ALICE, BOB] {
            for asset in [HOL, USD] {
                let (account, via) = (account(owner, asset), Via::Call);
                let open = OpenAccount { account, asset, owner, name: String::new(), history: false, via };
                given.when(owner, Command::OpenAccount(open)).unwrap();
            }
        }
        let grant = given.single(system_account("genesis/HOL"), account(ALICE, HOL), 1_000);
        assert_eq!(given.transfers(MARKET, &[grant]), [Ok]);
        given.deposit(account(ALICE, USD), 1_000, "bank 1").unwrap();
        given
    }

    fn when(&mut self, principal: Principal, command: Command) -> Result<Reply, Rejection> {
        self.now = self.now.next();
        let ctx = Ctx { now: self.now, principal, log: LogId::default(), term: 1, seq: self.seq };
        let mut events = Vec::new();
        Ledger::decide(&self.state, &command, &ctx, &mut events)?;
        for event in &events {
            let meta = Meta { ts: self.now, principal, term: 1, seq: self.seq };
            Ledger::evolve(&mut self.state, event, &meta);
            self.seq += 1;
        }
        assert_eq!(Ledger::check_step(&self.state, &events), Result::Ok(()));
        assert_eq!(Ledger::check(&self.state), []);
        Result::Ok(Ledger::reply(&command, &events))
    }

    fn transfers(&mut self, principal: Principal, transfers: &[Transfer]) -> Vec<Code> {
        self.results(principal, Via::Call, transfers).into_iter().map(|(code, ..)| code).collect()
    }

    fn results(&mut self, who: Principal, via: Via, transfers: &[Transfer]) -> Vec<(Code, u64, u64)> {
        let command = Command::CreateTransfers { via, transfers: transfers.to_vec() };
        match self.when(who, command).unwrap() {
            Reply::Transfers(results) => {
                results.iter().map(|r| (r.code, r.amount.units(), r.burned.units())).collect()
            }
            Reply::Done | Reply::Recorded { .. } => panic!("transfers answer transfers"),
        }
    }

    fn deposit(&mut self, account: Id, units: u64, reference: &str) -> Result<Reply, Rejection> {
        self.when(MARKET, Command::RecordDeposit(movement(account, units, reference)))
    }

    fn balance(&self, id: Id) -> (u64, u64, u64) {
        let balance = &self.state.account(&id).unwrap().balance;
        (balance.net().0, balance.debits_pending, balance.credits_pending)
    }

    fn kind(&mut self, kind: Kind) -> Transfer {
        self.ids += 1;
        let id = Id::v7(self.now.millis(), [self.ids; 10]);
        Transfer { id, linked: false, tag: 0, kind }
    }

    fn single(&mut self, debit: Id, credit: Id, units: u64) -> Transfer {
        self.kind(Kind::Single(a_move(debit, credit, units)))
    }

    fn pay(&mut self, units: u64) -> Transfer {
        self.single(account(ALICE, HOL), account(BOB, HOL), units)
    }

    fn hold(&mut self, units: u64, timeout_ms: Option<u64>) -> Transfer {
        let of = a_move(account(ALICE, HOL), account(BOB, HOL), units);
        self.kind(Kind::Hold { of, timeout_ms, coordinator: None })
    }

    fn post(&mut self, hold: Id, units: Option<u64>) -> Transfer {
        self.kind(Kind::Post { hold, amount: units.map(Amount::new) })
    }

    fn void(&mut self, hold: Id) -> Transfer {
        self.kind(Kind::Void { hold })
    }
}

fn a_move(debit: Id, credit: Id, units: u64) -> Move {
    Move { debit, credit, amount: Amount::new(units), balancing: false, debit_owner: None }
}

/// The same again under other ids.
fn many(transfer: Transfer, numbers: std::ops::Range<u16>) -> Vec<Transfer> {
    let numbered = |n: u16| {
        let [high, low] = n.to_be_bytes();
        Transfer { id: Id::v7(START_MS, [high, low, 7, 7, 7, 7, 7, 7, 7, 7]), ..transfer }
    };
    numbers.map(numbered).collect()
}

fn linked(transfer: Transfer) -> Transfer {
    Transfer { linked: true, ..transfer }
}

fn movement(account: Id, units: u64, reference: &str) -> Movement {
    Movement { account, amount: Amount::new(units), reference: reference.into() }
}

fn with_burn() -> Given {
    Given::with(Params { burn_rate_ppb: 1_000_000, ..params::defaults(assets()) })
}

#[test]
fn the_whole_cap_stands_in_genesis_and_nothing_else_exists() {
    // E-1.1
    let opened = Opened { params: params::defaults(assets()).encode_to_vec(), ..Opened::default() };
    let state = Ledger::init(&opened).unwrap();
    let sum: u64 = state.accounts.values().map(|account| account.balance.net().0).sum();
    let genesis = state.account(&system_account("genesis/HOL")).unwrap();
    assert_eq!((sum, genesis.balance.net().0), (1_000_000_000_000_000_000, sum));
    for name in ["burn_inbox/HOL", "fees/HOL", "rounding/HOL", "external/USD", "fees/USD", "rounding/USD"] {
        assert!(state.account(&system_account(name)).is_some(), "{name}");
    }
    assert_eq!(Ledger::check(&state), []);
}

#[test]
fn a_transfer_moves_what_is_there_and_no_more() {
    // E-2.1
    let mut given = Given::new();
    let (all, more) = (given.pay(1_000), given.pay(1));
    assert_eq!(given.transfers(ALICE, &[all, more]), [Ok, InsufficientFunds]);
    assert_eq!(given.balance(account(BOB, HOL)), (1_000, 0, 0));
    let back = given.single(account(BOB, HOL), account(ALICE, HOL), 5);
    assert_eq!(
        given.transfers(BOB, &[back, more]),
        [Ok, InsufficientFunds],
        "a failure is remembered (E-2.3)"
    );
}

#[test]
fn every_fault_of_a_transfer_has_its_code_and_moves_nothing() {
    let mut given = Given::new();
    let (alice, bob, usd) = (account(ALICE, HOL), account(BOB, HOL), account(BOB, USD));
    let nobody = Id::v7(START_MS, [9; 10]);
    let external = system_account("external/USD");
    let cases = [
        (given.single(alice, bob, 0), AmountZero),
        (given.single(alice, alice, 1), SameAccount),
        (given.single(nobody, bob, 1), DebitNotFound),
        (given.single(alice, nobody, 1), CreditNotFound),
        (given.single(bob, alice, 1), Forbidden),
        (given.single(alice, usd, 1), AssetMismatch),
        (given.single(account(ALICE, USD), external, 1), ReservedAccount),
        (given.single(alice, bob, u64::MAX), InsufficientFunds),
        (Transfer { id: Id::from_bytes([3; 16]), ..given.single(alice, bob, 1) }, IdInvalid),
        (Transfer { id: Id::v7(START_MS - 3_600_001, [3; 10]), ..given.single(alice, bob, 1) }, IdExpired),
        (Transfer { id: Id::v7(START_MS + 300_002, [3; 10]), ..given.single(alice, bob, 1) }, IdExpired),
        (given.post(nobody, None), HoldNotFound),
        (given.void(nobody), HoldNotFound),
        (given.hold(1, Some(0)), TimeoutInvalid),
        (given.hold(1, Some(params::LONGEST_HOLD.default + 1)), TimeoutInvalid),
    ];
    for (transfer, code) in cases {
        assert_eq!(given.transfers(ALICE, &[transfer]), [code], "{transfer:?}");
        assert_eq!(given.balance(alice), (1_000, 0, 0));
    }
    let from_outside = given.single(external, usd, 1);
    assert_eq!(given.transfers(MARKET, &[from_outside]), [ReservedAccount], "not even a service");
}

#[test]
fn the_same_id_is_exists_with_the_same_content_and_an_error_with_another() {
    // E-2.3
    let mut given = Given::new();
    let pay = given.pay(7);
    assert_eq!(given.transfers(ALICE, &[pay, pay]), [Ok, Exists], "within a batch");
    assert_eq!(given.results(ALICE, Via::Call, &[pay]), [(Exists, 7, 0)], "and behind it");
    for other in [
        Transfer { tag: 1, ..pay },
        Transfer { kind: Kind::Single(a_move(account(ALICE, HOL), account(BOB, HOL), 8)), ..pay },
    ] {
        assert_eq!(given.transfers(ALICE, &[other]), [ExistsDifferent]);
    }
    assert_eq!(given.balance(account(BOB, HOL)), (7, 0, 0));
}

#[test]
fn an_id_that_only_lacked_the_right_is_still_free() {
    // E-2.3: otherwise a stranger could use up the ids of others.
    let mut given = Given::new();
    let pay = given.pay(7);
    assert_eq!(given.transfers(BOB, &[pay]), [Forbidden]);
    assert_eq!(given.transfers(ALICE, &[pay]), [Ok]);
}

#[test]
fn a_hold_is_posted_in_part_and_the_rest_is_free_again() {
    // E-2.2
    let mut given = Given::new();
    let hold = given.hold(600, None);
    let more = given.pay(401);
    assert_eq!(given.transfers(ALICE, &[hold, more]), [Ok, InsufficientFunds], "pending counts");
    assert_eq!(given.balance(account(ALICE, HOL)), (1_000, 600, 0));
    assert_eq!(given.balance(account(BOB, HOL)), (0, 0, 600));
    let (much, post, again, void) = (
        given.post(hold.id, Some(601)),
        given.post(hold.id, Some(250)),
        given.post(hold.id, None),
        given.void(hold.id),
    );
    assert_eq!(given.transfers(ALICE, &[much, post, again, void]), [ExceedsHold, Ok, HoldEnded, HoldEnded]);
    assert_eq!(given.balance(account(ALICE, HOL)), (750, 0, 0));
    assert_eq!(given.balance(account(BOB, HOL)), (250, 0, 0));
    let late = given.void(hold.id);
    assert_eq!(given.transfers(ALICE, &[late]), [HoldEnded], "in a later batch too");
}

#[test]
fn a_hold_is_ended_by_its_opener_its_coordinator_or_its_payee_and_nobody_else() {
    let mut given = Given::new();
    let by_market = given.hold(10, None);
    assert_eq!(given.transfers(MARKET, &[by_market]), [Ok]);
    let (post, void) = (given.post(by_market.id, None), given.void(by_market.id));
    assert_eq!(
        given.transfers(ALICE, &[post, void]),
        [Forbidden, Forbidden],
        "the payer cannot take it back"
    );
    assert_eq!(given.transfers(BOB, &[post]), [Forbidden], "the payee cannot take it");
    assert_eq!(given.transfers(BOB, &[void]), [Ok], "but do without it");

    let of = a_move(account(ALICE, HOL), account(BOB, HOL), 10);
    let coordinator = Some(Coordinator { service: ServiceId(9), id: Id::from_bytes([5; 16]) });
    let hold = given.kind(Kind::Hold { of, timeout_ms: None, coordinator });
    assert_eq!(given.transfers(ALICE, &[hold]), [Ok]);
    let post = given.post(hold.id, None);
    let other = Principal::service(ServiceId(8));
    for stranger in [ALICE, BOB, STAFF, other] {
        assert_eq!(given.transfers(stranger, &[post]), [Forbidden], "{stranger}");
    }
    assert_eq!(given.transfers(MARKET, &[post]), [Ok]);
}

#[test]
fn holds_expire_when_their_time_has_come_and_not_before() {
    // E-2.2
    let mut given = Given::new();
    let (first, second) = (given.hold(10, Some(1_000)), given.hold(20, Some(2_000)));
    assert_eq!(given.transfers(ALICE, &[first, second]), [Ok, Ok]);
    let (at, _) = Ledger::due(&given.state).unwrap();
    assert_eq!(at, given.now.after_millis(1_000));
    given.now = at; // and a moment more
    let late = given.post(first.id, None);
    assert_eq!(given.transfers(ALICE, &[late]), [HoldEnded], "time has come though no tick has");
    given.when(Principal::SYSTEM, Command::ExpireHolds).unwrap();
    assert_eq!(given.balance(account(ALICE, HOL)), (1_000, 20, 0));
    assert!(Ledger::due(&given.state).is_some_and(|(next, _)| next > given.now));
    assert_eq!(given.when(STAFF, Command::ExpireHolds).unwrap_err().reason(), "FORBIDDEN");
}

#[test]
fn more_holds_than_a_tick_takes_expire_in_several() {
    let mut given = Given::new();
    let mut hold = given.hold(1, Some(1_000));
    for n in 0..300u16 {
        let [high, low] = n.to_be_bytes();
        hold.id = Id::v7(given.now.millis(), [high, low, 9, 9, 9, 9, 9, 9, 9, 9]);
        assert_eq!(given.transfers(ALICE, &[hold]), [Ok]);
    }
    given.now = given.now.after_millis(1_000);
    given.when(Principal::SYSTEM, Command::ExpireHolds).unwrap();
    assert_eq!(given.balance(account(ALICE, HOL)), (1_000, 44, 0));
    given.when(Principal::SYSTEM, Command::ExpireHolds).unwrap();
    assert_eq!(given.balance(account(ALICE, HOL)), (1_000, 0, 0));
    assert!(Ledger::due(&given.state).is_none());
}

#[test]
fn a_chain_happens_whole_or_not_at_all() {
    // E-2.2
    let mut given = Given::new();
    let hold = given.hold(100, None);
    assert_eq!(given.transfers(ALICE, &[hold]), [Ok]);
    let post = given.post(hold.id, None);
    let new_hold = given.hold(50, Some(1_000));
    let (pay, much) = (given.pay(10), given.pay(100_000));
    let before = holmes_kernel::canon::digest(&given.state.accounts);
    let chain = [linked(post), linked(new_hold), linked(pay), much];
    let failed = [LinkedFailed, LinkedFailed, LinkedFailed, InsufficientFunds];
    assert_eq!(given.transfers(ALICE, &chain), failed);
    assert_eq!(holmes_kernel::canon::digest(&given.state.accounts), before);
    assert_eq!(
        given.transfers(ALICE, &chain),
        failed,
        "the failure is remembered, and fails its chain again"
    );

    let (a, b, c) = (given.pay(1), given.pay(2), given.pay(3));
    let chain = [linked(a), linked(b), c];
    assert_eq!(given.transfers(ALICE, &chain), [Ok; 3]);
    assert_eq!(given.transfers(ALICE, &chain), [Exists; 3]);
    let d = given.pay(4);
    assert_eq!(given.transfers(ALICE, &[linked(a), d]), [Exists, LinkedFailed], "neither new nor old");
    assert_eq!(given.transfers(ALICE, &[d]), [Ok], "its id is free");
    assert_eq!(given.balance(account(BOB, HOL)).0, 10);
}

#[test]
fn what_a_failed_chain_took_back_is_there_for_the_rest_of_the_batch() {
    let mut given = Given::new();
    let (all, much, again) = (given.pay(1_000), given.pay(1), given.pay(1_000));
    let batch = [linked(all), much, again, much];
    assert_eq!(given.transfers(ALICE, &batch), [LinkedFailed, InsufficientFunds, Ok, InsufficientFunds]);
}

#[test]
fn a_batch_that_is_none_is_refused_whole() {
    // E-2.2
    let mut given = Given::new();
    let pay = given.pay(1);
    let long: Vec<Transfer> = (0..257).map(|n| Transfer { linked: n < 256, ..pay }).collect();
    let many = vec![pay; params::MOST_TRANSFERS_PER_COMMAND + 1];
    let cases = [
        (vec![], "BATCH_EMPTY"),
        (vec![linked(pay)], "CHAIN_OPEN"),
        (long, "CHAIN_TOO_LONG"),
        (many, "BATCH_TOO_LARGE"),
    ];
    for (transfers, reason) in cases {
        let refused = given.when(ALICE, Command::CreateTransfers { via: Via::Call, transfers }).unwrap_err();
        assert_eq!(refused.reason(), reason);
    }
}

#[test]
fn a_balancing_transfer_moves_as_much_as_is_allowed() {
    // E-2.2
    let mut given = Given::new();
    let of = Move { balancing: true, ..a_move(account(ALICE, HOL), account(BOB, HOL), u64::MAX) };
    let (first, second) = (given.kind(Kind::Single(of)), given.kind(Kind::Single(of)));
    let hold = given.hold(300, None);
    let results = given.results(ALICE, Via::Call, &[hold, first, second]);
    assert_eq!(results, [(Ok, 300, 0), (Ok, 700, 0), (InsufficientFunds, 0, 0)]);
    assert_eq!(given.results(ALICE, Via::Call, &[first]), [(Exists, 700, 0)]);
}

#[test]
fn a_service_debits_in_the_name_of_an_owner_only_what_is_that_owners() {
    let mut given = Given::new();
    let of = |owner| Move { debit_owner: Some(owner), ..a_move(account(ALICE, HOL), account(BOB, HOL), 100) };
    let hold = |owner| Kind::Hold { of: of(owner), timeout_ms: None, coordinator: None };
    for kind in [Kind::Single(of(BOB)), hold(BOB)] {
        let transfer = given.kind(kind);
        assert_eq!(given.transfers(MARKET, &[transfer]), [Forbidden]);
    }
    assert_eq!(given.balance(account(ALICE, HOL)), (1_000, 0, 0));
    let (held, moved) = (given.kind(hold(ALICE)), given.kind(Kind::Single(of(ALICE))));
    assert_eq!(given.transfers(MARKET, &[held, moved]), [Ok, Ok]);
    assert_eq!(given.balance(account(ALICE, HOL)), (900, 100, 0));
    // E-2.3: it is a part of the content.
    let without = Transfer { kind: Kind::Single(Move { debit_owner: None, ..of(ALICE) }), ..moved };
    assert_eq!(given.transfers(MARKET, &[moved, without]), [Exists, ExistsDifferent]);
    // It is a condition, no right: who may not debit may not.
    let foreign = given.kind(Kind::Single(of(ALICE)));
    assert_eq!(given.transfers(BOB, &[foreign]), [Forbidden]);
}

#[test]
fn a_transfer_between_two_parties_burns_and_one_of_a_service_does_not() {
    // E-2.4
    let mut given = with_burn();
    let inbox = system_account("burn_inbox/HOL");
    let (by_alice, by_market) = (given.pay(101), given.pay(101));
    assert_eq!(given.results(ALICE, Via::Call, &[by_alice]), [(Ok, 101, 1)]);
    assert_eq!(given.results(MARKET, Via::Call, &[by_market]), [(Ok, 101, 0)]);
    assert_eq!(given.balance(account(BOB, HOL)).0, 201);
    assert_eq!(given.balance(inbox).0, 1);
    let one = given.pay(1);
    assert_eq!(given.transfers(ALICE, &[one]), [NetZero]);
    let usd = given.single(account(ALICE, USD), account(BOB, USD), 101);
    assert_eq!(given.results(ALICE, Via::Call, &[usd]), [(Ok, 101, 0)], "only the token burns");
}

#[test]
fn a_post_burns_unless_a_service_opened_its_hold() {
    // E-2.4
    let mut given = with_burn();
    let (own, services) = (given.hold(101, None), given.hold(101, None));
    assert_eq!(given.transfers(ALICE, &[own]), [Ok]);
    assert_eq!(given.transfers(MARKET, &[services]), [Ok]);
    let (a, b) = (given.post(own.id, Some(100)), given.post(services.id, None));
    assert_eq!(given.results(ALICE, Via::Call, &[a]), [(Ok, 100, 1)]);
    assert_eq!(given.results(MARKET, Via::Call, &[b]), [(Ok, 101, 0)]);
}

#[test]
fn a_service_does_not_end_a_hold_that_names_it_not_whoever_gave_it_the_name() {
    // E-2.2
    let mut given = with_burn();
    let own = given.hold(101, None);
    assert_eq!(given.transfers(ALICE, &[own]), [Ok]);
    let (post, void) = (given.post(own.id, None), given.void(own.id));
    assert_eq!(given.transfers(MARKET, &[post, void]), [Forbidden, Forbidden]);
    let again = given.post(own.id, None);
    assert_eq!(given.transfers(ALICE, &[again]), [Ok]);
}

#[test]
fn a_bulk_submitters_ids_are_not_remembered_and_a_sends_may_be_old() {
    // E-2.3
    let mut given = Given::new();
    let pay = given.pay(1);
    let command = Command::CreateTransfers { via: Via::Number, transfers: vec![pay] };
    assert_eq!(given.when(ALICE, command).unwrap_err().reason(), "NOT_A_SUBMITTER");
    let register = |registered| Command::RegisterSubmitter { submitter: ALICE, registered };
    assert_eq!(given.when(ALICE, register(true)).unwrap_err().reason(), "FORBIDDEN");
    given.when(STAFF, register(true)).unwrap();
    assert!(Ledger::may_submit(&given.state, &ALICE) && !Ledger::may_submit(&given.state, &BOB));
    assert_eq!(given.results(ALICE, Via::Number, &[pay, pay]), [(Ok, 1, 0), (Exists, 1, 0)]);
    assert_eq!(given.state.transfer(pay.id), None);
    given.when(STAFF, register(false)).unwrap();
    assert!(!Ledger::may_submit(&given.state, &ALICE));

    let old = Transfer { id: Id::v7(START_MS - 86_400_000, [4; 10]), ..pay };
    assert_eq!(given.results(MARKET, Via::Send, &[old]), [(Ok, 1, 0)]);
}

#[test]
fn accounts_that_hold_all_they_can_leave_room_to_the_platform() {
    let most = params::MOST_OPEN_HOLDS.min;
    let mut given = Given::with(Params { most_open_holds: most, ..params::defaults(assets()) });
    let hold = given.hold(1, None);
    let holds = many(hold, 0..(most - most / 4) as u16);
    assert!(given.transfers(ALICE, &holds).iter().all(|code| *code == Ok));
    assert_eq!(given.transfers(ALICE, &[hold]), [TooManyHolds]);
    let last = many(hold, holds.len() as u16..most as u16);
    assert!(given.transfers(MARKET, &last).iter().all(|code| *code == Ok));
}

#[test]
fn a_full_window_refuses_and_forgets_nothing_early() {
    // E-2.3
    let least = params::WINDOW_ENTRIES_PER_PRINCIPAL.min;
    let mut given = Given::with(Params { window_entries_per_principal: least, ..params::defaults(assets()) });
    let pay = given.pay(1);
    let pays = many(pay, 0..least as u16);
    assert!(given.transfers(ALICE, &pays).iter().all(|code| *code == Ok));
    let more = given.pay(1);
    assert_eq!(given.transfers(ALICE, &[more, pays[0]]), [WindowFull, Exists]);
}
