//! Whatever is asked, in whatever order: the invariants hold, an independent model agrees, and the log tells it all
//! again.

use holmes_kernel::{Amount, Id, Principal};
use holmes_ledger::command::{Kind, Move, Movement, OpenAccount, Transfer, Via};
use holmes_ledger::{Command, Reply, api, system_account};
use holmes_proto::ledger::v1::{Params, TransferCode as Code};
use proptest::prelude::*;

use crate::harness::{Driver, HOL, MARKET, STAFF, START_MS, USD, account, default_params, driver, party};
use crate::model::{Model, Row, What, Wish};

const ACCOUNTS: u8 = 8;
const GRANT: u64 = 1_000;

/// Two accounts each of two parties, per asset: even numbers are HOL, odd ones USD.
fn account_at(n: u8) -> (Id, Principal, u32) {
    let asset = if n.is_multiple_of(2) { HOL } else { USD };
    (account(n, asset), party(owner_of(n)), asset)
}

fn owner_of(n: u8) -> u8 {
    1 + n / 4
}

#[derive(Clone, Debug)]
enum Op {
    Batch {
        by_service: bool,
        owner: u8,
        wishes: Vec<(bool, Shape)>,
    },
    Freeze(u8, bool),
    Credit(u8, u64),
    Deposit(u8, u64),
    Withdraw(u8, u64),
    Wait(u64),
    Destroy(u64),
    /// A party pays into the platform's account, or staff takes from it: always refused, and nothing moves.
    Behind {
        staff: bool,
        n: u8,
        units: u64,
    },
}

/// A wish before its numbers are known: `back` counts transfers backwards.
#[derive(Clone, Debug)]
enum Shape {
    Single { debit: u8, credit: u8, units: u64, balancing: bool },
    Hold { debit: u8, credit: u8, units: u64, ms: u64 },
    Post { back: u32, units: u64 },
    Void { back: u32 },
    Again { back: u32 },
}

