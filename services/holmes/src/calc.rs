//! `holmes calc`: the numbered formulas of the economy, so that an operator or auditor can check a number by hand. A
//! file holds `{"rule": "0.4", "cases": [{"in": …}]}`; the answer is the same file with every `out` computed.

mod fields;

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
use fields::{amount, array, integer, rows, same, small, whole, within};

/// What is computed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes calc                                            every formula with its rule
  holmes calc apportion < cases.json
  echo '{\"cases\":[{\"in\":{\"total\":7,\"weights\":[[\"a\",1],[\"b\",2]]}}]}' | holmes calc apportion

Integers of any size are exact. Amounts are base units, *_ppb parts per billion. \
An `out` that is given is compared: where another one is computed, stderr names the case and the exit code is 1.")]
pub(crate) struct Args {
    /// The formula. Nothing: list what there is.
    name: Option<String>,
}

/// A formula: its name in `vectors/`, its rule in `economy.md`, what goes in (fields, each with its form where it is no
/// number), and how it is computed.
struct Formula {
    name: &'static str,
    rule: &'static str,
    takes: &'static [(&'static str, &'static str)],
    compute: fn(&Value) -> Result<Value>,
}

const FORMULAS: &[Formula] = &[
    Formula {
        name: "apportion",
        rule: "0.4",
        takes: &[("total", ""), ("weights", "[[id, weight]]")],
        compute: shares,
    },
    Formula {
        name: "time_vesting",
        rule: "1.5",
        takes: &[("grant", ""), ("start_day", ""), ("cliff_days", ""), ("duration_days", ""), ("day", "")],
        compute: time_vesting,
    },
    Formula {
        name: "transfer_burn",
        rule: "2.4",
        takes: &[("amount", ""), ("burn_ppb", "")],
        compute: transfer_burn,
    },
    Formula {
        name: "emission",
        rule: "4.1",
        takes: &[("remaining", ""), ("lambda_q128", ""), ("m", "[[n, d]]")],
        compute: pool,
    },
    Formula { name: "emission_trr_10y", rule: "4.2", takes: &[("epoch", "")], compute: trr_pool },
    Formula {
        name: "verifier_pay",
        rule: "4.5",
        takes: &[("pool", ""), ("verifiers", "[[id, checks, score]]")],
        compute: checks,
    },
    Formula {
        name: "trr_pay",
        rule: "4.6",
        takes: &[("pool", ""), ("nodes", "[[id, units, score]]")],
        compute: work,
    },
    Formula {
        name: "work_vesting",
        rule: "5.1",
        takes: &[("grant", ""), ("n", ""), ("N", ""), ("days", "")],
        compute: work_vesting,
    },
    Formula {
        name: "collateral",
        rule: "6.2",
        takes: &[
            ("e_next", ""),
            ("circulating", ""),
            ("bonded", ""),
            ("nodes", ""),
            ("network_milli_cu", ""),
            ("rating_milli_cu", ""),
        ],
        compute: collateral,
    },
    Formula {
        name: "fees",
        rule: "9.1",
        takes: &[("price_micro_usd", ""), ("pays_in_token", "")],
        compute: fees,
    },
    Formula {
        name: "fee_cumulative",
        rule: "9.1",
        takes: &[("amounts_micro_usd", ""), ("rate_ppb", "")],
        compute: fee_stream,
    },
];

impl Formula {
    fn takes(&self) -> String {
        let field = |(name, form): &(&str, &str)| format!("{name} {form}").trim_end().to_owned();
        self.takes.iter().map(field).collect::<Vec<_>>().join(", ")
    }

    /// Computes a case. A field that it does not take is most likely a misspelt one.
    fn answer(&self, asked: &Value) -> Result<Value> {
        let fields = asked.as_object().context("`in` is not an object")?;
        let known = |name: &str| self.takes.iter().any(|(known, _)| *known == name);
        if let Some(unknown) = fields.keys().find(|name| !known(name)) {
            bail!("`{unknown}` is not taken");
        }
        (self.compute)(asked)
    }
}

/// Computes every case on stdin; whether every `out` that was given is right.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let Some(name) = &args.name else {
        for formula in FORMULAS {
            output::text(&format!("{:<16} E-{:<6} in: {}", formula.name, formula.rule, formula.takes()))?;
        }
        return Ok(true);
    };
    let input = std::io::read_to_string(std::io::stdin()).context("stdin cannot be read")?;
    let Answer { file, wrong } = answer(name, &input)?;
    output::text(&format!("{file:#}"))?;
    for line in &wrong {
        eprintln!("{line}");
    }
    Ok(wrong.is_empty())
}

