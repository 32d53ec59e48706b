//! Steps, one after the other: what each means, and what of it can never be reached or checked.

use std::time::Duration;

use holmes_proto::scheduling::v1::Finish;
use serde_json::Value as Json;
use serde_saphyr::Spanned;

use super::{ANSWER, Checker, Deed, Planned, What, is_of_a_name, line};
use crate::roles;
use crate::scenario::expect::Compare;
use crate::scenario::file::{Ask, By, Step, meant};
use crate::scenario::{cast, expect, fields, moment, names};

/// Members of an answer that are numbers.
const NUMBERS: [&str; 4] = ["inputTokens", "outputTokens", "priceMicroUsd", "mostMicroUsd"];

/// How often a step may be repeated: a scenario is played in memory.
const MOST_REPEATED: u64 = 1_000_000;

const DEEDS: &str =
    "restart, restart SERVICE, advance 30d, lose NODE, attach NODE, stop gateway or start gateway";

impl Checker {
    /// What a step means; nothing where something is wrong with it, which is remembered.
    pub(super) fn step(&mut self, number: usize, step: &Spanned<Step>) -> Option<Planned> {
        let before = self.wrongs.len();
        let (at_line, of) = (line(step), &step.value);
        let at = self.moment(of);
        let what = self.what(at_line, of);
        let save = of.save.as_ref().map(|name| name.value.clone());
        let expect = of.expect.as_ref().and_then(|expected| self.expected(expected, what.as_ref()));
        self.refusal(of, what.as_ref());
        let repeat = of.repeat.as_ref().map_or(1, |repeat| repeat.value);
        if repeat == 0 {
            self.wrong(
                of.repeat.as_ref().map_or(at_line, line),
                "repeated 0 times, it is never reached: leave it out",
            );
        }
        if repeat > MOST_REPEATED {
            let how = format!("repeated {repeat} times; at most {MOST_REPEATED} are played");
            self.wrong(of.repeat.as_ref().map_or(at_line, line), how);
        }
        let every = of.every.as_ref().and_then(|text| self.length(text)).unwrap_or_default();
        if of.every.is_some() && repeat < 2 {
            self.wrong(at_line, "`every` is the time between repetitions: write `repeat` too");
        }
        self.goes_on(at_line, every, repeat.saturating_sub(1));
        match &what {
            Some(What::Do(Deed::Advance(by))) => self.goes_on(at_line, *by, repeat),
            Some(What::Ask { lasts, .. }) => self.goes_on(at_line, *lasts, repeat),
            _ => {}
        }
        if let Some(name) = &of.save {
            self.save(name, what.as_ref());
        }
        if self.wrongs.len() > before {
            return None;
        }
        let refused = of.refused.as_ref().map(|reason| reason.value.clone());
        Some(Planned { number, line: at_line, at, what: what?, save, expect, refused, repeat, every })
    }

    /// So much time passes so often. A century is the most, far from where log time ends.
    fn goes_on(&mut self, at_line: u64, each: Duration, times: u64) {
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        let now = self.now.saturating_add(each.saturating_mul(times));
        if now > moment::MOST {
            let how = format!("by then {} have passed; a scenario ends within a century", moment::shown(now));
            return self.wrong(at_line, how); // and time stands for what follows
        }
        self.now = now;
    }

    /// Moments rise: what lies behind the step before would never be reached at its time.
    fn moment(&mut self, step: &Step) -> Option<Duration> {
        let text = step.at.as_ref()?;
        let Some(moment) = moment::moment(&text.value) else {
            let how = format!(
                "{:?} is no moment: write {}, or `epoch 3` (they are counted from 1)",
                text.value,
                moment::LENGTHS
            );
            self.wrong(line(text), how);
            return None;
        };
        let at = match moment {
            moment::Moment::After(length) => length,
            moment::Moment::Epoch(epoch, beyond) => {
                let begins = self.calendar.begins(epoch).micros().saturating_sub(self.start.micros());
                Duration::from_micros(begins) + beyond
            }
        };
        if at > moment::MOST {
            let given = moment::shown(at);
            self.wrong(
                line(text),
                format!("this is {given} after the start; a scenario ends within a century"),
            );
            return None;
        }
        if at < self.now {
            let (given, now) = (moment::shown(at), moment::shown(self.now));
            self.wrong(
                line(text),
                format!("this is {given} after the start, and it is {now} already when the step comes: it is never reached"),
            );
            return None;
        }
        self.now = at;
        Some(at)
    }

