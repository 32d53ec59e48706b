//! The treasury with the real ledger, on virtual time.

use std::time::Duration;

use holmes_kernel::{Amount, Id, LogId, Opened, Principal, Refusal, Time, canon};
use holmes_ledger::command::{Command as Ask, Kind, Move, OpenAccount, Transfer, Via};
use holmes_ledger::{Ledger, Reply, system_account};
use holmes_proto::ledger::v1::{Asset, TransferCode};
use holmes_proto::treasury::v1::Params;
use holmes_runtime::rig::{Rig, Seat};
use holmes_store::journal::memory::Journal;
use holmes_testing::ask;
use holmes_treasury::{Treasury, genesis, params, wire};
use prost::Message;

use crate::harness::{CELL, HOL, LEDGER, STAFF, START_MS, TGE, TREASURY, opened, operator, with_grants};

const CAP: u64 = 1_000_000_000_000_000_000;
const DAY_S: u64 = 86_400;
const START: Time = Time::from_millis(START_MS);
const BESIDE: Duration = Duration::from_millis(300);
const US: Principal = Principal::service(TREASURY);

/// A cell of a treasury and, once it is there, a ledger.
pub(crate) struct Network {
    pub(crate) rig: Rig<Journal>,
    pub(crate) treasury: Seat<Treasury, Journal>,
}

impl Network {
    pub(crate) fn new(params: &Params) -> Network {
        let mut rig = Rig::new(Journal::new(), START);
        let treasury = rig.add(LogId::new(CELL, TREASURY), opened(params)).unwrap();
        Network { rig, treasury }
    }

    pub(crate) fn add_ledger(&mut self, cap_units: u64) -> Books {
        let hol = Asset { id: HOL, name: "HOL".into(), decimals: 9, cap_units };
        let params = holmes_ledger::params::defaults(vec![hol]).encode_to_vec();
        let opened = Opened { cell: CELL.into(), params, ..Opened::default() };
        Books(self.rig.add(LogId::new(CELL, LEDGER), opened).unwrap())
    }

    pub(crate) fn wait_s(&mut self, s: u64) {
        self.wait(Duration::from_secs(s));
    }

    /// Waits until a day after token generation has begun.
    fn wait_for_day(&mut self, day: u64) {
        let then = TGE.after_millis(day * DAY_S * 1_000);
        self.wait(Duration::from_micros(then.micros() - self.rig.now().micros()));
    }

    /// What happens at the very end of a wait takes microseconds of a rig's clock, which then would pass that end: so
    /// what is under way is heard first, and the end lies beside the moments at which something is due.
    fn wait(&mut self, time: Duration) {
        self.rig.settle();
        self.rig.advance(time + BESIDE);
        assert_eq!(self.rig.check(), []);
    }

    fn is_complete(&self) -> bool {
        self.treasury.look(|state| state.genesis.completed_at.is_some())
    }

    fn released(&self, name: &str) -> u64 {
        let of = |state: &holmes_treasury::State| {
            let found = state.vestings.iter().find(|vesting| state.name_of(vesting.allocation) == name);
            found.unwrap().released.units()
        };
        self.treasury.look(of)
    }

    fn digest(&self) -> canon::Digest {
        self.treasury.look(canon::digest)
    }
}

/// The ledger's books.
pub(crate) struct Books(Seat<Ledger, Journal>);

impl Books {
    fn of_id(&self, id: Id) -> Option<u64> {
        self.0.look(|state| state.account(&id).map(|account| account.balance.net().0))
    }

    fn of(&self, name: &str) -> u64 {
        self.of_id(system_account(name)).unwrap()
    }

    fn sum(&self) -> u128 {
        self.0
            .look(|state| state.accounts.iter().map(|(_, account)| u128::from(account.balance.net().0)).sum())
    }

    fn ask(&self, rig: &Rig<Journal>, command: Ask) -> Result<Reply, Refusal> {
        let id = Id::derive(rig.now(), &canon::digest(&command), 0);
        ask(&self.0, STAFF, id, command)
    }

    fn freeze(&self, rig: &Rig<Journal>, name: &str, frozen_out: bool) {
        self.ask(rig, Ask::SetFrozen { account: system_account(name), frozen_out }).unwrap();
    }

    /// Opens an account with a name before genesis does.
    pub(crate) fn open(&self, rig: &Rig<Journal>, name: &str, owner: Principal) {
        let account = system_account(name);
        let open =
            OpenAccount { account, asset: HOL, owner, name: name.into(), history: true, via: Via::Call };
        self.ask(rig, Ask::OpenAccount(open)).unwrap();
    }

