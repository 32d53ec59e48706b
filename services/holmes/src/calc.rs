//! `holmes calc`: the numbered formulas of the economy, so that an operator or auditor can check a number by hand. A
//! file holds `{"rule": "0.4", "cases": [{"in": …}]}`; the answer is the same file with every `out` computed.

use anyhow::{Context, Result, bail};
use holmes_emission::decay::{self, Decay, Throttle};
use holmes_emission::vesting::Clocks;
use holmes_emission::{params as emission, trr, verifier};
use holmes_kernel::{Amount, Ratio, apportion};
use holmes_market::fees::{Bill, Rates, next_fee};
use holmes_market::params as market;
use holmes_proto::emission::v1 as emission_wire;
use holmes_proto::staking::v1::Params;
use holmes_staking::collateral::{Inputs, base, required};
use holmes_staking::params as staking;
use holmes_treasury::vesting::Schedule;
use prost_reflect::prost::Message as _;
use serde_json::{Map, Value, json};

use crate::output;

/// What is computed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes calc                                            every formula with its rule
  holmes calc apportion < cases.json
  echo '{\"cases\":[{\"in\":{\"total\":7,\"weights\":[[\"a\",1],[\"b\",2]]}}]}' | holmes calc apportion

Integers of any size are exact. Amounts are base units, *_ppb parts per billion.")]
pub(crate) struct Args {
    /// The formula. Nothing: list what there is.
    name: Option<String>,
}

/// A formula: its name in `vectors/`, its rule in `economy.md`, what goes in, and how it is computed.
struct Formula {
    name: &'static str,
    rule: &'static str,
    takes: &'static str,
    compute: fn(&Value) -> Result<Value>,
}

const FORMULAS: &[Formula] = &[
    Formula { name: "apportion", rule: "0.4", takes: "total, weights [[id, weight]]", compute: shares },
    Formula {
        name: "time_vesting",
        rule: "1.5",
        takes: "grant, start_day, cliff_days, duration_days, day",
        compute: time_vesting,
    },
    Formula { name: "transfer_burn", rule: "2.4", takes: "amount, burn_ppb", compute: transfer_burn },
    Formula { name: "emission", rule: "4.1", takes: "remaining, lambda_q128, m [[n, d]]", compute: pool },
    Formula { name: "emission_trr_10y", rule: "4.2", takes: "epoch", compute: trr_pool },
    Formula {
        name: "verifier_pay",
        rule: "4.5",
        takes: "pool, verifiers [[id, checks, score]]",
        compute: checks,
    },
    Formula { name: "trr_pay", rule: "4.6", takes: "pool, nodes [[id, units, score]]", compute: work },
    Formula { name: "work_vesting", rule: "5.1", takes: "grant, n, N, days", compute: work_vesting },
    Formula {
        name: "collateral",
        rule: "6.2",
        takes: "e_next, circulating, bonded, nodes, network_milli_cu, rating_milli_cu",
        compute: collateral,
    },
    Formula { name: "fees", rule: "9.1", takes: "price_micro_usd, pays_in_token", compute: fees },
    Formula {
        name: "fee_cumulative",
        rule: "9.1",
        takes: "amounts_micro_usd, rate_ppb",
        compute: fee_stream,
    },
];

/// Computes every case on stdin.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Some(name) = &args.name else {
        for formula in FORMULAS {
            output::text(&format!("{:<16} E-{:<6} in: {}", formula.name, formula.rule, formula.takes))?;
        }
        return Ok(());
    };
    let input = std::io::read_to_string(std::io::stdin()).context("stdin cannot be read")?;
    output::text(&format!("{:#}", answer(name, &input)?))
}

