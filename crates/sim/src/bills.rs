//! What calls cost, on both sides of the line between scheduling and the market.

use std::collections::BTreeMap;

use holmes_kernel::Id;
use holmes_proto::columns::wide;
use holmes_proto::market::v1::{self as market, event::Event as Billed};
use holmes_proto::scheduling::v1::{self as scheduling, event::Event as Metered};
use prost::bytes::Bytes;

/// E-9.2: what scheduling has metered the market has on record, session by session, billed or billed to nobody.
pub fn misbilled(metered: Vec<scheduling::Event>, billed: Vec<market::Event>) -> Vec<String> {
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
        sums.entry(session).or_default().1 += parts.iter().filter_map(|part| wide(part)).sum::<u128>();
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