    fn length(&mut self, text: &Spanned<String>) -> Option<Duration> {
        let length = moment::length(&text.value);
        if length.is_none() {
            self.wrong(
                line(text),
                format!("{:?} is no length of time: write {}", text.value, moment::LENGTHS),
            );
        }
        length
    }

    fn what(&mut self, at: u64, step: &Step) -> Option<What> {
        let kinds = [step.call.is_some(), step.ask.is_some(), step.deed.is_some()];
        if kinds.iter().filter(|is| **is).count() != 1 {
            self.wrong(at, "a step has one of `call`, `ask` and `do`");
            return None;
        }
        if let Some(text) = &step.deed {
            let misplaced = [
                ("as", step.who.is_some()),
                ("with", step.with.is_some()),
                ("save", step.save.is_some()),
                ("expect", step.expect.is_some()),
                ("refused", step.refused.is_some()),
            ];
            for (key, _) in misplaced.iter().filter(|(_, is)| *is) {
                self.wrong(at, format!("`do` has no `{key}`: nobody is asked, and nobody answers"));
            }
            return self.deed(text).map(What::Do);
        }
        let who = match &step.who {
            Some(who) => who.value.clone(),
            None => {
                self.wrong(at, "who? Write `as: NAME`");
                return None;
            }
        };
        let who_line = step.who.as_ref().map_or(at, line);
        if self.cast.party(&who).is_none() {
            let known = self.cast.names();
            self.wrong(who_line, format!("nobody is called {who}{}", meant(&who, &known)));
        }
        match (&step.call, &step.ask) {
            (Some(call), _) => self.call(step, who, call),
            (_, Some(ask)) => self.ask(step, who, ask),
            (None, None) => None,
        }
    }

    fn call(&mut self, step: &Step, who: String, call: &Spanned<String>) -> Option<What> {
        let method = match fields::method(&self.pool, &call.value) {
            Ok(method) => method,
            Err(why) => {
                self.wrong(line(call), why);
                return None;
            }
        };
        if who == cast::GATEWAY && step.by != By::Signature {
            self.wrong(
                line(call),
                "the gateway calls from inside, without a proof that could be another: leave `by` out",
            );
        }
        let with =
            step.with.as_ref().map_or_else(|| Json::Object(Default::default()), |with| with.value.clone());
        let at = step.with.as_ref().map_or(line(call), line);
        for misfit in fields::misfits(&with, &method.input(), "") {
            self.wrong(at, misfit);
        }
        self.references(&with, at, step.repeat.is_some());
        if !names::has_references(&with)
            && let Err(why) = fields::request(with.clone(), &method.input())
        {
            self.wrong(at, why);
        }
        Some(What::Call { who, by: step.by, method, with })
    }

    fn ask(&mut self, step: &Step, who: String, ask: &Spanned<Ask>) -> Option<What> {
        let (at, of) = (line(ask), &ask.value);
        if step.with.is_some() || step.by != By::Signature {
            self.wrong(at, "`ask` says all itself: leave `with` and `by` out");
        }
        if !self.engine {
            self.wrong(at, "nothing answers: write `engine: fake` or `engine: tiny` at the top of the file");
        }
        let unknown = of.node.iter().filter(|node| !self.nodes.contains(*node)).cloned().collect::<Vec<_>>();
        for node in unknown {
            let known: Vec<String> = self.nodes.iter().cloned().collect();
            self.wrong(at, format!("no node is called {node}{}", meant(&node, &known)));
        }
        let pays = of.pay.clone().unwrap_or_else(|| "USD".into());
        if !self.has.get(&who).is_some_and(|has| has.contains(&pays)) {
            self.wrong(at, format!("{who} has no account in {pays} to pay from: say so under `has`"));
        }
        let text = Json::String(of.prompt.clone());
        self.references(&text, at, step.repeat.is_some());
        let lasts = of.lasts.as_deref().map(moment::length);
        if lasts == Some(None) {
            self.wrong(at, format!("`lasts` is a length of time: {}", moment::LENGTHS));
        }
        Some(What::Ask { who, ask: of.clone(), lasts: lasts.flatten().unwrap_or_default() })
    }