/// The file with every `out` computed.
fn answer(name: &str, input: &str) -> Result<Value> {
    let Some(formula) = FORMULAS.iter().find(|formula| formula.name == name) else {
        let names: Vec<&str> = FORMULAS.iter().map(|formula| formula.name).collect();
        bail!("there is no formula {name}; there are: {}", names.join(", "));
    };
    let mut file: Map<String, Value> = serde_json::from_str(input)
        .context("stdin is not a JSON object of the form {\"cases\": [{\"in\": …}]}")?;
    let cases =
        file.get_mut("cases").and_then(Value::as_array_mut).context("the object has no array `cases`")?;
    for (n, case) in cases.iter_mut().enumerate() {
        let asked = case.get("in").with_context(|| format!("case {n} has no `in`"))?;
        let out = (formula.compute)(asked)
            .with_context(|| format!("case {n} ({} takes {})", name, formula.takes))?;
        case.as_object_mut().with_context(|| format!("case {n} is not an object"))?.insert("out".into(), out);
    }
    file.entry("rule").or_insert_with(|| formula.rule.into());
    Ok(Value::Object(file))
}

/// E-0.4.
fn shares(asked: &Value) -> Result<Value> {
    let total = amount(asked, "total")?;
    let rows = asked.get("weights").and_then(Value::as_array).context("`weights` is not an array")?;
    let weights: Vec<(&str, u128)> = rows
        .iter()
        .map(|row| {
            let id = row.get(0).and_then(Value::as_str).context("a weight is [id, weight]")?;
            Ok((id, whole(row.get(1).context("a weight is [id, weight]")?)?))
        })
        .collect::<Result<_>>()?;
    let mut ids: Vec<&str> = weights.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("the id {:?} stands twice", twice[0]);
    }
    let shares = apportion(total, &weights);
    Ok(weights.iter().zip(shares).map(|((id, _), share)| ((*id).to_owned(), json!(share.units()))).collect())
}

/// E-2.4.
fn transfer_burn(asked: &Value) -> Result<Value> {
    let rate = u64::try_from(integer(asked, "burn_ppb")?).context("burn_ppb is too large")?;
    let burned =
        Ratio::from_ppb(rate).mul_ceil(amount(asked, "amount")?).context("the burn is above 2^64 - 1")?;
    Ok(json!(burned.units()))
}

/// E-1.5.
fn time_vesting(asked: &Value) -> Result<Value> {
    let schedule = Schedule {
        start_day: small(asked, "start_day")?,
        cliff_days: small(asked, "cliff_days")?,
        vesting_days: small(asked, "duration_days")?,
    };
    Ok(json!(schedule.vested(amount(asked, "grant")?, small(asked, "day")?).units()))
}

/// E-6.2, with the parameters of profile H.
fn collateral(asked: &Value) -> Result<Value> {
    let wire = Params::decode(staking::encoded_defaults().as_slice())?;
    let params = staking::read(&wire)?;
    let inputs = Inputs {
        next_emission: amount(asked, "e_next")?,
        circulating: amount(asked, "circulating")?,
        bonded: amount(asked, "bonded")?,
        nodes: small(asked, "nodes")?,
        network_milli_cu: small(asked, "network_milli_cu")?,
        ..params.inputs
    };
    let base = base(&inputs);
    let required = required(small(asked, "rating_milli_cu")?, base, params.least_per_cu, params.most_per_cu);
    Ok(json!({ "base_per_cu": base.units(), "required": required.units() }))
}

/// E-4.1: epoch after epoch.
fn pool(asked: &Value) -> Result<Value> {
    let mut remaining = amount(asked, "remaining")?;
    let decay = Decay::from_q128(integer(asked, "lambda_q128")?);
    let mut out = Vec::new();
    for m in asked.get("m").and_then(Value::as_array).context("`m` is not an array")? {
        let part = |at: usize| -> Result<u64> {
            Ok(u64::try_from(whole(m.get(at).context("an m is [numerator, denominator]")?)?)?)
        };
        let throttle = Throttle { numerator: part(0)?, denominator: part(1)? };
        if throttle.numerator > throttle.denominator || throttle.denominator == 0 {
            bail!("an m is a fraction of at most 1");
        }
        let target = decay::target(remaining, decay);
        let actual = decay::actual(target, throttle);
        remaining = remaining.saturating_sub(actual); // at most what is there
        out.push(json!({
            "target": target.units(), "actual": actual.units(), "remaining": remaining.units(),
        }));
    }
    Ok(out.into())
}

