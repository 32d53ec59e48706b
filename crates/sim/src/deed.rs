//! What a bad day is made of: what parties ask, and what befalls those who answer. A day is a list of deeds; each can be
//! played whatever came before it, so that a list can be cut to what a failure needs.

use holmes_kernel::ServiceId;
use serde::{Deserialize, Serialize};

use crate::bus::Trouble;
use crate::journal::Append;

/// One step of a day. Numbers that name something are taken modulo what there is.
#[allow(missing_docs)] // the fields' names say what they are
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// A party pays another.
    Pay { from: u8, to: u8, token: bool, units: u64, balancing: bool },
    /// Linked payments, the last of which may be more than there is.
    Chain { from: u8, token: bool, units: Vec<u64> },
    /// A party reserves.
    Hold { from: u8, to: u8, token: bool, units: u64, timeout_ms: u64 },
    /// Ends a hold: posts a part of it, all of it (0), or gives it back; `twice` in one batch.
    EndHold { at: usize, post: Option<u64>, twice: bool },
    /// The bulk submitter pays, under its next number; `ahead` sends the number after it first.
    Submit { to: u8, units: u64, ahead: bool },
    /// Money comes in or goes out under a reference, which may have been used.
    Border { n: u8, out: bool, units: u64, reference: u8 },
    /// A session.
    Open { n: u8, token: bool, budget: u64 },
    /// Its end.
    Close { at: usize },
    /// A lease, on a node or any.
    Place { at: usize, n: Option<u8> },
    /// Calls of a lease are finished, each with its tokens: numbers that came before are repetitions.
    Report { at: usize, calls: Vec<(u8, u64)> },
    /// Calls of a lease have come so far.
    Checkpoint { at: usize, calls: Vec<(u8, u64)> },
    /// A lease goes on.
    Renew { at: usize },
    /// A lease ends.
    End { at: usize },
    /// A node's stream breaks.
    Lose { n: u8 },
    /// It opens.
    Attach { n: u8 },
    /// A node says nothing to its gateway, or speaks again.
    Silence { n: u8, silent: bool },
    /// Staff gives an account, suspends one, lets it in again, or gives it a key.
    Account { kind: u8, at: usize },
    /// The gateway restarts.
    Gateway,
    /// An owner holds an amount for its node's bond, and offers it.
    Bond { n: u8, units: u64 },
    /// An owner wants a part of its bond back.
    Unbond { n: u8, units: u64 },
    /// Staff takes a node out of service, or lets it in again.
    Jail { n: u8, jailed: bool },
    /// Staff keeps money from leaving a party's account, or lets it go again.
    Freeze { n: u8, token: bool, frozen: bool },
    /// An owner takes a grant before its time.
    Exit { n: u8, back: u64 },
    /// Something that is never right.
    Nonsense { kind: u8 },
    /// Somebody reaches for what is another's.
    Meddle { kind: u8, at: usize },
    /// A payment under the id of a request that another has made.
    Borrow { back: usize },
    /// A party asks for a transfer under an id that it has used: the same, or another.
    Retransfer { back: usize, change: u8 },
    /// A client that heard nothing, or did, asks again: so many requests back.
    Again { back: usize },
    /// Somebody asks for something else under an id that was used.
    Reuse { back: usize },
    /// Time passes; the gateway reports who is there.
    Wait { ms: u64 },
    /// The clock leaps.
    Leap { ms: u64 },
    /// Services hear of each other.
    Hear,
    /// The next appends of a service end like this.
    Append { service: u16, append: Append, times: u32 },
    /// Appends that were under way arrive.
    Arrive,
    /// Somebody else claims a service's log.
    Claim { service: u16 },
    /// A service's log cannot be read for a while.
    Unreadable { service: u16, times: u32 },
    /// A service keeps a snapshot; it may rot.
    Snapshot { service: u16, rots: bool },
    /// A service is started again.
    Restart { service: u16, snapshots: bool },
    /// Everything is.
    RestartAll { snapshots: bool },
    /// Something becomes of the line from a source to a reader.
    Line { reader: u16, source: u16, trouble: Trouble },
    /// Somebody has changed a frame in the middle of a log, behind the snapshot where one is used: the service is started
    /// from it.
    Tamper { service: u16, at: usize, snapshots: bool },
    /// Somebody has forged the ledger's log so that tokens come from nowhere, every chain right.
    Forge { snapshots: bool },
}

impl Deed {
    /// Whether it is a fault rather than something that is asked.
    pub fn is_fault(&self) -> bool {
        use Deed::*;
        matches!(
            self,
            Append { .. }
                | Arrive
                | Claim { .. }
                | Unreadable { .. }
                | Snapshot { .. }
                | Restart { .. }
                | RestartAll { .. }
                | Line { .. }
                | Tamper { .. }
                | Forge { .. }
                | Leap { .. }
        )
    }
}

