//! An independent, naive ledger: sorted maps, signed 128-bit sums, a copy of everything for every chain. It says what
//! each transfer should become.

use std::collections::BTreeMap;

use holmes_proto::ledger::v1::TransferCode as Code;

/// An account: whose, of which asset, how it stands.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) owner: u8,
    pub(crate) token: bool,
    pub(crate) posted: i128,
    pub(crate) credit_limit: i128,
    pub(crate) frozen: bool,
}

/// An open hold.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) debit: u8,
    pub(crate) credit: u8,
    pub(crate) units: i128,
    pub(crate) by_service: bool,
    pub(crate) ends_at_us: Option<u64>,
}

/// A transfer in the model's terms: accounts are numbers, holds the number of their transfer.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) number: u32,
    pub(crate) linked: bool,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Single { debit: u8, credit: u8, units: u64, balancing: bool },
    Hold { debit: u8, credit: u8, units: u64, ms: u64 },
    Post { hold: u32, units: u64 },
    Void { hold: u32 },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) accounts: BTreeMap<u8, Row>,
    pub(crate) holds: BTreeMap<u32, Held>,
    pub(crate) results: BTreeMap<u32, (Code, i128)>,
    pub(crate) was_hold: BTreeMap<u32, ()>,
    pub(crate) burnt: i128,
    pub(crate) burn_ppb: i128,
    pub(crate) now_us: u64,
}

impl Model {
    pub(crate) fn pending(&self, account: u8) -> (i128, i128) {
        let sum = |of: fn(&Held) -> u8| {
            self.holds.values().filter(|held| of(held) == account).map(|held| held.units).sum()
        };
        (sum(|held| held.debit), sum(|held| held.credit))
    }

    pub(crate) fn expire(&mut self) {
        let now = self.now_us;
        self.holds.retain(|_, held| held.ends_at_us.is_none_or(|at| at > now));
    }

    /// A batch, by a service or by the owner of the accounts debited.
    pub(crate) fn batch(&mut self, by_service: bool, wishes: &[Wish]) -> Vec<Code> {
        let mut codes = Vec::new();
        for chain in wishes.split_inclusive(|wish| !wish.linked) {
            codes.extend(self.chain(by_service, chain));
        }
        codes
    }

    fn chain(&mut self, by_service: bool, chain: &[Wish]) -> Vec<Code> {
        let before = self.clone();
        let mut codes: Vec<Code> = Vec::new();
        for wish in chain {
            let failed = codes.iter().any(|code| !matches!(code, Code::Ok | Code::Exists));
            codes.push(match self.results.get(&wish.number) {
                Some((Code::Ok, _)) => Code::Exists,
                Some((code, _)) => *code,
                None if failed => Code::LinkedFailed,
                None => self.one(by_service, wish),
            });
        }
        if codes.iter().all(|code| *code == Code::Ok) || codes.iter().all(|code| *code == Code::Exists) {
            return codes;
        }
        let failures: Vec<(u32, (Code, i128))> = chain
            .iter()
            .filter_map(|wish| Some((wish.number, *self.results.get(&wish.number)?)))
            .filter(|(_, (code, _))| *code != Code::Ok)
            .collect();
        *self = before;
        self.results.extend(failures);
        codes.iter().map(|code| if *code == Code::Ok { Code::LinkedFailed } else { *code }).collect()
    }

    fn one(&mut self, by_service: bool, wish: &Wish) -> Code {
        let (code, moved) = match self.attempt(by_service, wish) {
            Ok(moved) => (Code::Ok, moved),
            Err(code) => (code, 0),
        };
        if !matches!(code, Code::SameAccount | Code::AmountZero | Code::AssetMismatch | Code::Forbidden) {
            self.results.insert(wish.number, (code, moved));
        }
        code
    }

    fn attempt(&mut self, by_service: bool, wish: &Wish) -> Result<i128, Code> {
        match wish.what {
            What::Single { debit, credit, units, balancing } => {
                let units = self.allowed(debit, credit, units, balancing)?;
                self.pay(debit, credit, units, by_service)?;
                Ok(units)
            }
            What::Hold { debit, credit, units, ms } => {
                let units = self.allowed(debit, credit, units, false)?;
                let ends_at_us = (ms > 0).then(|| self.now_us + ms * 1_000);
                self.holds.insert(wish.number, Held { debit, credit, units, by_service, ends_at_us });
                self.was_hold.insert(wish.number, ());
                Ok(units)
            }
            What::Post { hold, units } => {
                let held = self.open(hold, by_service)?;
                let units = if units == 0 { held.units } else { units.into() };
                if units > held.units {
                    return Err(Code::ExceedsHold);
                }
                self.pay(held.debit, held.credit, units, held.by_service)?;
                self.holds.remove(&hold);
                Ok(units)
            }
            What::Void { hold } => {
                let held = self.open(hold, by_service)?;
                self.holds.remove(&hold);
                Ok(held.units)
            }
        }
    }

    /// A hold that may be ended: by the one who opened it. Parties do not try others'.
    fn open(&self, hold: u32, by_service: bool) -> Result<Held, Code> {
        let why = if self.was_hold.contains_key(&hold) { Code::HoldEnded } else { Code::HoldNotFound };
        let held = self.holds.get(&hold).cloned().ok_or(why)?;
        if by_service && !held.by_service { Err(Code::Forbidden) } else { Ok(held) }
    }

    fn allowed(&self, debit: u8, credit: u8, units: u64, balancing: bool) -> Result<i128, Code> {
        if units == 0 {
            return Err(Code::AmountZero);
        }
        if debit == credit {
            return Err(Code::SameAccount);
        }
        let (from, to) = (&self.accounts[&debit], &self.accounts[&credit]);
        if from.token != to.token {
            return Err(Code::AssetMismatch);
        }
        if from.frozen {
            return Err(Code::AccountFrozen);
        }
        let free = from.posted + from.credit_limit - self.pending(debit).0;
        let units = i128::from(units);
        let moved = if balancing { units.min(free) } else { units };
        if moved < 1 || moved > free { Err(Code::InsufficientFunds) } else { Ok(moved) }
    }

    fn pay(&mut self, debit: u8, credit: u8, units: i128, by_service: bool) -> Result<(), Code> {
        let (from, to) = (&self.accounts[&debit], &self.accounts[&credit]);
        let external = from.token && from.owner != to.owner && !by_service;
        let burnt = if external { (units * self.burn_ppb + 999_999_999) / 1_000_000_000 } else { 0 };
        if burnt >= units {
            return Err(Code::NetZero);
        }
        self.accounts.get_mut(&debit).unwrap().posted -= units;
        self.accounts.get_mut(&credit).unwrap().posted += units - burnt;
        self.burnt += burnt;
        Ok(())
    }
}
