//! The governed numbers of the market: unit, default, bounds and largest step of each. Profiles fill them at genesis;
//! from then on they live in the state.

use holmes_kernel::machine::BadParams;
use holmes_kernel::{Backoff, Calendar, Time, governed};
use holmes_proto::market::v1 as wire;
use holmes_proto::market::v1::ModelKind;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::model::{self, Model};

/// Rows that one window settles; the rest goes to the next. With a post, the market's own accounts and a hold, their
/// payments fit a chain of the ledger (E-2.2: 256).
pub const MOST_ROWS: usize = 240;
/// Lines of an invoice that are kept, the newest.
pub const MOST_LINES: usize = 1_000;
/// Closed sessions of one renter that are remembered, the newest.
pub const MOST_CLOSED_PER_RENTER: usize = 1_000;

const DAY_MS: u64 = 86_400_000;
const USD: u64 = 1_000_000;
const PPB: u64 = 1_000_000_000;

// longest_session_ms and hold_grace_ms together stay below the ledger's longest hold, 90 days by default. A fee of more
// than the whole price is none.
governed! {
    wire::Params:
    tge_at_ms, "ms", 0, 0, 1 << 50, 0;
    epoch_s, "s", 86_400, 1, 86_400, 0;
    seal_after_ms, "ms", 5_000, 100, 3_600_000, 60_000;
    token_price_micro_usd, "micro-dollars", 100_000, 1, 1_000_000 * USD, 1_000 * USD;
    buyer_fee_ppb, "ppb", 20_000_000, 0, PPB, 10_000_000;
    seller_fee_ppb, "ppb", 30_000_000, 0, PPB, 10_000_000;
    surcharge_ppb, "ppb", 25_000_000, 0, PPB, 10_000_000;
    token_margin_ppb, "ppb", 50_000_000, 0, PPB, 50_000_000;
    extend_at_ppb, "ppb", 800_000_000, 1, PPB, 200_000_000;
    window_calls, "calls", 1_000, 1, 1_000_000, 1_000;
    window_ms, "ms", 60_000, 100, 3_600_000, 60_000;
    least_budget_micro_usd, "micro-dollars", 50_000, 1, 100 * USD, USD;
    most_budget_micro_usd, "micro-dollars", 1_000 * USD, 1, 1_000_000 * USD, 10_000 * USD;
    idle_ms, "ms", 600_000, 1_000, DAY_MS, 3_600_000;
    longest_session_ms, "ms", DAY_MS, 1_000, 30 * DAY_MS, 7 * DAY_MS;
    most_sessions, "sessions", 1_000_000, 10, 10_000_000, 1_000_000;
    most_sessions_per_renter, "sessions", 64, 1, 10_000, 1_000;
    keep_closed_ms, "ms", 30 * DAY_MS, 1_000, 400 * DAY_MS, 90 * DAY_MS;
    most_models, "models", 256, 1, 256, 64;
    retry_first_ms, "ms", 60_000, 1_000, 3_600_000, 60_000;
    retry_longest_ms, "ms", 21_600_000, 1_000, 604_800_000, 3_600_000;
    drain_ms, "ms", 60_000, 0, 3_600_000, 60_000;
    hold_grace_ms, "ms", 7 * DAY_MS, 60_000, 30 * DAY_MS, 7 * DAY_MS;
    silence_ms, "ms", DAY_MS, 0, 30 * DAY_MS, DAY_MS;
}