/// The services that a day is played with.
pub const SERVICES: [u16; 7] = [1, 2, 3, 4, 5, 6, 7];

/// How much of what a day brings: some days have only few kinds of trouble, and more of it.
struct Mood {
    rng: fastrand::Rng,
    faults: Vec<(u32, Fault)>,
    fault_share: u32,
    /// What follows from what was drawn last, the next one at the end.
    follows: Vec<Deed>,
}

/// Draws a fault: its deeds, in order.
type Fault = fn(&mut fastrand::Rng) -> Vec<Deed>;

/// The day of a seed.
pub fn day(seed: u64, steps: usize) -> Vec<Deed> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let kinds: [(u32, Fault); 12] = [
        (6, append),
        (3, |_| vec![Deed::Arrive]),
        (2, deposed),
        (2, |rng| vec![Deed::Claim { service: service(rng) }]),
        (1, |rng| vec![Deed::Unreadable { service: service(rng), times: rng.u32(1..3) }]),
        (2, |rng| vec![Deed::Snapshot { service: service(rng), rots: rng.u8(..) < 64 }]),
        (5, |rng| vec![Deed::Restart { service: service(rng), snapshots: rng.bool() }]),
        (1, |rng| vec![Deed::RestartAll { snapshots: rng.bool() }]),
        (8, line),
        (1, tamper),
        (1, forge),
        (1, leap),
    ];
    let faults = kinds.into_iter().filter(|_| rng.u8(..) < 160).collect();
    let fault_share = rng.u32(0..40);
    let mut mood = Mood { rng, faults, fault_share, follows: Vec::new() };
    (0..steps).map(|_| mood.deed()).collect()
}

impl Mood {
    fn deed(&mut self) -> Deed {
        if let Some(next) = self.follows.pop() {
            return next;
        }
        let total: u32 = self.faults.iter().map(|(weight, _)| weight).sum();
        if total > 0 && self.rng.u32(0..100) < self.fault_share {
            let mut at = self.rng.u32(0..total);
            for (weight, fault) in &self.faults {
                match at.checked_sub(*weight) {
                    Some(rest) => at = rest,
                    None => {
                        self.follows = fault(&mut self.rng);
                        self.follows.reverse();
                        break;
                    }
                }
            }
        }
        self.follows.pop().unwrap_or_else(|| asked(&mut self.rng))
    }
}

fn service(rng: &mut fastrand::Rng) -> u16 {
    SERVICES[rng.usize(..SERVICES.len())]
}

/// An owner loses its log while an append is under way, which arrives when the next one has taken it up.
fn deposed(rng: &mut fastrand::Rng) -> Vec<Deed> {
    let (service, ask) = match rng.u8(0..3) {
        0 => (1, Deed::Submit { to: party(rng), units: 1 + rng.u64(..1_000), ahead: false }),
        1 => (2, Deed::Account { kind: 0, at: 0 }),
        _ => (5, Deed::Open { n: 4, token: rng.bool(), budget: 100_000 }),
    };
    let late = Deed::Append { service, append: Append::Late, times: 3 };
    vec![late, ask, Deed::Restart { service, snapshots: rng.bool() }, Deed::Arrive]
}

fn append(rng: &mut fastrand::Rng) -> Vec<Deed> {
    use Append::*;
    let kinds = [LostBefore, LostBefore, LostAfter, LostAfter, Late, Late, FailsBefore, FailsAfter, Full];
    let append = kinds[rng.usize(..kinds.len())];
    let times = if rng.bool() { 1 } else { rng.u32(1..6) };
    vec![Deed::Append { service: service(rng), append, times }]
}

fn line(rng: &mut fastrand::Rng) -> Vec<Deed> {
    let trouble = match rng.u8(0..4) {
        0 => Trouble::Silent(rng.u32(1..40)),
        1 => Trouble::Slow(rng.u32(1..20)),
        _ => Trouble::Again(rng.u64(1..60)),
    };
    vec![Deed::Line { reader: service(rng), source: service(rng), trouble }]
}

/// A log is changed before the service starts from its first frame, or behind a snapshot that it starts from.
fn tamper(rng: &mut fastrand::Rng) -> Vec<Deed> {
    let (service, at, snapshots) = (service(rng), rng.usize(..1_000), rng.bool());
    let mut deeds = Vec::new();
    if snapshots {
        deeds.push(Deed::Snapshot { service, rots: false });
        deeds.extend((0..6).map(|_| asked(rng)));
    }
    deeds.push(Deed::Tamper { service, at, snapshots });
    deeds
}