    fn deed(&mut self, text: &Spanned<String>) -> Option<Deed> {
        let words: Vec<&str> = text.value.split_whitespace().collect();
        let node = |checker: &mut Checker, name: &str, of: fn(String) -> Deed| {
            if checker.nodes.contains(name) {
                return Some(of(name.to_owned()));
            }
            let known: Vec<String> = checker.nodes.iter().cloned().collect();
            checker.wrong(line(text), format!("no node is called {name}{}", meant(name, &known)));
            None
        };
        match words.as_slice() {
            ["restart"] | ["restart", "all"] => Some(Deed::Restart(None)),
            ["restart", service] => {
                let known: Vec<&str> = roles::all().iter().map(|role| role.name).collect();
                if known.contains(service) {
                    return Some(Deed::Restart(Some((*service).to_owned())));
                }
                self.wrong(line(text), format!("no service is called {service}{}", meant(service, &known)));
                None
            }
            ["advance", rest @ ..] if !rest.is_empty() => {
                let length = Spanned { value: rest.join(" "), ..text.clone() };
                self.length(&length).map(Deed::Advance)
            }
            ["lose", name] => node(self, name, Deed::Lose),
            ["attach", name] => node(self, name, Deed::Attach),
            ["stop", "gateway"] => Some(Deed::StopGateway),
            ["start", "gateway"] => Some(Deed::StartGateway),
            _ => {
                self.wrong(line(text), format!("{:?} cannot be done: write {DEEDS}", text.value));
                None
            }
        }
    }

    /// What the reply is held to, with the names that replies have.
    fn expected(&mut self, expected: &Spanned<Json>, what: Option<&What>) -> Option<Json> {
        let at = line(expected);
        self.references(&expected.value, at, true);
        for wrong in expect::unusable(&expected.value) {
            self.wrong(at, wrong);
        }
        match what? {
            What::Call { method, .. } => {
                for misfit in fields::misfits(&expected.value, &method.output(), "") {
                    self.wrong(at, format!("this can never be checked: {misfit}"));
                }
                Some(fields::as_replied(expected.value.clone(), &method.output()))
            }
            What::Ask { .. } => {
                let members = expected.value.as_object();
                for name in members.iter().flat_map(|members| members.keys()) {
                    if !ANSWER.contains(&name.as_str()) {
                        let what = format!(
                            "this can never be checked: an answer has no {name}{}",
                            meant(name, &ANSWER)
                        );
                        self.wrong(at, what);
                    }
                }
                for (name, wanted) in members.into_iter().flatten() {
                    if let Some(why) = never_answered(name, wanted) {
                        self.wrong(at, format!("this can never be checked: {why}"));
                    }
                }
                Some(expected.value.clone())
            }
            What::Do(_) => None,
        }
    }

    fn refusal(&mut self, step: &Step, what: Option<&What>) {
        let Some(reason) = &step.refused else { return };
        if matches!(what, Some(What::Call { .. } | What::Ask { .. })) && step.expect.is_some() {
            self.wrong(line(reason), "what is refused has no reply: leave `expect` out, or `refused`");
        }
        if step.save.is_some() {
            self.wrong(line(reason), "what is refused has no reply that could be saved");
        }
        let is_reason = |sign: u8| sign.is_ascii_uppercase() || sign.is_ascii_digit() || sign == b'_';
        if reason.value.is_empty() || !reason.value.bytes().all(is_reason) {
            let what =
                format!("{:?} is no stable reason: these are written as in ACCOUNT_NOT_FOUND", reason.value);
            self.wrong(line(reason), what);
        }
    }

    fn save(&mut self, name: &Spanned<String>, what: Option<&What>) {
        let taken = self.cast.party(&name.value).is_some() || cast::TAKEN.contains(&name.value.as_str());
        if taken || name.value.is_empty() || !name.value.bytes().all(is_of_a_name) {
            self.wrong(
                line(name),
                format!(
                    "{:?} cannot be a reply's name: it is taken, or has other signs than a-z, 0-9 and -",
                    name.value
                ),
            );
        }
        let of = match what {
            Some(What::Call { method, .. }) => Some(method.clone()),
            _ => None,
        };
        self.saved.insert(name.value.clone(), of);
    }
}

/// Why an answer's member is never so: of a misspelt end or number `!=` would always hold.
fn never_answered(name: &str, wanted: &Json) -> Option<String> {
    let text = wanted.as_str().filter(|text| !text.contains("${"))?;
    let (compare, value) = expect::compared(text);
    if NUMBERS.contains(&name) {
        return value.parse::<u128>().err().map(|_| format!("{name} is a number, and {text:?} is none"));
    }
    let all = (1..).map_while(|number| Finish::try_from(number).ok());
    let ends: Vec<&str> = all.map(|finish| finish.as_str_name().trim_start_matches("FINISH_")).collect();
    let is_one = ends.contains(&value) && matches!(compare, Compare::Is | Compare::Not);
    (name == "finish" && !is_one).then(|| format!("no answer ends with {text:?}{}", meant(value, &ends)))
}