fn shape() -> impl Strategy<Value = Shape> {
    let units = || prop_oneof![4 => 0u64..400, 1 => Just(u64::MAX)];
    let any_account = || 0..ACCOUNTS;
    prop_oneof![
        4 => (any_account(), any_account(), units(), any::<bool>())
            .prop_map(|(debit, credit, units, balancing)| Shape::Single { debit, credit, units, balancing }),
        4 => (any_account(), any_account(), units(), prop_oneof![Just(0u64), 1u64..3_000])
            .prop_map(|(debit, credit, units, ms)| Shape::Hold { debit, credit, units, ms }),
        3 => (1u32..12, prop_oneof![Just(0u64), 1u64..300]).prop_map(|(back, units)| Shape::Post { back, units }),
        1 => (1u32..12).prop_map(|back| Shape::Void { back }),
        1 => (1u32..12).prop_map(|back| Shape::Again { back }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let wishes = || proptest::collection::vec((any::<bool>(), shape()), 1..8);
    prop_oneof![
        8 => (any::<bool>(), 1u8..3, wishes())
            .prop_map(|(by_service, owner, wishes)| Op::Batch { by_service, owner, wishes }),
        1 => (0..ACCOUNTS, any::<bool>()).prop_map(|(n, on)| Op::Freeze(n, on)),
        1 => (0..ACCOUNTS, 0u64..500).prop_map(|(n, limit)| Op::Credit(n, limit)),
        1 => (0..ACCOUNTS, 1u64..500).prop_map(|(n, units)| Op::Deposit(n, units)),
        1 => (0..ACCOUNTS, 1u64..500).prop_map(|(n, units)| Op::Withdraw(n, units)),
        2 => (1u64..2_000).prop_map(Op::Wait),
        1 => (1u64..5).prop_map(Op::Destroy),
        1 => (any::<bool>(), 0..ACCOUNTS, 1u64..500)
            .prop_map(|(staff, n, units)| Op::Behind { staff, n, units }),
    ]
}

struct Run {
    driver: Driver,
    model: Model,
    asked: Vec<Transfer>,
    wished: Vec<What>,
    references: u32,
    destroyed: i128,
}

impl Run {
    fn new() -> Run {
        let burn_rate_ppb = 10_000_000; // 1 %, so that small amounts show it
        let mut driver = driver(&Params { burn_rate_ppb, ..default_params() });
        let mut model = Model { burn_ppb: burn_rate_ppb.into(), ..Model::default() };
        for n in 0..ACCOUNTS {
            let (id, owner, asset) = account_at(n);
            open(&mut driver, id, owner, asset);
            let token = asset == HOL;
            grant(&mut driver, id, token, GRANT);
            let (owner, posted) = (owner_of(n), GRANT.into());
            model.accounts.insert(n, Row { owner, token, posted, credit_limit: 0, frozen: false });
        }
        Run { driver, model, asked: Vec::new(), wished: Vec::new(), references: 0, destroyed: 0 }
    }

    fn apply(&mut self, op: &Op) {
        self.driver.wait(0);
        // What is decided now is decided at the next moment, and what expires then has expired.
        self.model.now_us = self.driver.now.next().micros();
        self.model.expire();
        match op {
            Op::Batch { by_service, owner, wishes } => self.batch(*by_service, *owner, wishes),
            Op::Freeze(n, frozen_out) => {
                let command = Command::SetFrozen { account: account_at(*n).0, frozen_out: *frozen_out };
                self.driver.ask(STAFF, command).unwrap();
                self.model.accounts.get_mut(n).unwrap().frozen = *frozen_out;
            }
            Op::Credit(n, limit) => self.credit(*n, *limit),
            Op::Deposit(n, units) => self.cross(*n, *units, true),
            Op::Withdraw(n, units) => self.cross(*n, *units, false),
            Op::Wait(ms) => {
                self.driver.wait(*ms);
                self.model.now_us = self.driver.now.micros();
                self.model.expire();
            }
            Op::Behind { staff, n, units } => self.behind(*staff, *n, *units),
            Op::Destroy(units) => {
                let command = Command::Destroy { asset: HOL, amount: Amount::new(*units) };
                let there = self.model.burnt >= i128::from(*units);
                assert_eq!(self.driver.ask(MARKET, command).is_ok(), there);
                if there {
                    self.model.burnt -= i128::from(*units);
                    self.destroyed += i128::from(*units);
                }
            }
        }
    }

    fn behind(&mut self, staff: bool, n: u8, units: u64) {
        let (account, owner, asset) = account_at(n);
        let platform = system_account(if asset == HOL { "burn_inbox/HOL" } else { "fees/USD" });
        let (who, debit, credit, code) = if staff {
            (STAFF, platform, account, Code::SystemDebit)
        } else {
            (owner, account, platform, Code::SystemCredit)
        };
        let of = Move { debit, credit, amount: Amount::new(units), balancing: true, debit_owner: None };
        let kinds = [Kind::Single(of), Kind::Hold { of, timeout_ms: Some(1_000), coordinator: None }];
        let transfers =
            kinds.map(|kind| Transfer { id: self.driver.fresh(), linked: false, tag: 0, kind }).to_vec();
        let command = Command::CreateTransfers { via: Via::Call, transfers };
        let Reply::Transfers(results) = self.driver.ask(who, command).unwrap() else { panic!() };
        assert!(results.iter().all(|result| result.code == code), "{results:?}");
    }

    fn batch(&mut self, by_service: bool, owner: u8, shapes: &[(bool, Shape)]) {
        let (mut transfers, mut wishes) = (Vec::new(), Vec::new());
        for (at, (linked, shape)) in shapes.iter().enumerate() {
            let linked = *linked && at + 1 < shapes.len();
            let (number, transfer) = self.transfer(shape, linked, by_service, owner);
            transfers.push(transfer);
            wishes.push(Wish { number, linked: transfer.linked, what: self.wished[number as usize].clone() });
        }
        if transfers.last().is_some_and(|last| last.linked) {
            return; // a repetition that was linked may not end a batch
        }
        let principal = if by_service { MARKET } else { party(owner) };
        let expected = self.model.batch(by_service, &wishes);
        let command = Command::CreateTransfers { via: Via::Call, transfers };
        let Reply::Transfers(results) = self.driver.ask(principal, command).unwrap() else { panic!() };
        let codes: Vec<Code> = results.iter().map(|result| result.code).collect();
        assert_eq!(codes, expected, "{wishes:?}");
    }

    /// The transfer of a shape; parties debit only what is theirs and end only what they opened.
    fn transfer(&mut self, shape: &Shape, linked: bool, by_service: bool, owner: u8) -> (u32, Transfer) {
        let mine = |n: u8| if by_service { n } else { (n % 4) + 4 * (owner - 1) };
        let back = |back: u32, len: usize| (len as u32).saturating_sub(back);
        let number = self.asked.len() as u32;
        let what = match *shape {
            Shape::Again { back: b } if !self.asked.is_empty() => {
                let known = back(b, self.asked.len());
                let transfer = self.asked[known as usize];
                if by_service || self.is_of(known, owner) {
                    return (known, transfer);
                }
                What::Void { hold: u32::MAX }
            }
            Shape::Again { .. } => What::Void { hold: u32::MAX },
            Shape::Single { debit, credit, units, balancing } => {
                What::Single { debit: mine(debit), credit, units, balancing }
            }
            Shape::Hold { debit, credit, units, ms } => What::Hold { debit: mine(debit), credit, units, ms },
            Shape::Post { back: b, units } => What::Post { hold: back(b, self.asked.len()), units },
            Shape::Void { back: b } => What::Void { hold: back(b, self.asked.len()) },
        };
        let what = match what {
            What::Post { hold, .. } | What::Void { hold } if !by_service && !self.is_of(hold, owner) => {
                What::Void { hold: u32::MAX }
            }
            what => what,
        };
        let id = self.driver.fresh();
        let transfer = Transfer { id, linked, tag: number, kind: self.kind(&what) };
        self.asked.push(transfer);
        self.wished.push(what);
        (number, transfer)
    }

    /// Whether a party asked for a transfer: it debits what is the party's, and no service opened it.
    fn is_of(&self, number: u32, owner: u8) -> bool {
        match self.wished.get(number as usize) {
            Some(What::Single { debit, .. } | What::Hold { debit, .. }) => {
                owner_of(*debit) == owner && self.model.holds.get(&number).is_none_or(|held| !held.by_service)
            }
            _ => false,
        }
    }

    fn kind(&self, what: &What) -> Kind {
        let a_move = |debit, credit, units, balancing| Move {
            debit: account_at(debit).0,
            credit: account_at(credit).0,
            amount: Amount::new(units),
            balancing,
            debit_owner: None,
        };
        let hold_id = |hold: u32| {
            let known = self.asked.get(hold as usize).map(|transfer| transfer.id);
            known.unwrap_or(Id::v7(START_MS, [0xee; 10]))
        };
        match *what {
            What::Single { debit, credit, units, balancing } => {
                Kind::Single(a_move(debit, credit, units, balancing))
            }
            What::Hold { debit, credit, units, ms } => Kind::Hold {
                of: a_move(debit, credit, units, false),
                timeout_ms: (ms > 0).then_some(ms),
                coordinator: None,
            },
            What::Post { hold, units } => {
                Kind::Post { hold: hold_id(hold), amount: (units > 0).then(|| Amount::new(units)) }
            }
            What::Void { hold } => Kind::Void { hold: hold_id(hold) },
        }
    }

    fn credit(&mut self, n: u8, credit_limit: u64) {
        let command = Command::SetLimits { account: account_at(n).0, credit_limit, rate: None };
        let pending = self.model.pending(n).0;
        let row = self.model.accounts.get_mut(&n).unwrap();
        let limit = i128::from(credit_limit);
        let allowed = if row.token { limit == 0 } else { row.posted + limit >= pending };
        let unchanged = row.credit_limit == limit;
        assert_eq!(self.driver.ask(STAFF, command).is_ok(), allowed || unchanged);
        if allowed {
            row.credit_limit = limit;
        }
    }

    fn cross(&mut self, n: u8, units: u64, comes: bool) {
        self.references += 1;
        let reference = format!("tx {}", self.references);
        let movement = Movement { account: account_at(n).0, amount: Amount::new(units), reference };
        let pending = self.model.pending(n).0;
        let row = self.model.accounts.get_mut(&n).unwrap();
        let free = row.posted + row.credit_limit - pending;
        let (command, allowed) = if comes {
            (Command::RecordDeposit(movement), !row.token)
        } else {
            let leaves = !row.token && !row.frozen && free >= i128::from(units);
            (Command::RecordWithdrawal(movement), leaves)
        };
        assert_eq!(self.driver.ask(MARKET, command).is_ok(), allowed);
        if allowed {
            row.posted += if comes { i128::from(units) } else { -i128::from(units) };
        }
    }

    fn agrees(&self) {
        self.driver.check();
        let state = self.driver.state();
        for (n, row) in &self.model.accounts {
            let balance = state.account(&account_at(*n).0).unwrap().balance;
            let (plus, minus) = balance.net();
            assert_eq!(i128::from(plus) - i128::from(minus), row.posted, "account {n}");
            let pending = (i128::from(balance.debits_pending), i128::from(balance.credits_pending));
            assert_eq!(pending, self.model.pending(*n), "account {n}");
        }
        assert_eq!(state.holds.len(), self.model.holds.len());
        let inbox = state.account(&system_account("burn_inbox/HOL")).unwrap().balance.net().0;
        assert_eq!(i128::from(inbox), self.model.burnt);
        assert_eq!(i128::from(state.assets[0].destroyed), self.destroyed);
    }
}

pub(crate) fn open(driver: &mut Driver, account: Id, owner: Principal, asset: u32) {
    let (name, via) = (String::new(), Via::Call);
    let open = OpenAccount { account, asset, owner, name, history: false, via };
    driver.ask(owner, Command::OpenAccount(open)).unwrap();
}

pub(crate) fn grant(driver: &mut Driver, to: Id, token: bool, units: u64) {
    let amount = Amount::new(units);
    let command = if token {
        let of = Move {
            debit: system_account("genesis/HOL"),
            credit: to,
            amount,
            balancing: false,
            debit_owner: None,
        };
        let transfer = Transfer { id: driver.fresh(), linked: false, tag: 0, kind: Kind::Single(of) };
        Command::CreateTransfers { via: Via::Call, transfers: vec![transfer] }
    } else {
        Command::RecordDeposit(Movement { account: to, amount, reference: format!("grant {to}") })
    };
    driver.ask(MARKET, command).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_asked_the_invariants_hold_and_the_model_agrees_and_the_log_tells_it_again(
        ops in proptest::collection::vec(op(), 1..40),
    ) {
        let mut run = Run::new();
        for op in &ops {
            run.apply(op);
            run.agrees();
        }
        run.driver.check_replay();
    }

    #[test]
    fn every_accepted_transfer_repeated_exists_and_moves_nothing(
        batches in proptest::collection::vec(proptest::collection::vec((any::<bool>(), shape()), 1..8), 1..10),
    ) {
        let mut run = Run::new();
        for wishes in &batches {
            run.apply(&Op::Batch { by_service: true, owner: 1, wishes: wishes.clone() });
        }
        let accepted: Vec<Transfer> = (0..).zip(&run.asked)
            .filter(|(number, _)| run.model.results.get(number).is_some_and(|(code, _)| *code == Code::Ok))
            .map(|(_, transfer)| Transfer { linked: false, ..*transfer })
            .filter(|transfer| run.asked.iter().any(|asked| asked == transfer))
            .collect();
        let before = run.driver.digest();
        if !accepted.is_empty() {
            let command = Command::CreateTransfers { via: Via::Call, transfers: accepted };
            let Reply::Transfers(results) = run.driver.ask(MARKET, command).unwrap() else { panic!() };
            prop_assert!(results.iter().all(|result| result.code == Code::Exists));
        }
        prop_assert_eq!(run.driver.digest(), before);
    }

    #[test]
    fn a_batch_is_split_only_between_chains_and_nothing_is_lost(
        chains in proptest::collection::vec(1usize..=256, 1..60),
    ) {
        let of = Move { debit: account(0, HOL), credit: account(2, HOL), amount: Amount::new(1), balancing: false, debit_owner: None };
        let transfer = Transfer { id: Id::default(), linked: true, tag: 0, kind: Kind::Single(of) };
        let mut transfers = Vec::new();
        for len in chains {
            transfers.extend(std::iter::repeat_n(transfer, len - 1));
            transfers.push(Transfer { linked: false, ..transfer });
        }
        let parts = api::parts(&transfers);
        prop_assert_eq!(parts.first().unwrap().start, 0);
        prop_assert_eq!(parts.last().unwrap().end, transfers.len());
        prop_assert!(parts.windows(2).all(|two| two[0].end == two[1].start));
        for part in parts {
            prop_assert!(part.len() <= holmes_ledger::params::MOST_TRANSFERS_PER_COMMAND);
            prop_assert!(!transfers[part.end - 1].linked);
        }
    }
}
