//! What a process measures, and the one way to do it. A [`Family`] stands once, in a table of its crate, with its words
//! for people ([`families!`](crate::families)). Whoever counts asks it for a handle when he starts and keeps that, so that counting is an atomic
//! operation: no lock, no look-up. What only has to be known when somebody asks is looked at then ([`when_asked`]).
//!
//! Labels are bounded: services, methods, models of the market, reasons of ours. Never an account, a node or a call.

use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, with_recorder};

mod own;

pub use own::FAMILIES;
pub(crate) use own::*;

/// Metrics of one name.
#[derive(Debug)]
pub struct Family {
    /// `holmes_<part>_<what>_<unit>`; `_total` behind what only grows.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub means: &'static str,
    /// What to do with it.
    pub advice: &'static str,
}

/// The types of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Grows until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Values in buckets, by their upper bounds.
    Histogram(&'static [f64]),
}

/// Buckets from one fsync to a caller's patience, seconds.
pub const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Declares families, and the table of all of them: `NAME = kind, "name", [labels], "means", "advice";`.
#[macro_export]
macro_rules! families {
    ($($family:ident = $kind:expr, $name:literal, [$($label:literal),*], $means:literal, $advice:literal;)*) => {
        $(pub(crate) static $family: $crate::measure::Family = $crate::measure::Family {
            name: $name,
            kind: $kind,
            labels: &[$($label),*],
            means: $means,
            advice: $advice,
        };)*
        /// Every family of this crate.
        pub static FAMILIES: &[&$crate::measure::Family] = &[$(&$family),*];
    };
}

impl Family {
    /// The counter with these values of the labels.
    pub fn counter(&self, values: &[&str]) -> Counter {
        debug_assert_eq!(self.kind, Kind::Counter, "{}", self.name);
        with_recorder(|recorder| recorder.register_counter(&self.key(values), &METADATA))
    }

    /// The gauge with these values of the labels.
    pub fn gauge(&self, values: &[&str]) -> Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        with_recorder(|recorder| recorder.register_gauge(&self.key(values), &METADATA))
    }

    /// The histogram with these values of the labels.
    pub fn histogram(&self, values: &[&str]) -> Histogram {
        debug_assert!(matches!(self.kind, Kind::Histogram(_)), "{}", self.name);
        with_recorder(|recorder| recorder.register_histogram(&self.key(values), &METADATA))
    }

    /// Says what it means, to those who only see its name.
    pub(crate) fn describe(&self) {
        let (name, means) = (self.name.into(), self.means.into());
        with_recorder(|recorder| match self.kind {
            Kind::Counter => recorder.describe_counter(name, None, means),
            Kind::Gauge => recorder.describe_gauge(name, None, means),
            Kind::Histogram(_) => recorder.describe_histogram(name, None, means),
        });
    }

    fn key(&self, values: &[&str]) -> Key {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        let labels =
            self.labels.iter().zip(values).map(|(name, value)| Label::new(*name, (*value).to_owned()));
        Key::from_parts(self.name, labels.collect::<Vec<_>>())
    }
}

static METADATA: Metadata<'static> = Metadata::new("holmes", Level::INFO, None);

/// What stands for a reason that has no counter of its own.
pub const OTHER: &str = "OTHER";

/// Counters by a last label whose values are known beforehand, so that nobody else can make one up. All of them are
/// there from the start: the first occurrence is a change that an alert sees.
#[derive(Debug)]
pub struct Reasons {
    known: &'static [&'static str],
    counters: Vec<Counter>,
    other: Counter,
}

impl Reasons {
    /// The counters of a family with these values of its other labels.
    pub fn new(family: &Family, others: &[&str], known: &'static [&'static str]) -> Reasons {
        let of = |reason| family.counter(&[others, &[reason]].concat());
        Reasons { known, counters: known.iter().map(|reason| of(reason)).collect(), other: of(OTHER) }
    }

    /// Counts one.
    pub fn count(&self, reason: &str) {
        let at = self.known.iter().position(|known| *known == reason);
        at.map_or(&self.other, |at| &self.counters[at]).increment(1);
    }
}

type Look = Box<dyn Fn() -> bool + Send + Sync>;
/// Who is looked at when somebody asks. The recorder is the process's too.
static LOOKS: Mutex<Vec<Look>> = Mutex::new(Vec::new());

/// Has `look` set its gauges whenever the metrics are asked for, until it answers that what it looks at is gone.
pub fn when_asked(look: impl Fn() -> bool + Send + Sync + 'static) {
    let mut looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    looks.retain(|look| look());
    looks.push(Box::new(look));
}

/// Looks at everything that is looked at when somebody asks: what a page of metrics begins with.
pub fn look() {
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner).retain(|look| look());
}
