//! What calls cost, on both sides of the line between scheduling and the market.

use std::collections::BTreeMap;

use holmes_kernel::Id;
use holmes_proto::columns::wide;
use holmes_proto::market::v1::{self as market, event::Event as Billed};
use holmes_proto::scheduling::v1::{self as scheduling, event::Event as Metered};
use prost::bytes::Bytes;

/// What the calls of a session come to: price in pico-dollars, and work in millionths of a unit.
#[derive(Clone, Copy, Debug, Default)]
struct Session {
    metered: [u128; 2],
    /// Work of what is billed alone.
    billed: [u128; 2],
    unbilled: u128,
}

/// E-3.2, E-9.2: what scheduling has metered the market has on record, session by session, billed or billed to nobody; and
/// where all is billed, with all its work.
pub fn misbilled(metered: Vec<scheduling::Event>, billed: Vec<market::Event>) -> Vec<String> {
    let mut sums: BTreeMap<Bytes, Session> = BTreeMap::new();
    for event in metered {
        if let Some(Metered::CallsMetered(calls)) = event.event {
            let session = sums.entry(calls.session.clone()).or_default();
            session.metered[0] += sum(&calls, calls.input_pico_usd, calls.output_pico_usd);
            session.metered[1] += sum(&calls, calls.input_micro_units, calls.output_micro_units);
        }
    }
    let wide = |sum: &[u8]| wide(sum).unwrap_or(0);
    for event in billed {
        match event.event {
            Some(Billed::CallsNoted(of)) => {
                let session = sums.entry(of.session).or_default();
                session.billed[0] += wide(&of.billed_pico_usd);
                session.billed[1] += wide(&of.billed_micro_units);
                session.unbilled += wide(&of.unbilled_pico_usd);
            }
            Some(Billed::CallsUnbilled(of)) => {
                sums.entry(of.session).or_default().unbilled += wide(&of.unbilled_pico_usd);
            }
            _ => {}
        }
    }
    sums.iter().filter_map(|(session, sums)| sums.apart(session)).collect()
}

impl Session {
    fn apart(&self, session: &[u8]) -> Option<String> {
        let Session { metered: [price, work], billed: [billed, billed_work], unbilled } = *self;
        let session = Id::from_slice(session).unwrap_or_default();
        if price != billed + unbilled {
            let noted = billed + unbilled;
            return Some(format!(
                "E-9.2: session {session}: {price} pico-dollars metered, {noted} on the market's record"
            ));
        }
        (unbilled == 0 && work != billed_work).then(|| {
            format!("E-3.2: session {session}: {work} millionths of work metered, {billed_work} billed")
        })
    }
}

/// What the calls of a lease come to, at so much a token read and written.
fn sum(calls: &scheduling::CallsMetered, input: u64, output: u64) -> u128 {
    let of = |tokens: u64, each: u64| u128::from(tokens) * u128::from(each);
    calls.lines.iter().map(|line| of(line.input_tokens, input) + of(line.output_tokens, output)).sum()
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

    #[test]
    fn what_is_billed_is_billed_with_its_work() {
        // E-3.2
        let calls = |work| {
            let scheduling::Event { event: Some(Metered::CallsMetered(mut calls)) } = metered(1, 2) else {
                panic!("calls")
            };
            calls.output_micro_units = work;
            vec![scheduling::Event { event: Some(Metered::CallsMetered(calls)) }]
        };
        assert_eq!(misbilled(calls(0), vec![noted(1, 45, 0)]), Vec::<String>::new());
        assert!(misbilled(calls(9), vec![noted(1, 45, 0)])[0].starts_with("E-3.2"));
    }
}