/// E-4.2, with the pool of profile H, every epoch paid in full.
fn trr_pool(asked: &Value) -> Result<Value> {
    const MOST_EPOCHS: u64 = 100_000; // the pool is empty by then
    let (params, epochs) = (emission_params()?, small::<u64>(asked, "epoch")?);
    if !(1..=MOST_EPOCHS).contains(&epochs) {
        bail!("`epoch` lies within 1 and {MOST_EPOCHS}");
    }
    let [pool, ..] = params.pools;
    let (mut remaining, mut actual) = (pool.initial, Amount::ZERO);
    for _ in 0..epochs {
        actual = decay::actual(decay::target(remaining, pool.decay), Throttle::FULL);
        remaining = remaining.saturating_sub(actual);
    }
    Ok(json!({ "actual": actual.units(), "remaining": remaining.units() }))
}

fn emission_params() -> Result<emission::Params> {
    let wire = emission_wire::Params::decode(emission::encoded_defaults().as_slice())?;
    Ok(emission::read(&wire)?)
}

/// E-4.5.
fn checks(asked: &Value) -> Result<Value> {
    paid(asked, "verifiers", |checks, score| Ok(verifier::weight(u64::try_from(checks)?, score)))
}

/// E-4.6.
fn work(asked: &Value) -> Result<Value> {
    paid(asked, "nodes", |units, score| Ok(trr::weight(units, score)))
}

/// What each of a pool's rows [id, number, score] gets, by a weight.
fn paid(asked: &Value, rows: &str, weight: fn(u128, u64) -> Result<u128>) -> Result<Value> {
    let rows =
        asked.get(rows).and_then(Value::as_array).with_context(|| format!("`{rows}` is not an array"))?;
    let weights = rows.iter().map(|row| {
        let at = |at: usize| row.get(at).context("a row is [id, number, score]");
        let score = u64::try_from(whole(at(2)?)?).context("a score is too large")?;
        Ok(json!([at(0)?, weight(whole(at(1)?)?, score)?.to_string()]))
    });
    let weights = weights.collect::<Result<Vec<Value>>>()?;
    let pool = asked.get("pool").context("`pool` is missing")?;
    shares(&json!({ "total": pool, "weights": weights }))
}

/// E-5.1 and E-5.2, with the terms of profile H.
fn work_vesting(asked: &Value) -> Result<Value> {
    let (terms, grant) = (emission_params()?.terms, amount(asked, "grant")?);
    let clocks = Clocks {
        work: integer(asked, "n")?,
        full_work: integer(asked, "N")?.max(1),
        days: small(asked, "days")?,
    };
    let liquid = terms.liquid(grant);
    let first = grant.saturating_sub(liquid);
    let unlocked = terms.unlocked(first, clocks);
    let locked = first.saturating_sub(unlocked);
    let burn = terms.exit_burn(locked, clocks);
    Ok(json!({
        "liquid": liquid.units(),
        "unlocked": unlocked.units(),
        "locked": locked.units(),
        "burn": burn.units(),
        "paid": locked.saturating_sub(burn).units(),
    }))
}

/// E-9.1, with the rates of profile H.
fn fees(asked: &Value) -> Result<Value> {
    let in_token =
        asked.get("pays_in_token").and_then(Value::as_bool).context("`pays_in_token` is a boolean")?;
    let params = market::defaults();
    let rates = Rates {
        buyer_ppb: params.buyer_fee_ppb,
        seller_ppb: params.seller_fee_ppb,
        surcharge_ppb: if in_token { 0 } else { params.surcharge_ppb },
    };
    let bill = Bill::of(amount(asked, "price_micro_usd")?.units().into(), &rates);
    Ok(json!({
        "buyer_fee": shown(bill.buyer_fee)?,
        "seller_fee": shown(bill.seller_fee)?,
        "surcharge": shown(bill.surcharge)?,
        "buyer_pays": shown(bill.buyer_pays())?,
        "seller_gets": shown(bill.seller_gets())?,
    }))
}

