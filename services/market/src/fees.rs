//! E-9.1, E-9.2: what a price comes to for the one who pays and for the one who is paid. Everything is cumulative over a
//! session: what a window posts is the sum up to its end less the sum up to its beginning, so that no rounding is
//! made twice.

use holmes_kernel::wide::{mul_div_ceil, mul_div_floor};
use serde::{Deserialize, Serialize};

/// Pico-dollars in a micro-dollar.
pub const PICO_PER_MICRO: u128 = 1_000_000;
const PPB: u128 = 1_000_000_000;
/// Base units of one whole token (E-0.1: 9 decimals).
const TOKEN: u64 = 1_000_000_000;

/// E-9.1: the rates of a session, parts per billion of the price, each at most 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// The buyer's fee.
    pub buyer_ppb: u64,
    /// The seller's fee.
    pub seller_ppb: u64,
    /// The surcharge of those who pay in dollars; 0 for the token.
    pub surcharge_ppb: u64,
}

/// What a price comes to, micro-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// The price.
    pub price: u128,
    /// The buyer's fee, ceiled.
    pub buyer_fee: u128,
    /// The seller's fee, ceiled.
    pub seller_fee: u128,
    /// The surcharge, ceiled.
    pub surcharge: u128,
}

impl Bill {
    /// E-9.1: the bill of a price in micro-dollars.
    pub fn of(price: u128, rates: &Rates) -> Bill {
        Bill {
            price,
            buyer_fee: share(price, rates.buyer_ppb),
            seller_fee: share(price, rates.seller_ppb),
            surcharge: share(price, rates.surcharge_ppb),
        }
    }

    /// What the buyer pays, micro-dollars.
    pub fn buyer_pays(&self) -> u128 {
        self.price.saturating_add(self.buyer_fee).saturating_add(self.surcharge)
    }

    /// What the seller gets, micro-dollars.
    pub fn seller_gets(&self) -> u128 {
        self.price.saturating_sub(self.seller_fee)
    }

    /// Both fees, micro-dollars.
    pub fn fees(&self) -> u128 {
        self.buyer_fee.saturating_add(self.seller_fee)
    }
}

/// E-9.1: a fee on a price, ceiled; both micro-dollars.
fn share(price: u128, ppb: u64) -> u128 {
    mul_div_ceil(price, ppb.into(), PPB).unwrap_or(u128::MAX)
}

/// E-9.1: what a posting pays of a fee on a stream: `ceil(cumulative · rate) − already posted`, micro-dollars.
pub fn next_fee(posted_before: u128, posting: u128, rate_ppb: u64) -> u128 {
    share(posted_before.saturating_add(posting), rate_ppb).saturating_sub(share(posted_before, rate_ppb))
}

/// E-9.1: the greatest price, in pico-dollars and whole micro-dollars, that costs its buyer at most so many micro-dollars.
pub fn cap_pico(covers: u128, rates: &Rates) -> u128 {
    let whole = PPB + u128::from(rates.buyer_ppb) + u128::from(rates.surcharge_ppb);
    // Without ceiling this is the greatest; two ceils cost less than two micro-dollars, so it is found in few steps.
    let mut price = mul_div_floor(covers, PPB, whole).unwrap_or(covers);
    while price > 0 && Bill::of(price, rates).buyer_pays() > covers {
        price -= 1;
    }
    price.saturating_mul(PICO_PER_MICRO)
}

/// How micro-dollars become base units of the asset that pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversion {
    /// Micro-dollars for one whole token; 0 for the dollar, whose base unit is the micro-dollar.
    pub token_price: u64,
}

impl Conversion {
    /// Base units that the payer gives: ceiled (E-9.1).
    pub fn paid_in(&self, micro: u128) -> u128 {
        match self.token_price {
            0 => micro,
            price => mul_div_ceil(micro, TOKEN.into(), price.into()).unwrap_or(u128::MAX),
        }
    }

    /// Base units that the payee gets: floored (E-9.1).
    pub fn paid_out(&self, micro: u128) -> u128 {
        match self.token_price {
            0 => micro,
            price => mul_div_floor(micro, TOKEN.into(), price.into()).unwrap_or(u128::MAX),
        }
    }

