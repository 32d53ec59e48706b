//! Where a service takes over what another says (design: Flows): the same, field by field, and all of it. Both sides are read
//! from their own logs, so that neither is believed.

mod rows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;

use super::{EMISSION, Heard, MARKET, SCHEDULING, STAKING, Seen, Wrong, owners, raw};
use holmes_kernel::{Id, Principal, ServiceId};
use holmes_ledger::rows::rows as rows_of;
use holmes_proto::columns::ids;
use holmes_proto::emission::v1::event::Event as Emitted;
use holmes_proto::ledger::v1::TransferCode;
use holmes_proto::ledger::v1::event::Event as Booked;
use holmes_proto::market::v1::event::Event as Sold;
use holmes_proto::scheduling::v1::NodesNoted;
use holmes_proto::scheduling::v1::event::Event as Placed;
use holmes_proto::staking::v1::event::Event as Staked;
use holmes_proto::staking::v1::{BondChanged, NodeKind, NodeState};
use rows::{
    Bond, Calls, Funded, Model, Offer, Serving, Work, attended, funded, grant, metered, noted, settled,
    unbilled,
};

/// What a log says of something, by the places of its entries: what another notes is the last word that it knows.
#[derive(Debug)]
struct Words<K, V> {
    said: BTreeMap<K, BTreeMap<u64, V>>,
    noted: BTreeMap<K, V>,
}

impl<K, V> Default for Words<K, V> {
    fn default() -> Self {
        Words { said: BTreeMap::new(), noted: BTreeMap::new() }
    }
}

impl<K: Ord + Clone + Debug, V: Clone + Default + PartialEq + Debug> Words<K, V> {
    /// What it says of something is otherwise from an entry on.
    fn says(&mut self, at: &Seen, of: K, change: impl FnOnce(&mut V)) {
        let said = self.said.entry(of).or_default();
        let mut word = said.values().next_back().cloned().unwrap_or_default();
        change(&mut word);
        said.insert(at.first, word);
    }

    /// The last word for who knows so much of the log.
    fn known(&self, of: &K, upto: u64) -> Option<&V> {
        self.said.get(of)?.range(..=upto).next_back().map(|(_, word)| word)
    }

    fn notes(&mut self, upto: u64, of: K, word: V) -> Option<String> {
        let said = self.known(&of, upto);
        let other = (said != Some(&word)).then(|| unlike(&of, &word, &said));
        self.noted.insert(of, word);
        other
    }

    /// What was said last and is not what is noted, when nothing is on its way.
    fn apart(&self) -> impl Iterator<Item = String> + '_ {
        let last = self.said.iter().filter_map(|(of, said)| Some((of, said.values().next_back()?)));
        let apart = last.filter(|(of, word)| self.noted.get(of) != Some(word));
        apart.map(|(of, word)| unlike(of, &self.noted.get(of), word))
    }
}

/// What is told when a note is not what was said.
fn unlike(of: &dyn Debug, noted: &dyn Debug, said: &dyn Debug) -> String {
    format!("of {of:?} {noted:?} is noted, and {said:?} was said")
}

/// Facts that are noted one by one, in the order in which they were said.
#[derive(Debug)]
struct Queue<F>(VecDeque<F>);

impl<F> Default for Queue<F> {
    fn default() -> Self {
        Queue(VecDeque::new())
    }
}

impl<F: PartialEq + Debug> Queue<F> {
    fn says(&mut self, fact: F) {
        self.0.push_back(fact);
    }

    /// The next fact is noted, as `note` has it, which may need the fact to know.
    fn notes(&mut self, what: &str, note: impl FnOnce(Option<&F>) -> F) -> Option<String> {
        let said = self.0.pop_front();
        let noted = note(said.as_ref());
        (said.as_ref() != Some(&noted)).then(|| unlike(&what, &noted, &said))
    }

    fn apart(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|fact| format!("{fact:?} was said, and is not noted"))
    }
}