/// The parameters as the machine uses them: as they are written, but for models and what is text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// The token.
    pub token: Asset,
    /// The dollar.
    pub usd: Asset,
    /// E-0.5.
    pub calendar: Calendar,
    /// After an epoch's end, until it is sealed; and so long before it windows are settled, ms.
    pub seal_after_ms: u64,
    /// Micro-dollars for one whole token.
    pub token_price: u64,
    /// E-9.1, parts per billion.
    pub buyer_fee_ppb: u64,
    /// E-9.1, parts per billion.
    pub seller_fee_ppb: u64,
    /// E-9.1, parts per billion.
    pub surcharge_ppb: u64,
    /// E-9.1, parts per billion.
    pub token_margin_ppb: u64,
    /// E-9.1, parts per billion.
    pub extend_at_ppb: u64,
    /// E-9.2.
    pub window_calls: u64,
    /// E-9.2, ms.
    pub window_ms: u64,
    /// Of a session, micro-dollars.
    pub least_budget: u64,
    /// Of a session, micro-dollars.
    pub most_budget: u64,
    /// A session without a call closes after so long, ms.
    pub idle_ms: u64,
    /// A session lives at most so long, ms.
    pub longest_session_ms: u64,
    /// Sessions that are not closed.
    pub most_sessions: u64,
    /// The same of one renter.
    pub most_sessions_per_renter: u64,
    /// Closed sessions are remembered for so long, ms.
    pub keep_closed_ms: u64,
    /// Models.
    pub most_models: u64,
    /// When the ledger is asked again.
    pub retry: Backoff,
    /// Leases of a closing session may last so long, ms.
    pub drain_ms: u64,
    /// A hold outlives its session by so much, ms.
    pub hold_grace_ms: u64,
    /// A closing session waits so long beyond that for scheduling's word, ms.
    pub silence_ms: u64,
    /// Offered from the beginning.
    pub models: Vec<(String, Model)>,
}

/// An asset that pays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asset {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
}

impl Params {
    /// The asset of a number.
    pub fn asset(&self, id: u32) -> Option<&Asset> {
        [&self.token, &self.usd].into_iter().find(|asset| asset.id == id)
    }
}

/// E-3.2: the work of one token, millionths of a unit (10^-6 milli-CU-seconds).
///
/// 1 CU is an RTX 4090. Decoding in batches, it writes about 10,000 tokens of a model of 135 million parameters in a
/// second: 1,000 milli-CU-seconds / 10,000 tokens = 0.1 unit = 100,000 millionths for a token written. Reading is bound
/// by arithmetic instead of by memory, and about ten times as fast: 10,000 for a token read. An encoder only reads, and
/// all-MiniLM-L6-v2 has 22 million parameters, a sixth: 10,000 · 22 / 135 ≈ 1,630.
const DEFAULT_MODELS: [(&str, Model); 2] = [
    (
        "smollm2-135m-instruct",
        Model {
            kind: ModelKind::Generate as u8,
            input_pico: 20_000,
            output_pico: 80_000,
            input_micro_units: 10_000,
            output_micro_units: 100_000,
            withdrawn: false,
        },
    ),
    (
        "all-minilm-l6-v2",
        Model {
            kind: ModelKind::Embed as u8,
            input_pico: 10_000,
            output_pico: 0,
            input_micro_units: 1_630,
            output_micro_units: 0,
            withdrawn: false,
        },
    ),
];

/// The defaults: what a profile starts from.
pub fn defaults() -> wire::Params {
    let mut params = wire::Params {
        token_asset: 1,
        token_name: "HOL".into(),
        usd_asset: 2,
        usd_name: "USD".into(),
        models: DEFAULT_MODELS.iter().map(|(name, model)| model.to_wire(name)).collect(),
        ..Default::default()
    };
    governed::fill(&mut params, GOVERNED);
    params
}

/// The defaults in the encoding of `Opened.params`: what a profile's section overlays.
pub fn encoded_defaults() -> Vec<u8> {
    defaults().encode_to_vec()
}

