//! What must hold after every deed, and what when a day is over.

use holmes_kernel::canon;
use holmes_market::state::Stage;

use crate::bills::misbilled;
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
            wrong.extend(self.world.ledger.look(|state| self.watch.audit.books.agree(state)));
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
    pub fn end(&mut self) {
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
            self.thaw();
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
            (
                "nodes that are owed",
                world.emission.look(|state| state.nodes.values().filter(|node| node.owed > 0).count()),
            ),
        ];
        let owed = counts.into_iter().filter(|(_, count)| *count > 0);
        let halted = SERVICES
            .into_iter()
            .filter_map(|service| Some(format!("{} has halted: {}", name(service), self.halted(service)?)));
        owed.map(|(what, count)| format!("{count} {what}")).chain(halted).collect()
    }

    /// Whose money is frozen owes perhaps, and pays when it is not. A wish of the day may be heard as late as now.
    fn thaw(&mut self) {
        let frozen = self.world.ledger.look(|ledger| {
            let all = ledger.accounts.iter().filter(|(_, account)| account.frozen_out);
            all.map(|(id, _)| *id).collect::<Vec<_>>()
        });
        frozen.into_iter().for_each(|account| self.freeze(account, false));
    }

    /// At rest nothing may differ, not even by what is on its way.
    fn settled(&mut self) {
        for (what, told) in self.agreements() {
            if told != Agreement::Holds {
                self.wrong.push(format!("at rest: {what}: {told}"));
            }
        }
        self.wrong.extend(self.watch.audit.at_rest(self.world.rig.now()));
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