/// Every seam.
#[derive(Debug, Default)]
pub(super) struct Seams {
    /// Staking's nodes in scheduling and in emission, and where emission pays them.
    serving: Words<Id, Serving>,
    bonds: Words<Id, Bond>,
    payouts: Words<Id, Id>,
    /// The market's sessions and models in scheduling.
    funded: Words<Id, Funded>,
    models: Words<String, Model>,
    /// Until when the market lets a session drain.
    drains: Words<Id, u64>,
    /// Scheduling's calls in the market, presence in emission, leases in staking.
    calls: Queue<Calls>,
    presence: Queue<Vec<(Id, u32, bool)>>,
    leases: Queue<(u64, Id, u64)>,
    /// What scheduling says of sessions: until when they have leases, and that they are drained.
    leased: BTreeSet<(Id, u64)>,
    drained: BTreeSet<Id>,
    /// The market's work in emission.
    work: Queue<Vec<Work>>,
    /// Emission's schedule and what circulates in staking.
    schedule: Words<(), [u64; 2]>,
    /// Epochs that a service has sealed.
    sealed: BTreeSet<(ServiceId, u64)>,
    /// Holds of the ledger that are for staking.
    offers: BTreeMap<Id, Offer>,
}

impl Seams {
    /// What was said and is noted nowhere, when nothing is on its way.
    pub(super) fn apart(&self) -> impl Iterator<Item = String> + '_ {
        let of_staking = self.serving.apart().chain(self.bonds.apart()).chain(self.payouts.apart());
        let of_market = self.funded.apart().chain(self.models.apart()).chain(self.work.apart());
        let of_scheduling = self.calls.apart().chain(self.presence.apart()).chain(self.leases.apart());
        of_staking.chain(of_market).chain(of_scheduling).chain(self.schedule.apart())
    }

    pub(super) fn ledger(&mut self, event: &Booked) {
        let Booked::TransfersRecorded(recorded) = event else { return };
        for row in rows_of(recorded).filter(|row| row.code == TransferCode::Ok) {
            if let Some(by) = row.coordinator.filter(|by| by.service == STAKING) {
                self.offers.insert(row.id, Offer { node: by.id, account: row.debit, units: row.amount });
            }
        }
    }

    pub(super) fn staking(&mut self, seen: &Seen, event: &Staked, heard: &Heard) -> Wrong {
        let wrong = match event {
            Staked::NodeRegistered(e) => {
                let node = raw(&e.node);
                if e.kind() == NodeKind::Compute {
                    self.serving.says(seen, node, |it| {
                        (it.owner, it.key) = (Principal::from_slice(&e.owner), e.public_key.clone());
                    });
                }
                // Nothing is enough until staking says what is.
                let fresh = Bond {
                    owner: Principal::from_slice(&e.owner),
                    kind: e.kind,
                    required: u64::MAX,
                    ..Bond::default()
                };
                self.bonds.says(seen, node, |it| *it = fresh);
                None
            }
            Staked::BondChanged(e) => {
                self.bonded(seen, e);
                None
            }
            Staked::RequiredRecomputed(e) => {
                for (node, required) in ids(&e.nodes).zip(&e.required_units) {
                    if self.serving.said.contains_key(&node) {
                        self.serving.says(seen, node, |it| it.required = *required);
                    }
                    self.bonds.says(seen, node, |it| it.required = *required);
                }
                None
            }
            Staked::OwnerTombstoned(e) => {
                for node in ids(&e.nodes) {
                    self.serving.says(seen, node, |it| it.qualified = false);
                    self.bonds.says(seen, node, |it| it.barred = true);
                }
                None
            }
            Staked::EpochSealed(e) => {
                self.sealed.insert((STAKING, e.epoch));
                None
            }
            Staked::PayoutAccountSet(e) => {
                self.payouts.says(seen, raw(&e.node), |it| *it = raw(&e.account));
                None
            }
            Staked::UnbondingStarted(e) => {
                self.payouts.says(seen, raw(&e.node), |it| *it = raw(&e.account));
                None
            }
            Staked::BondPosted(e) => {
                let (node, account) = (raw(&e.node), raw(&e.account));
                if !self.payouts.said.contains_key(&node) {
                    self.payouts.says(seen, node, |it| *it = account); // the first part of a bond alone
                }
                self.offered(raw(&e.hold), &Offer { node, account, units: e.amount_units })
            }
            Staked::HoldsOffered(e) => {
                let rows = ids(&e.holds).zip(ids(&e.nodes).zip(ids(&e.accounts)).zip(&e.amounts_units));
                let offer =
                    |((node, account), units): ((Id, Id), &u64)| Offer { node, account, units: *units };
                return rows.filter_map(|(hold, of)| self.offered(hold, &offer(of))).collect();
            }
            Staked::LeasesNoted(e) => {
                let rows = e.grants.iter().zip(ids(&e.nodes)).zip(&e.granted_until_us);
                let rows = rows.map(|((grant, node), until)| (*grant, node, *until));
                return rows.filter_map(|row| self.leases.notes("a lease", |_| row)).collect();
            }
            Staked::EmissionNoted(e) => {
                let known = heard.upto(STAKING, EMISSION);
                let told = self.schedule.known(&(), known).is_some_and(|[_, circulating]| *circulating > 0);
                let circulating = if told { e.circulating_units } else { 0 }; // else it is what it was
                self.schedule.notes(known, (), [e.next_emission_units, circulating])
            }
            _ => None,
        };
        wrong.into_iter().collect()
    }

    fn bonded(&mut self, seen: &Seen, event: &BondChanged) {
        let node = raw(&event.node);
        if event.kind() == NodeKind::Compute {
            self.serving.says(seen, node, |it| {
                it.owner = Principal::from_slice(&event.owner);
                it.qualified = event.qualified && event.state() == NodeState::Active;
                (it.rating, it.required) = (event.rating_milli_cu, event.required_units);
            });
        }
        self.bonds.says(seen, node, |it| {
            *it = Bond {
                owner: Principal::from_slice(&event.owner),
                kind: event.kind,
                slashable: event.bond_units + event.unbonding_units,
                required: event.required_units,
                rating: event.rating_milli_cu,
                barred: event.state() == NodeState::Tombstoned,
            }
        });
    }

    /// Where emission has it from staking that a node is paid.
    pub(super) fn payout(&self, node: Id) -> Option<Id> {
        self.payouts.noted.get(&node).copied()
    }

    /// A bond is of a hold for that node, as large.
    fn offered(&self, hold: Id, as_told: &Offer) -> Option<String> {
        let said = self.offers.get(&hold);
        (said != Some(as_told)).then(|| unlike(&hold, as_told, &said))
    }

    pub(super) fn scheduling(&mut self, event: &Placed, heard: &Heard) -> Wrong {
        let known = heard.upto(SCHEDULING, MARKET);
        let wrong = match event {
            Placed::NodesNoted(e) => return self.nodes_noted(e, heard.upto(SCHEDULING, STAKING)),
            Placed::SessionNoted(e) => {
                let funded = funded(&e.renter, &e.cap_pico_usd, e.expires_at_us);
                self.funded.notes(known, raw(&e.session), funded)
            }
            Placed::ModelNoted(e) => {
                let each = [e.input_pico_usd, e.output_pico_usd, e.input_micro_units, e.output_micro_units];
                self.models.notes(known, e.model.clone(), Model { each, withdrawn: e.withdrawn })
            }
            Placed::SessionDraining(e) => self.drains.notes(known, raw(&e.session), e.drains_until_us),
            Placed::CallsMetered(e) => {
                self.calls.says(metered(e));
                None
            }
            Placed::LeaseGranted(e) => {
                self.leases.says((grant(&e.lease), raw(&e.node), e.expires_at_us));
                self.leased.insert((raw(&e.session), e.expires_at_us));
                None
            }
            Placed::LeaseRenewed(e) => {
                let renewed = e.renewed.iter().map(|it| (raw(&it.session), it.expires_at_us));
                self.leased.extend(renewed);
                None
            }
            Placed::LeaseEnded(e) => {
                self.leases.says((grant(&e.lease), raw(&e.node), 0));
                None
            }
            Placed::SessionDrained(e) => {
                self.drained.insert(raw(&e.session));
                None
            }
            Placed::EpochAttendance(e) if !e.nodes.is_empty() => {
                self.presence.says(attended(&e.nodes, &e.beats_seen, &e.active));
                None
            }
            Placed::EpochSealed(e) => {
                self.sealed.insert((SCHEDULING, e.epoch));
                None
            }
            _ => None,
        };
        wrong.into_iter().collect()
    }

    fn nodes_noted(&mut self, event: &NodesNoted, known: u64) -> Wrong {
        let mut wrong = Wrong::new();
        for it in &event.nodes {
            let serving = Serving {
                owner: Principal::from_slice(&it.owner),
                key: it.public_key.clone(),
                qualified: it.qualified,
                rating: it.rating_milli_cu,
                required: it.required_units,
            };
            wrong.extend(self.serving.notes(known, raw(&it.node), serving));
        }
        for node in ids(&event.unqualified) {
            let before = self.serving.noted.get(&node).cloned().unwrap_or_default();
            wrong.extend(self.serving.notes(known, node, Serving { qualified: false, ..before }));
        }
        wrong
    }

    pub(super) fn market(&mut self, seen: &Seen, event: &Sold) -> Wrong {
        let wrong = match event {
            Sold::SessionFunded(e) => {
                let funded = funded(&e.renter, &e.cap_pico_usd, e.expires_at_us);
                self.funded.says(seen, raw(&e.session), |it| *it = funded);
                None
            }
            Sold::ModelPriced(e) => {
                let each = [e.input_pico_usd, e.output_pico_usd, e.input_micro_units, e.output_micro_units];
                self.models.says(seen, e.model.clone(), |it| *it = Model { each, withdrawn: e.withdrawn });
                None
            }
            Sold::SessionClosing(e) => {
                self.drains.says(seen, raw(&e.session), |it| *it = e.drains_until_us);
                None
            }
            Sold::CallsNoted(e) => self.calls.notes("calls", |said| noted(e, said)),
            Sold::CallsUnbilled(e) => self.calls.notes("calls", |said| unbilled(e, said)),
            Sold::SessionLeased(e) => {
                let said = self.leased.contains(&(raw(&e.session), e.until_us));
                (!said).then(|| unlike(&raw(&e.session), e, &"no such lease"))
            }
            Sold::CallsEnded(e) => {
                let said = self.drained.contains(&raw(&e.session));
                (!said).then(|| unlike(&raw(&e.session), e, &"nothing of the kind"))
            }
            Sold::Settled(e) => {
                let work = settled(e);
                if !work.is_empty() {
                    self.work.says(work);
                }
                None
            }
            Sold::EpochSealed(e) => {
                self.sealed.insert((MARKET, e.epoch));
                None
            }
            _ => None,
        };
        wrong.into_iter().collect()
    }

    pub(super) fn emission(&mut self, seen: &Seen, event: &Emitted, heard: &Heard) -> Wrong {
        let known = heard.upto(EMISSION, STAKING);
        let wrong = match event {
            Emitted::NodeNoted(e) => {
                let bond = Bond {
                    owner: Principal::from_slice(&e.owner),
                    kind: e.kind,
                    slashable: e.slashable_units,
                    required: e.required_units,
                    rating: e.rating_milli_cu,
                    barred: e.barred,
                };
                self.bonds.notes(known, raw(&e.node), bond)
            }
            Emitted::RequiredNoted(e) => {
                let rows: Vec<_> = ids(&e.nodes).zip(&e.required_units).collect();
                return rows
                    .into_iter()
                    .filter_map(|(node, required)| self.requires(known, node, *required))
                    .collect();
            }
            Emitted::NodesBarred(e) => {
                for node in ids(&e.nodes) {
                    self.bonds.noted.entry(node).or_default().barred = true; // E-5.2 says whether it may be
                }
                None
            }
            Emitted::PayoutNoted(e) => self.payouts.notes(known, raw(&e.node), raw(&e.account)),
            Emitted::WorkNoted(e) => {
                let rows = ids(&e.nodes).zip(owners(&e.owners)).zip(e.credits());
                let rows = rows.zip(e.units.iter().zip(&e.fees_micro_usd));
                let work = rows.map(|(((node, owner), credit), (units, fees))| Work {
                    node,
                    owner,
                    credit,
                    units: *units,
                    fees: *fees,
                });
                self.work.notes("work", |_| work.collect())
            }
            Emitted::AttendanceNoted(e) => {
                self.presence.notes("presence", |_| attended(&e.nodes, &e.beats_seen, &e.active))
            }
            Emitted::SourceSealed(e) => {
                let service = u16::try_from(e.service).map(ServiceId).unwrap_or_default();
                let said = self.sealed.contains(&(service, e.epoch));
                (!said).then(|| unlike(&service, e, &"no such seal"))
            }
            Emitted::EpochClosed(e) => {
                self.schedule.says(seen, (), |it| *it = [e.next_scheduled_units, e.circulating_units]);
                None
            }
            _ => None,
        };
        wrong.into_iter().collect()
    }

    fn requires(&mut self, known: u64, node: Id, required: u64) -> Option<String> {
        let before = self.bonds.noted.get(&node).cloned().unwrap_or_default();
        self.bonds.notes(known, node, Bond { required, ..before })
    }
}