/// Reads the parameters of a log's opening.
///
/// # Errors
/// When a number is out of its bounds, an asset has no name of its own, or a model is none.
pub fn read(wire: &wire::Params) -> Result<Params, BadParams> {
    governed::check_all(wire, GOVERNED)?;
    let token = Asset { id: wire.token_asset, name: governed::asset_name("token_name", &wire.token_name)? };
    let usd = Asset { id: wire.usd_asset, name: governed::asset_name("usd_name", &wire.usd_name)? };
    if token.id == usd.id || token.name == usd.name {
        return Err(BadParams("token and dollar are two assets: give them two numbers and two names".into()));
    }
    if wire.least_budget_micro_usd > wire.most_budget_micro_usd {
        return Err(BadParams("least_budget_micro_usd is above most_budget_micro_usd".into()));
    }
    if wire.drain_ms + wire.silence_ms >= wire.hold_grace_ms {
        let why = "drain_ms and silence_ms together are not below hold_grace_ms: a hold would end before its session";
        return Err(BadParams(why.into()));
    }
    Ok(Params {
        token,
        usd,
        calendar: Calendar::new(Time::from_millis(wire.tge_at_ms), wire.epoch_s),
        seal_after_ms: wire.seal_after_ms,
        token_price: wire.token_price_micro_usd,
        buyer_fee_ppb: wire.buyer_fee_ppb,
        seller_fee_ppb: wire.seller_fee_ppb,
        surcharge_ppb: wire.surcharge_ppb,
        token_margin_ppb: wire.token_margin_ppb,
        extend_at_ppb: wire.extend_at_ppb,
        window_calls: wire.window_calls,
        window_ms: wire.window_ms,
        least_budget: wire.least_budget_micro_usd,
        most_budget: wire.most_budget_micro_usd,
        idle_ms: wire.idle_ms,
        longest_session_ms: wire.longest_session_ms,
        most_sessions: wire.most_sessions,
        most_sessions_per_renter: wire.most_sessions_per_renter,
        keep_closed_ms: wire.keep_closed_ms,
        most_models: wire.most_models,
        retry: Backoff { first_ms: wire.retry_first_ms, longest_ms: wire.retry_longest_ms },
        drain_ms: wire.drain_ms,
        hold_grace_ms: wire.hold_grace_ms,
        silence_ms: wire.silence_ms,
        models: models(&wire.models, wire.most_models)?,
    })
}

fn models(wire: &[wire::Model], most: u64) -> Result<Vec<(String, Model)>, BadParams> {
    if wire.len() as u64 > most {
        return Err(BadParams(format!("{} models; most_models is {most}", wire.len())));
    }
    let mut models: Vec<(String, Model)> = Vec::with_capacity(wire.len());
    for model in wire {
        let read = model::read(model).map_err(|why| BadParams(format!("model {:?}: {why}", model.name)))?;
        if models.iter().any(|(name, _)| *name == model.name) {
            return Err(BadParams(format!("the model {:?} stands twice", model.name)));
        }
        models.push((model.name.clone(), read));
    }
    Ok(models)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_lie_within_their_bounds() {
        let defaults = wire::Params::decode(encoded_defaults().as_slice()).unwrap();
        assert_eq!(read(&defaults).unwrap().models.len(), 2);
    }

    #[test]
    fn parameters_out_of_bounds_are_refused() {
        let good = defaults;
        let model = |change: fn(&mut wire::Model)| {
            let mut params = good();
            change(&mut params.models[1]);
            params
        };
        let mut bad = vec![
            wire::Params { token_name: "hol/x".into(), ..good() },
            wire::Params { usd_asset: 1, ..good() },
            wire::Params { usd_name: "HOL".into(), ..good() },
            wire::Params { least_budget_micro_usd: 2, most_budget_micro_usd: 1, ..good() },
            wire::Params { most_models: 1, ..good() },
            wire::Params { hold_grace_ms: 60_000, drain_ms: 30_000, silence_ms: 30_000, ..good() },
            model(|m| m.name = "smollm2-135m-instruct".into()),
            model(|m| m.name = "Mini LM".into()),
            model(|m| m.kind = 0),
            model(|m| m.output_pico_usd = 1),
        ];
        for (number, place) in GOVERNED {
            for beyond in [number.min.checked_sub(1), number.max.checked_add(1)].into_iter().flatten() {
                let mut params = good();
                *place(&mut params) = beyond;
                bad.push(params);
            }
        }
        for params in bad {
            assert!(read(&params).is_err(), "{params:?} was taken");
        }
    }
}