/// E-9.1: what each of a stream's postings is charged.
fn fee_stream(asked: &Value) -> Result<Value> {
    let amounts = asked.get("amounts_micro_usd").and_then(Value::as_array);
    let (rate, mut before) = (small(asked, "rate_ppb")?, 0u128);
    let fees = amounts.context("`amounts_micro_usd` is not an array")?.iter().map(|posting| {
        let posting = whole(posting)?;
        let fee = next_fee(before, posting, rate);
        before = before.checked_add(posting).context("the postings are above 2^128 - 1 together")?;
        shown(fee)
    });
    Ok(Value::Array(fees.collect::<Result<_>>()?))
}

fn shown(number: u128) -> Result<Value> {
    Ok(u64::try_from(number).context("the result is above 2^64 - 1")?.into())
}

/// A number that is not money.
fn small<T: TryFrom<u128>>(asked: &Value, key: &str) -> Result<T> {
    T::try_from(integer(asked, key)?).ok().with_context(|| format!("`{key}` is too large"))
}

fn amount(asked: &Value, key: &str) -> Result<Amount> {
    Amount::from_wide(integer(asked, key)?).with_context(|| format!("`{key}` is above 2^64 - 1"))
}

fn integer(asked: &Value, key: &str) -> Result<u128> {
    whole(asked.get(key).with_context(|| format!("`{key}` is missing"))?).with_context(|| format!("`{key}`"))
}

/// A whole number from JSON, as a number or, where readers may lose digits, as a decimal string.
fn whole(value: &Value) -> Result<u128> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        other => bail!("{other} is not a whole number"),
    };
    text.parse().with_context(|| format!("{text} is not a whole number from 0 to 2^128 - 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes a golden file without its answers and compares.
    fn holds(name: &str, golden: &str) {
        let file: Value = serde_json::from_str(golden).unwrap();
        let mut asked = file.clone();
        for case in asked["cases"].as_array_mut().unwrap() {
            case.as_object_mut().unwrap().remove("out");
        }
        assert_eq!(answer(name, &asked.to_string()).unwrap(), file);
    }

    #[test]
    fn every_golden_file_comes_out_as_it_stands() {
        holds("apportion", include_str!("../../../crates/kernel/tests/golden/apportion.json"));
        holds("transfer_burn", include_str!("../../ledger/tests/golden/transfer_burn.json"));
        holds("time_vesting", include_str!("../../treasury/tests/golden/time_vesting.json"));
        holds("collateral", include_str!("../../staking/tests/golden/collateral.json"));
        holds("emission", include_str!("../../emission/tests/golden/emission.json"));
        holds("emission_trr_10y", include_str!("../../emission/tests/golden/emission_trr_10y.json"));
        holds("verifier_pay", include_str!("../../emission/tests/golden/verifier_pay.json"));
        holds("trr_pay", include_str!("../../emission/tests/golden/trr_pay.json"));
        holds("fees", include_str!("../../market/tests/golden/fees.json"));
        holds("fee_cumulative", include_str!("../../market/tests/golden/fee_cumulative.json"));
        holds("work_vesting", include_str!("../../emission/tests/golden/work_vesting.json"));
    }

    #[test]
    fn bad_input_is_named_with_its_case() {
        for (input, told) in [
            ("", "not a JSON object"),
            ("{}", "no array `cases`"),
            ("{\"cases\":[{}]}", "case 0 has no `in`"),
            ("{\"cases\":[{\"in\":{\"total\":-1,\"weights\":[]}}]}", "-1 is not a whole number"),
            ("{\"cases\":[{\"in\":{\"total\":1.5,\"weights\":[]}}]}", "1.5 is not a whole number"),
            ("{\"cases\":[{\"in\":{\"total\":18446744073709551616,\"weights\":[]}}]}", "above 2^64 - 1"),
            ("{\"cases\":[{\"in\":{\"total\":1,\"weights\":[[\"a\",1],[\"a\",2]]}}]}", "stands twice"),
        ] {
            let error = format!("{:#}", answer("apportion", input).unwrap_err());
            assert!(error.contains(told), "{input}: {error}");
        }
        assert!(answer("alchemy", "{}").unwrap_err().to_string().contains("apportion"));
    }
}