    /// E-9.1: base units that a hold reserves for so many micro-dollars; a payer in the token with a margin.
    /// `None` when they do not fit 64 bits.
    pub fn held(&self, micro: u64, margin_ppb: u64) -> Option<u64> {
        let units = self.paid_in(micro.into());
        let margin = if self.token_price == 0 { 0 } else { share(units, margin_ppb) };
        u64::try_from(units.checked_add(margin)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const H: Rates = Rates { buyer_ppb: 20_000_000, seller_ppb: 30_000_000, surcharge_ppb: 25_000_000 };

    fn cases(file: &str) -> Vec<Value> {
        let file: Value = serde_json::from_str(file).unwrap();
        file["cases"].as_array().unwrap().clone()
    }

    fn number(value: &Value) -> u128 {
        value.as_u64().unwrap().into()
    }

    #[test]
    fn a_price_comes_to_what_the_golden_cases_say() {
        // E-9.1
        for case in cases(include_str!("../tests/golden/fees.json")) {
            let (asked, told) = (&case["in"], &case["out"]);
            let in_token = asked["pays_in_token"].as_bool().unwrap();
            let rates = if in_token { Rates { surcharge_ppb: 0, ..H } } else { H };
            let bill = Bill::of(number(&asked["price_micro_usd"]), &rates);
            for (key, found) in [
                ("buyer_fee", bill.buyer_fee),
                ("seller_fee", bill.seller_fee),
                ("surcharge", bill.surcharge),
                ("buyer_pays", bill.buyer_pays()),
                ("seller_gets", bill.seller_gets()),
            ] {
                assert_eq!(found, number(&told[key]), "{key} of {asked}");
            }
        }
    }

    #[test]
    fn fees_of_a_stream_come_to_what_the_golden_cases_say() {
        // E-9.1
        for case in cases(include_str!("../tests/golden/fee_cumulative.json")) {
            let rate = case["in"]["rate_ppb"].as_u64().unwrap();
            let mut before = 0;
            let amounts = case["in"]["amounts_micro_usd"].as_array().unwrap();
            for (amount, told) in amounts.iter().zip(case["out"].as_array().unwrap()) {
                assert_eq!(next_fee(before, number(amount), rate), number(told), "{case}");
                before += number(amount);
            }
        }
    }

    #[test]
    fn a_hold_in_the_token_has_its_margin_and_one_in_dollars_has_none() {
        // E-9.1: 0.05 USD at 0.10 USD a token is half a token; 5 % more is 0.525.
        let token = Conversion { token_price: 100_000 };
        assert_eq!(token.held(50_000, 50_000_000), Some(525_000_000));
        assert_eq!(Conversion { token_price: 0 }.held(50_000, 50_000_000), Some(50_000));
        assert_eq!(Conversion { token_price: 1 }.held(u64::MAX, 0), None);
    }

    proptest! {
        #[test]
        fn the_cap_is_the_greatest_price_that_is_covered(
            covers in 0..=u128::from(u64::MAX), buyer_ppb in 0..=1_000_000_000u64, surcharge_ppb in 0..=1_000_000_000u64,
        ) {
            let rates = Rates { buyer_ppb, surcharge_ppb, seller_ppb: 0 };
            let price = cap_pico(covers, &rates) / PICO_PER_MICRO;
            prop_assert!(Bill::of(price, &rates).buyer_pays() <= covers);
            prop_assert!(Bill::of(price + 1, &rates).buyer_pays() > covers);
        }

        #[test]
        fn what_is_paid_out_never_exceeds_what_was_paid_in(
            parts in proptest::collection::vec(0..1u64 << 50, 1..20), token_price in 0..1_000_000u64,
        ) {
            let conversion = Conversion { token_price };
            let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
            let out: u128 = parts.iter().map(|part| conversion.paid_out((*part).into())).sum();
            prop_assert!(out <= conversion.paid_in(sum));
            prop_assert!(conversion.paid_in(sum) - conversion.paid_out(sum) <= 1);
        }

        #[test]
        fn a_seller_never_owes_more_than_the_posting(before in 0..1u128 << 64, posting in 0..1u128 << 64, ppb in 0..=1_000_000_000u64) {
            prop_assert!(next_fee(before, posting, ppb) <= posting);
        }
    }
}
