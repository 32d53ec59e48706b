//! E-9.1, E-9.2: what a window comes to, for the renter, for every node's owner, and for the network. Sums are cumulative
//! over the session; what a window's sum is goes to its rows by E-0.4, so that nothing is lost between them.

use holmes_kernel::{Amount, apportion};
use prost::bytes::Bytes;

use crate::fees::{Bill, PICO_PER_MICRO};
use crate::params::MOST_ROWS;
use crate::state::{Ended, EndedRow, Row, RowKey, Session};

/// Millionths in a unit of work.
pub(crate) const MICRO: u128 = 1_000_000;

/// What the window that runs comes to, if it ends now: its first [`MOST_ROWS`] rows.
///
/// Base units: the renter pays the ceil of what is charged, owners together get the floor of theirs, fees and surcharge
/// are floored. What that leaves, at most two base units, stays in `market/<asset>` until the session closes.
pub fn window(session: &Session) -> Ended {
    let rows: Vec<(RowKey, Row)> =
        session.rows.iter().take(MOST_ROWS).map(|(key, row)| (*key, *row)).collect();
    let metered: u128 = rows.iter().map(|(_, row)| row.pico).sum();
    let (rates, totals, conversion) = (&session.rates, &session.totals, &session.conversion);
    let before = Bill::of(totals.price, rates);
    let after = Bill::of(session.taken.saturating_add(metered) / PICO_PER_MICRO, rates);

    let by_metered: Vec<(RowKey, u128)> = rows.iter().map(|(key, row)| (*key, row.pico)).collect();
    let prices = shares(after.price.saturating_sub(before.price), &by_metered);
    let by_price: Vec<(RowKey, u128)> = keyed(&rows, &prices);
    let buyer_fees = shares(after.buyer_fee - before.buyer_fee, &by_price);
    let seller_fees = shares(after.seller_fee - before.seller_fee, &by_price);
    let nets: Vec<u64> =
        prices.iter().zip(&seller_fees).map(|(price, fee)| price.saturating_sub(*fee)).collect();
    let paid =
        shares(conversion.paid_out(after.seller_gets()).saturating_sub(totals.paid), &keyed(&rows, &nets));

    let row = |(at, (key, row)): (usize, &(RowKey, Row))| EndedRow {
        key: *key,
        row: *row,
        units: narrow(session.work(key, row) / MICRO),
        price: prices[at],
        buyer_fee: buyer_fees[at],
        seller_fee: seller_fees[at],
        paid: paid[at],
    };
    Ended {
        rows: rows.iter().enumerate().map(row).collect(),
        surcharge: narrow(after.surcharge - before.surcharge),
        charged: narrow(conversion.paid_in(after.buyer_pays()).saturating_sub(totals.charged)),
        fee_units: narrow(conversion.paid_out(after.fees()).saturating_sub(totals.fees)),
        surcharge_units: narrow(conversion.paid_out(after.surcharge).saturating_sub(totals.surcharges)),
    }
}

/// E-0.4: shares of a sum that a hold covers, and so fits 64 bits.
fn shares(sum: u128, weights: &[(RowKey, u128)]) -> Vec<u64> {
    apportion(Amount::new(narrow(sum)), weights).into_iter().map(Amount::units).collect()
}

fn keyed(rows: &[(RowKey, Row)], weights: &[u64]) -> Vec<(RowKey, u128)> {
    rows.iter().zip(weights).map(|((key, _), weight)| (*key, u128::from(*weight))).collect()
}

fn narrow(wide: u128) -> u64 {
    u64::try_from(wide).unwrap_or(u64::MAX)
}

/// A u128 as events carry it.
pub(crate) fn bytes(wide: u128) -> Bytes {
    wide.to_be_bytes().to_vec().into()
}
