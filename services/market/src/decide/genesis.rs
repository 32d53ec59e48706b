//! What time does by itself: the log's beginning, the market's own accounts, the ends of epochs.

use holmes_kernel::Ctx;
use holmes_proto::heard::Refused;
use holmes_proto::market::v1::event::Event as Kind;
use holmes_proto::market::v1::{
    EpochSealed, MarketOpened, PriceSealed, SystemAccountOpened, SystemAccountRefused, SystemAccountRequested,
};

use super::{Decided, only_time};
use crate::sends;
use crate::state::State;

/// E-0.5: TGE is what the profile names; 0 is the Unix epoch, here as everywhere, so that all services count alike. The
/// first epoch that is sealed is the one in which the log begins.
pub(super) fn begin(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    if state.next_seal > 0 {
        return Ok(Vec::new());
    }
    let tge_at_us = state.params.calendar.tge_at().micros();
    let models = state.params.models.iter().map(|(name, model)| Kind::ModelPriced(model.priced(name)));
    Ok(models.chain([Kind::MarketOpened(MarketOpened { tge_at_us })]).collect())
}

pub(super) fn open_accounts(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    let is_due = |at: Option<holmes_kernel::Time>| at.is_some_and(|at| at <= ctx.now);
    let next = state.purses.iter().find(|purse| is_due(purse.ask_at));
    let asked = next.map(|purse| {
        let send = sends::open_account(purse, ctx);
        Kind::SystemAccountRequested(SystemAccountRequested { name: purse.name.clone(), send })
    });
    Ok(asked.into_iter().collect())
}

pub(super) fn account_answered(state: &State, name: &str, refused: Option<&Refused>, ctx: &Ctx) -> Vec<Kind> {
    let name = name.to_owned();
    let refusals = state.purses.iter().find(|purse| purse.name == name).map_or(0, |purse| purse.refusals);
    vec![match refused {
        None => Kind::SystemAccountOpened(SystemAccountOpened { name }),
        Some(why) => Kind::SystemAccountRefused(SystemAccountRefused {
            name,
            reason: why.reason.clone(),
            retry_at_us: state.params.retry.at(ctx.now, refusals).micros(),
        }),
    }]
}

/// E-0.5: epochs that passed while nothing ran are sealed one by one.
pub(super) fn seal(state: &State, ctx: &Ctx) -> Decided {
    only_time(ctx)?;
    if state.seals_at().is_none_or(|at| ctx.now < at) {
        return Ok(Vec::new());
    }
    let epoch = state.next_seal;
    let token_price_micro_usd = state.params.token_price;
    Ok(vec![
        Kind::PriceSealed(PriceSealed { epoch, token_price_micro_usd }),
        Kind::EpochSealed(EpochSealed { epoch }),
    ])
}
