//! What crosses a seam: every field that the reader takes over, and how it is read from either log.

use holmes_kernel::wide::mul_div_floor;
use holmes_kernel::{Id, Principal};
use holmes_proto::columns::{ids, wide};
use holmes_proto::market::v1::{CallsNoted, CallsUnbilled, Settled, WorkCredit};
use holmes_proto::scheduling::v1::{CallLine, CallsMetered};
use prost::bytes::Bytes;

use crate::audit::{owner, owners, raw};

/// A compute node as scheduling has it from staking.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Serving {
    pub(super) owner: Option<Principal>,
    pub(super) key: Bytes,
    pub(super) qualified: bool,
    pub(super) rating: u32,
    pub(super) required: u64,
}

/// A node as emission has it from staking.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bond {
    pub(super) owner: Option<Principal>,
    pub(super) kind: i32,
    pub(super) slashable: u64,
    pub(super) required: u64,
    pub(super) rating: u32,
    pub(super) barred: bool,
}

/// A session as scheduling has it from the market.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Funded {
    pub(super) renter: Option<Principal>,
    pub(super) cap: u128,
    pub(super) expires_at_us: u64,
}

/// A model as scheduling has it from the market.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) each: [u64; 4],
    pub(super) withdrawn: bool,
}

/// What the calls of a lease come to together: pico-dollars, and work in millionths of a unit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Calls {
    pub(super) session: Id,
    pub(super) node: Id,
    pub(super) owner: Principal,
    pub(super) credit: WorkCredit,
    pub(super) calls: u64,
    pub(super) tokens: [u64; 2],
    pub(super) pico: u128,
    pub(super) work: u128,
}

/// A node's work in a settlement.
#[derive(Debug, PartialEq)]
pub(super) struct Work {
    pub(super) node: Id,
    pub(super) owner: Principal,
    pub(super) credit: WorkCredit,
    pub(super) units: u64,
    pub(super) fees: u64,
}

/// A hold that is offered as a bond.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Offer {
    pub(super) node: Id,
    pub(super) account: Id,
    pub(super) units: u64,
}

/// What a lease's lines come to, at its prices.
pub(super) fn metered(event: &CallsMetered) -> Calls {
    let sum = |of: fn(&CallLine) -> u64| event.lines.iter().map(of).sum();
    let tokens: [u64; 2] = [sum(|line| line.input_tokens), sum(|line| line.output_tokens)];
    let of = |each: [u64; 2]| -> u128 {
        tokens.iter().zip(each).map(|(tokens, each)| u128::from(*tokens) * u128::from(each)).sum()
    };
    Calls {
        session: raw(&event.session),
        node: raw(&event.node),
        owner: owner(&event.owner),
        credit: event.credit(),
        calls: event.lines.len() as u64,
        tokens,
        pico: of([event.input_pico_usd, event.output_pico_usd]),
        work: of([event.input_micro_units, event.output_micro_units]),
    }
}

/// E-9.1: as much of the work counts as is billed; so what was said is needed to know what all of it is.
pub(super) fn noted(event: &CallsNoted, said: Option<&Calls>) -> Calls {
    let [billed, unbilled, counts] =
        [&event.billed_pico_usd, &event.unbilled_pico_usd, &event.billed_micro_units]
            .map(|sum| wide(sum).unwrap_or(0));
    let pico = billed + unbilled;
    let whole = said
        .map(|said| said.work)
        .filter(|work| unbilled > 0 && mul_div_floor(*work, billed, pico).is_some_and(|part| part == counts));
    Calls {
        session: raw(&event.session),
        node: raw(&event.node),
        owner: owner(&event.owner),
        credit: event.credit(),
        calls: event.calls,
        tokens: [event.input_tokens, event.output_tokens],
        pico,
        work: whole.unwrap_or(counts),
    }
}

/// Of calls that nobody pays for less is noted.
pub(super) fn unbilled(event: &CallsUnbilled, said: Option<&Calls>) -> Calls {
    let (credit, tokens, work) =
        said.map_or_else(Default::default, |said| (said.credit, said.tokens, said.work));
    Calls {
        session: raw(&event.session),
        node: raw(&event.node),
        owner: owner(&event.owner),
        credit,
        calls: event.calls,
        tokens,
        pico: wide(&event.unbilled_pico_usd).unwrap_or(0),
        work,
    }
}

/// E-3.2: work between the same owner counts nothing.
pub(super) fn settled(event: &Settled) -> Vec<Work> {
    let rows = ids(&event.nodes).zip(owners(&event.owners)).zip(event.credits());
    let rows = rows.zip(event.units.iter().zip(&event.fees_micro_usd));
    let rows = rows.filter(|((_, credit), _)| matches!(credit, WorkCredit::Full | WorkCredit::Quarter));
    rows.map(|(((node, owner), credit), (units, fees))| Work {
        node,
        owner,
        credit,
        units: *units,
        fees: *fees,
    })
    .collect()
}

pub(super) fn funded(renter: &[u8], cap: &[u8], expires_at_us: u64) -> Funded {
    Funded { renter: Principal::from_slice(renter), cap: wide(cap).unwrap_or(0), expires_at_us }
}

/// The place of a lease's grant: the end of its id.
pub(super) fn grant(lease: &[u8]) -> u64 {
    lease.last_chunk().map_or(0, |seq| u64::from_be_bytes(*seq))
}

pub(super) fn attended(nodes: &[u8], beats: &[u32], active: &[bool]) -> Vec<(Id, u32, bool)> {
    ids(nodes).zip(beats).zip(active).map(|((node, beats), active)| (node, *beats, *active)).collect()
}