/// What was computed.
struct Answer {
    /// The file with every `out` computed.
    file: Value,
    /// Where another `out` was given.
    wrong: Vec<String>,
}

fn answer(name: &str, input: &str) -> Result<Answer> {
    let Some(formula) = FORMULAS.iter().find(|formula| formula.name == name) else {
        let names: Vec<&str> = FORMULAS.iter().map(|formula| formula.name).collect();
        bail!("there is no formula {name}; there are: {}", names.join(", "));
    };
    let mut file: Map<String, Value> = serde_json::from_str(input)
        .context("stdin is not a JSON object of the form {\"cases\": [{\"in\": …}]}")?;
    let cases =
        file.get_mut("cases").and_then(Value::as_array_mut).context("the object has no array `cases`")?;
    let mut wrong = Vec::new();
    for (n, case) in cases.iter_mut().enumerate() {
        let asked = case.get("in").with_context(|| format!("case {n} has no `in`"))?;
        let out = formula
            .answer(asked)
            .with_context(|| format!("case {n} ({name}, E-{}, takes {})", formula.rule, formula.takes()))?;
        if let Some(given) = case.get("out").filter(|given| !given.is_null() && !same(given, &out)) {
            wrong.push(format!("case {n}: `out` is {out}, and the file says {given}"));
        }
        case.as_object_mut().with_context(|| format!("case {n} is not an object"))?.insert("out".into(), out);
    }
    file.entry("rule").or_insert_with(|| formula.rule.into());
    Ok(Answer { file: Value::Object(file), wrong })
}

/// E-0.4.
fn shares(asked: &Value) -> Result<Value> {
    let total = amount(asked, "total")?;
    let weights = rows(asked, "weights", |row: &[Value; 2]| {
        let [id, weight] = row;
        Ok((id.as_str().context("an id is a text")?, whole(weight)?))
    })?;
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
    let burned = Ratio::from_ppb(within(asked, "burn_ppb", 0, PPB)?)
        .mul_ceil(amount(asked, "amount")?)
        .context("the burn is above 2^64 - 1")?;
    Ok(json!(burned.units()))
}

/// E-1.5.
fn time_vesting(asked: &Value) -> Result<Value> {
    let vesting_days = within(asked, "duration_days", 1, u32::MAX)?;
    let cliff_days = within(asked, "cliff_days", 0, vesting_days)?; // it counts from the start, as the duration does
    let schedule = Schedule { start_day: small(asked, "start_day")?, cliff_days, vesting_days };
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
    let least = u32::try_from(params.least_rating_milli_cu)?;
    let rating = within(asked, "rating_milli_cu", least, staking::MOST_RATING_MILLI_CU)?;
    let required = required(rating, base, params.least_per_cu, params.most_per_cu);
    Ok(json!({ "base_per_cu": base.units(), "required": required.units() }))
}

