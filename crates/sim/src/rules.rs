//! What must hold after every deed, and what when a day is over.

use std::collections::BTreeMap;

use holmes_kernel::{Id, canon};
use holmes_market::state::Stage;
use holmes_proto::market::v1::{self as market, event::Event as Billed};
use holmes_proto::scheduling::v1::{self as scheduling, event::Event as Metered};
use prost::bytes::Bytes;

use crate::checks::{self, Agreement};
use crate::deed::{SERVICES, name};
use crate::play::Day;

/// Why a service may have stopped: what the day did to it. Any other reason is a finding.
const SUFFERED: [&str; 3] = ["the disk does not answer", "no byte is left", "has another owner"];
/// How many epochs a day may take to come to rest when nothing befalls it any more.
const EPOCHS_TO_REST: usize = 30;

impl Day {
    /// Everything that must hold now.
    pub(crate) fn look(&mut self) {
        let mut wrong = self.watch.look(self.world.journal.kept());
        wrong.extend(self.clients.hear(&mut self.world, &self.watch));
        let broken = self.world.rig.check().into_iter().map(|broken| broken.0);
        let suffered =
            |what: &String| what.contains("has halted") && SUFFERED.iter().any(|why| what.contains(why));
        wrong.extend(broken.filter(|what| !suffered(what)));
        for (what, told) in self.agreements() {
            if let Agreement::Differs(why) = told {
                wrong.push(format!("{what}: {why}"));
            }
        }
        if self.rests(1) {
            wrong.extend(self.world.ledger.look(|state| self.watch.books_agree(state)));
        }
        self.wrong.extend(wrong);
    }

