//! What waits in `unclaimed/<asset>` for owners who had named no account.

use holmes_kernel::{Ctx, Principal};
use holmes_proto::heard::Refused;
use holmes_proto::market::v1::event::Event as Kind;
use holmes_proto::market::v1::{OwedPaid, OwedRefused, OwedSent};

use super::{Decided, only_time, owned};
use crate::sends;
use crate::state::State;

/// Sends the owner that waits longest all that is owed.
pub(super) fn pay(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let Some((_, owner, asset)) = state.owed_queue.first().filter(|(at, ..)| *at <= ctx.now).copied() else {
        return Ok(Vec::new());
    };
    let key = (owner, asset);
    let (Some(owed), Some(account)) = (state.owed.get(&key), state.accounts.get(&key)) else {
        return Ok(vec![refused(state, owner, asset, "NO_ACCOUNT", ctx)]);
    };
    let send = sends::pay_owed(state, owner, asset, *account, owed.units, ctx);
    Ok(vec![Kind::OwedSent(OwedSent { owner: owned(owner), asset, units: owed.units, send })])
}

pub(super) fn answered(
    state: &State,
    owner: Principal,
    asset: u32,
    why: Option<&Refused>,
    ctx: &Ctx,
) -> Vec<Kind> {
    vec![match why {
        None => Kind::OwedPaid(OwedPaid { owner: owned(owner), asset }),
        Some(why) => refused(state, owner, asset, &why.reason, ctx),
    }]
}

fn refused(state: &State, owner: Principal, asset: u32, reason: &str, ctx: &Ctx) -> Kind {
    let refusals = state.owed.get(&(owner, asset)).map_or(0, |owed| owed.refusals);
    Kind::OwedRefused(OwedRefused {
        owner: owned(owner),
        asset,
        reason: reason.to_owned(),
        retry_at_us: state.params.retry.at(ctx.now, refusals).micros(),
    })
}