/// E-4.1: epoch after epoch.
fn pool(asked: &Value) -> Result<Value> {
    let mut remaining = amount(asked, "remaining")?;
    let decay = Decay::from_q128(integer(asked, "lambda_q128")?);
    let mut out = Vec::new();
    let throttles = rows(asked, "m", |row: &[Value; 2]| {
        let part = |part| u64::try_from(whole(part)?).context("above 2^64 - 1");
        let throttle = Throttle { numerator: part(&row[0])?, denominator: part(&row[1])? };
        if throttle.numerator > throttle.denominator || throttle.denominator == 0 {
            bail!("an m is a fraction of at most 1");
        }
        Ok(throttle)
    })?;
    for throttle in throttles {
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
    let (params, epochs) = (emission_params()?, within(asked, "epoch", 1, MOST_EPOCHS)?);
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
fn paid(asked: &Value, key: &str, weight: fn(u128, u64) -> Result<u128>) -> Result<Value> {
    let weights = rows(asked, key, |row: &[Value; 3]| {
        let [id, number, score] = row;
        let score = whole(score)?;
        let score = u64::try_from(score).ok().filter(|score| *score <= MOST_SCORE);
        let score = score.with_context(|| format!("a score is at most {MOST_SCORE} (E-8.1)"))?;
        Ok(json!([id, weight(whole(number)?, score)?.to_string()]))
    })?;
    let pool = asked.get("pool").context("`pool` is missing")?;
    shares(&json!({ "total": pool, "weights": weights }))
}

/// E-5.1 and E-5.2, with the terms of profile H.
fn work_vesting(asked: &Value) -> Result<Value> {
    let (terms, grant) = (emission_params()?.terms, amount(asked, "grant")?);
    let clocks = Clocks {
        work: integer(asked, "n")?,
        full_work: within(asked, "N", 1, u128::MAX)?,
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
    let (rate, mut before) = (within(asked, "rate_ppb", 0, PPB)?, 0u128);
    let fees = array(asked, "amounts_micro_usd")?.iter().enumerate().map(|(at, posting)| {
        let posting = whole(posting).with_context(|| format!("`amounts_micro_usd`[{at}]"))?;
        let fee = next_fee(before, posting, rate);
        before = before.checked_add(posting).context("the postings are above 2^128 - 1 together")?;
        shown(fee)
    });
    Ok(Value::Array(fees.collect::<Result<_>>()?))
}

fn shown(number: u128) -> Result<Value> {
    Ok(u64::try_from(number).context("the result is above 2^64 - 1")?.into())
}

/// One, in parts per billion: the most that a rate can be.
const PPB: u64 = 1_000_000_000;
/// The highest score (E-8.1).
const MOST_SCORE: u64 = 1_000;

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
        let answered = answer(name, &asked.to_string()).unwrap();
        assert_eq!((answered.file, answered.wrong), (file.clone(), vec![]));
        assert!(answer(name, &file.to_string()).unwrap().wrong.is_empty(), "{name}: its own answers differ");
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
            let error = refused("apportion", input);
            assert!(error.contains(told), "{input}: {error}");
        }
        assert!(refused("alchemy", "{}").contains("apportion"));
    }

    fn refused(name: &str, input: &str) -> String {
        format!("{:#}", answer(name, input).map(|answer| answer.file).unwrap_err())
    }

    #[test]
    fn what_a_rule_makes_impossible_is_refused_with_its_case_and_field() {
        let vesting = |n: &str| format!(r#"{{"grant":9,"n":1,"N":{n},"days":1}}"#);
        let vested = |cliff: u32, days: u32| {
            format!(r#"{{"grant":9,"start_day":0,"cliff_days":{cliff},"duration_days":{days},"day":1}}"#)
        };
        let paid = |row: &str| format!(r#"{{"pool":9,"nodes":[["a",1,1000],{row}]}}"#);
        let rating =
            r#"{"e_next":1,"circulating":1,"bonded":1,"nodes":1,"network_milli_cu":1,"rating_milli_cu":499}"#;
        for (name, asked, told) in [
            ("transfer_burn", r#"{"amount":100,"burn_ppb":1000000001}"#.to_owned(), "`burn_ppb`"),
            ("transfer_burn", r#"{"amount":100,"burn_ppb":1,"burn_pbb":2}"#.to_owned(), "`burn_pbb`"),
            ("fee_cumulative", r#"{"amounts_micro_usd":[1],"rate_ppb":1000000001}"#.to_owned(), "`rate_ppb`"),
            (
                "fee_cumulative",
                r#"{"amounts_micro_usd":[1,-1],"rate_ppb":1}"#.to_owned(),
                "`amounts_micro_usd`[1]",
            ),
            ("work_vesting", vesting("0"), "`N`"),
            ("time_vesting", vested(0, 0), "`duration_days`"),
            ("time_vesting", vested(3, 2), "`cliff_days`"),
            ("trr_pay", paid(r#"["b",1,1001]"#), "`nodes`[1]"),
            ("trr_pay", paid(r#"["b",1]"#), "`nodes`[1]"),
            ("trr_pay", paid(r#"["b",1,1,1]"#), "`nodes`[1]"),
            ("collateral", rating.to_owned(), "`rating_milli_cu`"),
            ("emission_trr_10y", r#"{"epoch":0}"#.to_owned(), "`epoch`"),
            ("emission", r#"{"remaining":1,"lambda_q128":1,"m":[[1,1],[2,1]]}"#.to_owned(), "`m`[1]"),
        ] {
            let error = refused(name, &format!(r#"{{"cases":[{{"in":{asked}}}]}}"#));
            assert!(error.contains("case 0 ") && error.contains(told), "{name} {asked}: {error}");
        }
    }

    #[test]
    fn an_answer_that_is_given_is_compared_and_the_right_one_is_told() {
        let asked =
            |out: &str| format!(r#"{{"cases":[{{"in":{{"amount":100,"burn_ppb":10000000}},"out":{out}}}]}}"#);
        for right in ["1", "\"1\"", "null"] {
            assert!(answer("transfer_burn", &asked(right)).unwrap().wrong.is_empty(), "{right}");
        }
        for wrong in ["2", "\"one\"", "[1]", "{}"] {
            let answered = answer("transfer_burn", &asked(wrong)).unwrap();
            assert_eq!(answered.file["cases"][0]["out"], 1);
            let told = format!("case 0: `out` is 1, and the file says {wrong}");
            assert_eq!(answered.wrong, [told]);
        }
    }
}