    /// What two services must agree on.
    fn agreements(&self) -> [(&'static str, Agreement); 6] {
        let world = &self.world;
        world.ledger.look(|ledger| {
            [
                ("supply", world.treasury.look(|state| checks::supply(ledger, state))),
                ("allocations", world.treasury.look(|state| checks::allocations(ledger, state))),
                ("bonds", world.staking.look(|state| checks::bonds(ledger, state))),
                ("holds", world.market.look(|state| checks::holds(ledger, world.rig.now(), state))),
                ("purses", world.market.look(|state| checks::purses(ledger, state))),
                ("pools", world.emission.look(|state| checks::pools(ledger, state))),
            ]
        })
    }

    /// The evening: nothing befalls the network any more, and everything that is owed must be paid.
    pub(crate) fn end(&mut self) {
        self.world.lines.mend();
        self.world.journal.arrive();
        self.world.journal.mend();
        self.look();
        (0..self.world.sessions.len()).for_each(|at| self.close(at));
        for _ in 0..EPOCHS_TO_REST {
            if !self.wrong.is_empty() || self.owed().is_empty() {
                break;
            }
            // Who was claimed away from its log hears of it with its next append, and is started again as a server is:
            // from its snapshot.
            for service in SERVICES {
                if self.halted(service).is_some() {
                    self.restart(service, true);
                }
            }
            for at in self.clients.open() {
                self.clients.send(&self.world, &self.watch, at);
            }
            self.epoch();
            self.look();
        }
        self.wrong.extend(self.owed().into_iter().map(|what| format!("never came to rest: {what}")));
        self.wrong.extend(self.clients.belied(&self.watch));
        self.settled();
        if self.wrong.is_empty() {
            self.rebuild();
        }
    }

    /// What somebody still waits for.
    fn owed(&self) -> Vec<String> {
        let world = &self.world;
        let sessions = |state: &holmes_market::State| {
            state.sessions.values().filter(|session| session.stage != Stage::Closed).count()
        };
        let counts = [
            ("sends that nobody has taken in", self.watch.sent.len()),
            ("requests without an answer", self.clients.open().len()),
            ("answers that the market waits for", world.market.look(|state| state.awaited.len())),
            ("sessions that are not closed", world.market.look(sessions)),
            ("answers that staking waits for", world.staking.look(|state| state.awaited.len())),
            ("answers that emission waits for", world.emission.look(|state| state.awaited.len())),
        ];
        let owed = counts.into_iter().filter(|(_, count)| *count > 0);
        let halted = SERVICES
            .into_iter()
            .filter_map(|service| Some(format!("{} has halted: {}", name(service), self.halted(service)?)));
        owed.map(|(what, count)| format!("{count} {what}")).chain(halted).collect()
    }

    /// At rest nothing may differ, not even by what is on its way.
    fn settled(&mut self) {
        for (what, told) in self.agreements() {
            if told != Agreement::Holds {
                self.wrong.push(format!("at rest: {what}: {told}"));
            }
        }
        self.wrong.extend(misbilled(self.world.events(), self.world.events()));
    }

    /// Every service, rebuilt from the first frame and from a snapshot, is what it is.
    fn rebuild(&mut self) {
        for service in SERVICES {
            self.suffer(&crate::deed::Deed::Snapshot { service, rots: false });
            for snapshots in [false, true] {
                self.restart(service, snapshots);
                if let Some(why) = self.halted(service) {
                    self.wrong.push(format!("{} does not start again: {why}", name(service)));
                }
            }
        }
        self.look();
    }

    /// One number for all that was written.
    pub(crate) fn digest(&self) -> canon::Digest {
        let tails: Vec<_> = self.watch.tails().collect();
        canon::digest(&tails)
    }
}

/// E-9.2: what scheduling has metered the market has on record, session by session, billed or billed to nobody.
fn misbilled(metered: Vec<scheduling::Event>, billed: Vec<market::Event>) -> Vec<String> {
    let mut sums: BTreeMap<Bytes, (u128, u128)> = BTreeMap::new();
    for event in metered {
        if let Some(Metered::CallsMetered(calls)) = event.event {
            sums.entry(calls.session.clone()).or_default().0 += price(&calls);
        }
    }
    for event in billed {
        let (session, parts) = match event.event {
            Some(Billed::CallsNoted(of)) => (of.session, vec![of.billed_pico_usd, of.unbilled_pico_usd]),
            Some(Billed::CallsUnbilled(of)) => (of.session, vec![of.unbilled_pico_usd]),
            _ => continue,
        };
        sums.entry(session).or_default().1 += parts.iter().map(|part| wide(part)).sum::<u128>();
    }
    let apart = sums.into_iter().filter(|(_, (metered, billed))| metered != billed);
    let told = |(session, (metered, billed)): (Bytes, (u128, u128))| {
        let session = Id::from_slice(&session).map(|id| id.to_string()).unwrap_or_default();
        format!("E-9.2: session {session}: {metered} pico-dollars metered, {billed} on the market's record")
    };
    apart.map(told).collect()
}

/// What the calls of a lease cost, in pico-dollars.
fn price(calls: &scheduling::CallsMetered) -> u128 {
    let of = |tokens: u64, each: u64| u128::from(tokens) * u128::from(each);
    let line = |line: &scheduling::CallLine| {
        of(line.input_tokens, calls.input_pico_usd) + of(line.output_tokens, calls.output_pico_usd)
    };
    calls.lines.iter().map(line).sum()
}

/// A u128 as events carry it.
fn wide(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metered(session: u8, tokens: u64) -> scheduling::Event {
        let line = scheduling::CallLine { input_tokens: 1, output_tokens: tokens, ..Default::default() };
        let calls = scheduling::CallsMetered {
            session: vec![session; 16].into(),
            input_pico_usd: 5,
            output_pico_usd: 20,
            lines: vec![line],
            ..Default::default()
        };
        scheduling::Event { event: Some(Metered::CallsMetered(calls)) }
    }

    fn noted(session: u8, billed: u128, unbilled: u128) -> market::Event {
        let noted = market::CallsNoted {
            session: vec![session; 16].into(),
            billed_pico_usd: billed.to_be_bytes().to_vec().into(),
            unbilled_pico_usd: unbilled.to_be_bytes().to_vec().into(),
            ..Default::default()
        };
        market::Event { event: Some(Billed::CallsNoted(noted)) }
    }

    #[test]
    fn what_was_metered_is_on_record_to_the_pico_dollar_and_of_its_session() {
        let calls = || vec![metered(1, 2), metered(1, 3), metered(2, 1)];
        let right = vec![noted(1, 45, 0), noted(1, 60, 5), noted(2, 0, 25)];
        assert_eq!(misbilled(calls(), right), Vec::<String>::new());
        for wrong in [
            vec![noted(1, 90, 0), noted(1, 60, 5), noted(2, 0, 25)], // twice
            vec![noted(1, 45, 0), noted(1, 60, 5)],                  // not at all
            vec![noted(1, 45, 0), noted(1, 60, 5), noted(3, 0, 25)], // another's
        ] {
            assert!(!misbilled(calls(), wrong.clone()).is_empty(), "{wrong:?}");
        }
    }
}