/// The same of a forged log.
fn forge(rng: &mut fastrand::Rng) -> Vec<Deed> {
    let snapshots = rng.bool();
    let kept = snapshots.then_some(Deed::Snapshot { service: 1, rots: false });
    kept.into_iter().chain([Deed::Forge { snapshots }]).collect()
}

/// Mostly seconds; now and then beyond the hour for which requests are known, or as far as it lasts: then somebody asks
/// again what was asked before.
fn leap(rng: &mut fastrand::Rng) -> Vec<Deed> {
    match rng.u8(..) {
        0..40 => vec![Deed::Leap { ms: rng.u64(3_700_000..4_000_000) }],
        40..100 => {
            let leap = Deed::Leap { ms: rng.u64(200_000..3_500_000) };
            let again = (0..3).map(|_| Deed::Again { back: rng.usize(..40) });
            [leap].into_iter().chain(again).collect()
        }
        _ => vec![Deed::Leap { ms: rng.u64(1..200_000) }],
    }
}

fn party(rng: &mut fastrand::Rng) -> u8 {
    rng.u8(1..=5)
}

fn units(rng: &mut fastrand::Rng) -> u64 {
    match rng.u8(0..8) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        _ => rng.u64(1..50_000_000),
    }
}

fn calls(rng: &mut fastrand::Rng) -> Vec<(u8, u64)> {
    // Now and then a node counts what it cannot have done.
    let tokens = |rng: &mut fastrand::Rng| if rng.u8(..) < 12 { rng.u64(..) } else { rng.u64(..500_000) };
    (0..rng.usize(1..4)).map(|_| (rng.u8(..), tokens(rng))).collect()
}

fn asked(rng: &mut fastrand::Rng) -> Deed {
    let (at, token) = (rng.usize(..1_000), rng.bool());
    match rng.u32(0..108) {
        0..7 => {
            Deed::Pay { from: party(rng), to: party(rng), token, units: units(rng), balancing: rng.bool() }
        }
        7..9 => {
            Deed::Chain { from: party(rng), token, units: (0..rng.usize(2..5)).map(|_| units(rng)).collect() }
        }
        9..14 => Deed::Hold {
            from: party(rng),
            to: party(rng),
            token,
            units: units(rng),
            timeout_ms: rng.u64(1..90_000),
        },
        14..19 => {
            let post = [None, Some(0), Some(rng.u64(1..1_000_000))][rng.usize(..3)];
            Deed::EndHold { at, post, twice: rng.u8(..) < 60 }
        }
        19..24 => Deed::Submit { to: party(rng), units: rng.u64(1..1_000_000), ahead: rng.u8(..) < 40 },
        24..27 => Deed::Border {
            n: party(rng),
            out: rng.bool(),
            units: units(rng) % 5_000_000,
            reference: rng.u8(..12),
        },
        27..32 => Deed::Open { n: rng.u8(1..=5), token, budget: rng.u64(50_000..2_000_000) },
        32..34 => Deed::Close { at },
        34..43 => Deed::Place { at, n: if rng.bool() { Some(rng.u8(1..=3)) } else { None } },
        43..54 => Deed::Report { at, calls: calls(rng) },
        54..58 => Deed::Checkpoint { at, calls: calls(rng) },
        58..60 => Deed::Renew { at },
        60..63 => Deed::End { at },
        63..65 => Deed::Lose { n: rng.u8(1..=3) },
        65..68 => Deed::Attach { n: rng.u8(1..=3) },
        68 => Deed::Gateway,
        69 => Deed::Bond { n: rng.u8(1..=3), units: rng.u64(1..9_000_000_000) },
        70 => Deed::Unbond { n: rng.u8(1..=3), units: units(rng) },
        71 => Deed::Jail { n: rng.u8(1..=3), jailed: rng.bool() },
        72 | 104..106 => Deed::Exit { n: rng.u8(1..=3), back: rng.u64(0..4) },
        73..76 => Deed::Nonsense { kind: rng.u8(..) },
        76..82 => Deed::Again { back: rng.usize(..40) },
        82..84 => Deed::Reuse { back: rng.usize(..20) },
        84..95 => Deed::Wait { ms: rng.u64(1..9_000) },
        95 => Deed::Silence { n: rng.u8(1..=3), silent: rng.bool() },
        96 => Deed::Account { kind: rng.u8(..), at },
        98..100 => Deed::Meddle { kind: rng.u8(..), at },
        100 => Deed::Borrow { back: at },
        101..104 => Deed::Retransfer { back: rng.usize(..12), change: rng.u8(..) },
        97 => Deed::Freeze { n: party(rng), token, frozen: rng.u8(..) < 100 },
        _ => Deed::Hear,
    }
}

/// A service's name, for those who read.
pub fn name(service: u16) -> &'static str {
    holmes_proto::service_name(ServiceId(service)).unwrap_or("?")
}
