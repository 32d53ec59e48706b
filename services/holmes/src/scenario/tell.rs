//! What is told of a scenario while it is played: lines of JSON or of text on stdout, progress and traces on stderr.

use std::time::{Duration, Instant};

use anyhow::Result;
use holmes_kernel::Time;
use serde_json::{Value as Json, json};

use super::check::Plan;
use super::cluster::Refused;
use super::moment;
use crate::output::{self, Format};
use crate::when;

/// Work that takes longer than this says how far it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tells.
pub(super) struct Teller {
    format: Format,
    trace: bool,
    many: bool,
    said: Instant,
}

/// What came of a step.
pub(super) struct Outcome<'a> {
    pub number: usize,
    /// Which repetition, of how many.
    pub turn: (u64, u64),
    pub after: Duration,
    pub who: Option<&'a str>,
    pub what: String,
    pub came: Came,
    /// Expectations that did not hold.
    pub wrong: Vec<Json>,
}

/// What came of it.
pub(super) enum Came {
    Reply(Json),
    Refused(Refused),
    Done,
    /// Nothing: what it needs of a step before is not there.
    NotReached(String),
}

impl Teller {
    /// Tells of one scenario; `many` are played.
    pub(super) fn new(format: Format, trace: bool, many: bool) -> Teller {
        Teller { format, trace, many, said: Instant::now() }
    }

    /// Whether calls are traced.
    pub(super) fn traces(&self) -> bool {
        self.trace
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// What is played.
    pub(super) fn begins(&self, plan: &Plan) -> Result<()> {
        if self.is_json() {
            return line(&json!({
                "scenario": plan.name,
                "profile": plan.profile.name(),
                "genesis": output::hex(&plan.profile.hash()),
                "start": when::shown(plan.start),
            }));
        }
        let about = plan.about.split_whitespace().collect::<Vec<_>>().join(" ");
        let space = if self.many { "\n" } else { "" };
        output::text(&format!("{space}== {}: {about}", plan.name))
    }

    /// A call, with all that was said.
    pub(super) fn trace(
        &mut self,
        at: Time,
        who: &str,
        path: &str,
        request: &Json,
        answer: &Result<Json, Refused>,
    ) -> Result<()> {
        let (name, answer) = match answer {
            Ok(reply) => ("reply", reply.clone()),
            Err(refused) => ("refused", refused_json(refused)),
        };
        let told = json!({ "at_us": at.micros(), "as": who, "call": path, "request": request, name: answer });
        eprintln!("{told}");
        Ok(())
    }

    /// That it takes its time.
    pub(super) fn goes_on(&mut self, after: Duration) {
        if self.said.elapsed() > PATIENCE {
            self.said = Instant::now();
            eprintln!("  … {} after the start", moment::shown(after));
        }
    }

    /// What came of a step.
    pub(super) fn step(&self, of: &Outcome<'_>) -> Result<()> {
        if self.is_json() {
            line(&step_json(of))
        } else {
            step_text(of).iter().try_for_each(|text| output::text(text))
        }
    }
}

/// A line of JSON.
pub(super) fn line(json: &Json) -> Result<()> {
    output::text(&json.to_string())
}

pub(super) fn refused_json(of: &Refused) -> Json {
    let mut json = json!({ "code": of.code, "reason": of.reason, "message": of.message });
    if let Some(ms) = of.retry_after_ms {
        json["retryAfterMs"] = u64::try_from(ms).unwrap_or(u64::MAX).into();
    }
    json
}

fn step_json(of: &Outcome<'_>) -> Json {
    let mut json = json!({ "step": of.number });
    if of.turn.1 > 1 {
        json["turn"] = of.turn.0.into();
    }
    json["after_ms"] = u64::try_from(of.after.as_millis()).unwrap_or(u64::MAX).into();
    if let Some(who) = of.who {
        json["as"] = who.into();
    }
    json["what"] = of.what.as_str().into();
    match &of.came {
        Came::Reply(reply) => json["reply"] = reply.clone(),
        Came::Refused(refused) => json["refused"] = refused_json(refused),
        Came::Done => {}
        Came::NotReached(why) => json["not_reached"] = why.as_str().into(),
    }
    if !of.wrong.is_empty() {
        json["wrong"] = Json::Array(of.wrong.clone());
    }
    json
}

fn step_text(of: &Outcome<'_>) -> Vec<String> {
    let who = of.who.map(|who| format!("{who}: ")).unwrap_or_default();
    let turn = if of.turn.1 > 1 { format!(" ({} of {})", of.turn.0, of.turn.1) } else { String::new() };
    let came = match &of.came {
        Came::Reply(reply) => short(reply),
        Came::Refused(refused) => format!("refused: {}: {}", refused.reason, refused.message),
        Came::Done => String::new(),
        Came::NotReached(why) => format!("not reached: {why}"),
    };
    let arrow = if came.is_empty() { "" } else { " → " };
    let after = moment::shown(of.after);
    let mut lines = vec![format!("{after:>9}  {who}{}{turn}{arrow}{came}", of.what)];
    lines.extend(of.wrong.iter().map(|wrong| format!("           WRONG {}", wrong_text(wrong))));
    lines
}

/// An expectation that did not hold, in words.
pub(super) fn wrong_text(wrong: &Json) -> String {
    let part = |name: &str| match &wrong[name] {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    format!("line {}, {}: wanted {}, got {}", part("line"), part("path"), part("wanted"), part("got"))
}

/// Most characters of a reply on a line.
const MOST: usize = 160;

fn short(reply: &Json) -> String {
    let text = reply.to_string();
    if text.chars().count() <= MOST {
        return text;
    }
    text.chars().take(MOST - 1).chain(['…']).collect()
}
