//! What the sources say, as events: each fact in the epoch in which it counts.

use holmes_kernel::{Ctx, Id, Principal, PrincipalKind, ServiceId, Time};
use holmes_proto::emission::v1::event::Event as Kind;
use holmes_proto::emission::v1::{
    AttendanceNoted, NodeNoted, NodesBarred, PayoutNoted, PriceNoted, RequiredNoted, SourceSealed,
    SourceSkipped, WorkNoted,
};
use holmes_proto::market::v1::WorkCredit;
use holmes_proto::staking::v1::NodeKind;

use super::{Decided, bytes, column, forbidden, refuse_if};
use crate::command::{Fact, Rejection, WorkRow};
use crate::state::{Source, State};

/// Keeps what another service's log says. What says nothing new causes no event.
pub(super) fn note(state: &State, source: ServiceId, at: Time, facts: &[Fact], ctx: &Ctx) -> Decided {
    refuse_if(ctx.principal != Principal::service(source), || {
        forbidden(ctx, "only the source's own log says so")
    })?;
    Ok(facts.iter().filter_map(|fact| noted(state, source, at, fact, ctx)).collect())
}

fn noted(state: &State, source: ServiceId, at: Time, fact: &Fact, ctx: &Ctx) -> Option<Kind> {
    let counts_in = |epoch| state.counts_in(epoch, ctx.now);
    // E-0.5: what names no epoch belongs to that of the log that records it.
    let of_the_day = || counts_in(state.params.calendar.epoch(at));
    Some(match fact {
        Fact::Node { .. } => return node(of_the_day(), fact),
        Fact::Required(rows) => Kind::RequiredNoted(RequiredNoted {
            epoch: of_the_day(),
            nodes: column(rows.iter().map(|(node, _)| *node)),
            required_units: rows.iter().map(|(_, units)| *units).collect(),
        }),
        Fact::Payout { node, account, posted } => {
            // Every part of a bond names its account; only the first one counts.
            let known = state
                .nodes
                .get(node)
                .is_some_and(|node| node.is_named && (*posted || node.payout == Some(*account)));
            return (!known)
                .then(|| Kind::PayoutNoted(PayoutNoted { node: bytes(*node), account: bytes(*account) }));
        }
        Fact::Barred(nodes) => Kind::NodesBarred(NodesBarred { nodes: column(nodes.iter().copied()) }),
        Fact::Work { epoch, rows } => work(counts_in(*epoch), rows),
        Fact::Attendance { epoch, rows } => attendance(counts_in(*epoch), rows),
        Fact::Price { epoch, micro_usd } => {
            Kind::PriceNoted(PriceNoted { epoch: counts_in(*epoch), token_price_micro_usd: *micro_usd })
        }
        Fact::Sealed(epoch) => {
            let known = find(state, source).is_none_or(|source| source.sealed >= *epoch);
            return (!known)
                .then(|| Kind::SourceSealed(SourceSealed { service: source.0.into(), epoch: *epoch }));
        }
    })
}

fn find(state: &State, service: ServiceId) -> Option<&Source> {
    state.sources.iter().find(|source| source.service == service)
}

fn node(epoch: u64, fact: &Fact) -> Option<Kind> {
    let Fact::Node { node, owner, kind, slashable, required, rating_milli_cu, barred, registered } = fact
    else {
        return None;
    };
    let kind = NodeKind::try_from(i32::from(*kind)).unwrap_or(NodeKind::Unspecified);
    Some(Kind::NodeNoted(NodeNoted {
        epoch,
        node: bytes(*node),
        owner: owner.to_bytes().to_vec().into(),
        kind: kind.into(),
        slashable_units: slashable.units(),
        required_units: required.units(),
        rating_milli_cu: *rating_milli_cu,
        barred: *barred,
        registered: *registered,
    }))
}

fn work(epoch: u64, rows: &[WorkRow]) -> Kind {
    let owners: Vec<u8> = rows.iter().flat_map(|row| row.owner.to_bytes()).collect();
    let credit = |row: &WorkRow| if row.full { WorkCredit::Full } else { WorkCredit::Quarter };
    Kind::WorkNoted(WorkNoted {
        epoch,
        nodes: column(rows.iter().map(|row| row.node)),
        owners: owners.into(),
        credits: rows.iter().map(|row| credit(row).into()).collect(),
        units: rows.iter().map(|row| row.units).collect(),
        fees_micro_usd: rows.iter().map(|row| row.fees_micro_usd).collect(),
    })
}

fn attendance(epoch: u64, rows: &[(Id, u32, bool)]) -> Kind {
    Kind::AttendanceNoted(AttendanceNoted {
        epoch,
        nodes: column(rows.iter().map(|(node, ..)| *node)),
        beats_seen: rows.iter().map(|(_, beats, _)| *beats).collect(),
        active: rows.iter().map(|(.., active)| *active).collect(),
    })
}

/// A person's decision that an epoch shall not wait any longer.
pub(super) fn close_without(state: &State, epoch: u64, source: ServiceId, ctx: &Ctx) -> Decided {
    refuse_if(ctx.principal.kind != PrincipalKind::Staff, || forbidden(ctx, "only staff may"))?;
    let known = find(state, source).ok_or(Rejection::SourceUnknown(source.0.into()))?;
    if known.sealed >= epoch && epoch < state.next {
        return Ok(Vec::new());
    }
    refuse_if(epoch != state.next, || Rejection::NotNext { asked: epoch, next: state.next })?;
    let from = state.params.calendar.ends(epoch).after_millis(state.params.without_after_ms);
    refuse_if(ctx.now < from, || Rejection::TooEarly { epoch, at_us: from.micros() })?;
    if known.sealed >= epoch {
        return Ok(Vec::new());
    }
    Ok(vec![Kind::SourceSkipped(SourceSkipped { service: source.0.into(), epoch })])
}