    fn digest(&self) -> canon::Digest {
        self.0.look(canon::digest)
    }
}

/// What an allocation is to have, from the first account that it is paid to.
fn expect(books: &Books, expected: &[(&str, u64)], granted: u64) {
    for (name, units) in expected {
        let vests = matches!(*name, "team" | "fundraising");
        let (first, units) = match *name {
            "ecosystem" => ("ecosystem/HOL".to_owned(), units - granted),
            _ if vests => (format!("vesting_{name}/HOL"), *units),
            _ => (format!("{name}/HOL"), *units),
        };
        assert_eq!(books.of(&first), units, "{first}");
        if vests {
            assert_eq!(books.of(&format!("{name}/HOL")), 0, "{name}");
        }
    }
}

#[test]
fn after_genesis_every_allocation_is_exact_to_the_unit() {
    // E-1.1, E-1.2
    let mut network = Network::new(&with_grants());
    let books = network.add_ledger(CAP);
    network.wait_s(1);
    assert!(network.is_complete());
    let percent = [
        ("team", 15),
        ("fundraising", 15),
        ("insurance", 2),
        ("security", 3),
        ("grants", 4),
        ("reserve", 3),
        ("ecosystem", 8),
        ("trr_pool", 30),
        ("br_pool", 10),
        ("early_join_pool", 6),
        ("verifier_pool", 4),
    ];
    expect(&books, &percent.map(|(name, percent)| (name, CAP / 100 * percent)), 1_501);
    assert_eq!(books.of("genesis/HOL"), 0);
    assert_eq!(books.sum(), u128::from(CAP));
}

#[test]
fn an_odd_cap_is_shared_out_to_the_last_unit() {
    // E-0.4; computed outside
    let odd = [
        ("team", 149_999_999_999_999_991),
        ("fundraising", 149_999_999_999_999_991),
        ("insurance", 19_999_999_999_999_999),
        ("security", 29_999_999_999_999_998),
        ("grants", 39_999_999_999_999_997),
        ("reserve", 29_999_999_999_999_998),
        ("ecosystem", 79_999_999_999_999_995),
        ("trr_pool", 299_999_999_999_999_981),
        ("br_pool", 99_999_999_999_999_994),
        ("early_join_pool", 59_999_999_999_999_996),
        ("verifier_pool", 39_999_999_999_999_997),
    ];
    let tiny = [
        ("team", 1),
        ("fundraising", 1),
        ("insurance", 0),
        ("security", 0),
        ("grants", 0),
        ("reserve", 0),
        ("ecosystem", 1),
        ("trr_pool", 2),
        ("br_pool", 1),
        ("early_join_pool", 1),
        ("verifier_pool", 0),
    ];
    for (cap_units, expected) in [(999_999_999_999_999_937, odd), (7, tiny)] {
        let mut network = Network::new(&Params { cap_units, ..params::defaults() });
        let books = network.add_ledger(cap_units);
        network.wait_s(1);
        assert!(network.is_complete());
        expect(&books, &expected, 0);
        assert_eq!((books.of("genesis/HOL"), books.sum()), (0, cap_units.into()));
    }
}

#[test]
fn the_grants_lie_in_their_owners_accounts_from_which_they_can_pay() {
    let mut network = Network::new(&with_grants());
    let books = network.add_ledger(CAP);
    network.wait_s(1);
    let account = |n| {
        let of = |state: &holmes_treasury::State| genesis::grant_account(&state.params, &operator(n), TGE);
        network.treasury.look(of)
    };
    assert_eq!([1, 2].map(|n| books.of_id(account(n))), [Some(1_500), Some(1)]);
    let (id, kind) = (
        Id::derive(network.rig.now(), b"payment", 0),
        Kind::Single(Move {
            debit: account(1),
            credit: account(2),
            amount: Amount::new(1_500),
            balancing: false,
            debit_owner: None,
        }),
    );
    let command = Ask::CreateTransfers {
        via: Via::Call,
        transfers: vec![Transfer { id, linked: false, tag: 0, kind }],
    };
    let Ok(answer) = ask(&books.0, operator(1), id, command) else { panic!("the owner may pay") };
    assert!(matches!(&answer, Reply::Transfers(row) if row[0].code == TransferCode::Ok));
}

#[test]
fn named_accounts_have_the_ids_that_the_ledger_gives_them() {
    for name in ["genesis/HOL", "vesting_team/HOL", "trr_pool/HOL"] {
        assert_eq!(wire::account_id(name), system_account(name));
    }
}

#[test]
fn vesting_is_exact_before_the_cliff_on_it_behind_it_and_at_the_end() {
    // E-1.5
    let mut network = Network::new(&params::defaults());
    let books = network.add_ledger(CAP);
    network.wait_for_day(364);
    assert!(network.is_complete());
    let granted = 150_000_000_000_000_000_u64;
    let balances = |name: &str| (books.of(&format!("vesting_{name}/HOL")), books.of(&format!("{name}/HOL")));
    assert_eq!(balances("team"), (granted, 0));
    for day in [365, 366, 400, 1_459, 1_460, 1_500] {
        network.wait_for_day(day);
        let vested = (u128::from(granted) * u128::from(day.min(1_460)) / 1_460) as u64;
        for name in ["team", "fundraising"] {
            assert_eq!(balances(name), (granted - vested, vested), "day {day}");
            assert_eq!(network.released(name), vested);
        }
    }
    assert_eq!(books.sum(), u128::from(CAP));
    assert_eq!(network.rig.restart().unwrap(), Vec::<&str>::new());
    assert_eq!(network.rig.check(), []);
}

#[test]
fn a_restart_in_the_middle_of_genesis_changes_nothing() {
    let run = |restarts: bool| {
        let mut network = Network::new(&with_grants());
        let pause = |network: &mut Network| {
            if restarts {
                assert_eq!(network.rig.restart().unwrap(), Vec::<&str>::new());
            }
            assert_eq!(network.rig.check(), []);
        };
        network.wait_s(1); // the first step waits for a ledger
        pause(&mut network);
        let books = network.add_ledger(CAP);
        books.open(&network.rig, "ecosystem/HOL", US);
        books.freeze(&network.rig, "ecosystem/HOL", true); // the grants wait behind it
        for _ in 0..5 {
            network.wait_s(1);
            assert!(!network.is_complete());
            pause(&mut network);
        }
        books.freeze(&network.rig, "ecosystem/HOL", false);
        pause(&mut network);
        network.wait_s(60);
        assert!(network.is_complete());
        pause(&mut network);
        (network.digest(), books.digest())
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_frozen_account_holds_genesis_up_until_it_is_released() {
    let mut network = Network::new(&with_grants());
    let books = network.add_ledger(CAP);
    books.open(&network.rig, "ecosystem/HOL", US); // with the content that genesis asks for: a success
    books.freeze(&network.rig, "ecosystem/HOL", true);
    network.wait_s(10);
    let held = network.treasury.look(wire::genesis);
    assert_eq!((held.refused_reason.as_str(), held.step.as_str()), ("ACCOUNT_FROZEN", "pay grant a"));
    assert_eq!(books.of("ecosystem/HOL"), 80_000_000_000_000_000);
    books.freeze(&network.rig, "ecosystem/HOL", false);
    network.wait_s(20);
    assert!(network.is_complete());
    assert_eq!(books.of("ecosystem/HOL"), 80_000_000_000_000_000 - 1_501);
}

#[test]
fn a_ledger_with_another_cap_stalls_genesis_and_moves_nothing() {
    let mut network = Network::new(&params::defaults());
    let books = network.add_ledger(CAP - 1);
    network.wait_s(10);
    let stalled = network.treasury.look(wire::genesis);
    assert_eq!(stalled.refused_reason, "INSUFFICIENT_FUNDS");
    assert_eq!(books.of("genesis/HOL"), CAP - 1);
    network.wait_s(10 * DAY_S);
    assert!(!network.is_complete());
}

#[test]
fn a_frozen_vesting_account_pays_all_that_it_owes_when_it_is_released() {
    // E-1.5
    let mut network = Network::new(&params::defaults());
    let books = network.add_ledger(CAP);
    network.wait_for_day(364);
    books.freeze(&network.rig, "vesting_team/HOL", true);
    network.wait_for_day(367);
    let refused = network.treasury.look(wire::vestings).vestings.remove(0);
    assert_eq!((refused.refused_reason.as_str(), refused.released_units), ("ACCOUNT_FROZEN", 0));
    assert_eq!(network.released("fundraising"), books.of("fundraising/HOL"));
    assert_eq!(books.of("team/HOL"), 0);
    books.freeze(&network.rig, "vesting_team/HOL", false);
    network.wait_s(3_600);
    assert_eq!(books.of("team/HOL"), (150_000_000_000_000_000_u128 * 367 / 1_460) as u64);
    assert_eq!(books.of("team/HOL"), books.of("fundraising/HOL"));
}
