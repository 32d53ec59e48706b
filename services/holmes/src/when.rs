//! A place in a log as people name it: by a sequence number, by a moment, or by how long ago it was.

use holmes_kernel::Time;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A sequence number.
    Seq(u64),
    /// A moment of log time.
    At(Time),
    /// So many seconds before now.
    Ago(u64),
}

impl Place {
    /// The moment that is meant, if it is one.
    pub(crate) fn moment(self, now: Time) -> Option<Time> {
        match self {
            Place::Seq(_) => None,
            Place::At(moment) => Some(moment),
            Place::Ago(seconds) => {
                Some(Time::from_micros(now.micros().saturating_sub(seconds.saturating_mul(1_000_000))))
            }
        }
    }
}

/// A place, from what stands on a command line.
pub(crate) fn place(text: &str) -> Result<Place, String> {
    let wrong = || {
        format!(
            "{text:?} is no place in a log: write a sequence number, a time as in 2026-11-21T09:30:00Z, or how long ago, as in \
             -90s, -1m, \"2h ago\" or -1d"
        )
    };
    if let Some(ago) = text.strip_prefix('-').or_else(|| text.strip_suffix("ago")) {
        return seconds(ago.trim()).map(Place::Ago).ok_or_else(wrong);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Place::Seq).map_err(|_| wrong());
    }
    rfc3339(text).map(Place::At).ok_or_else(wrong)
}

/// A place behind an event, of which the first has number 1.
pub(crate) fn behind(text: &str) -> Result<Place, String> {
    match place(text)? {
        Place::Seq(0) => Err("events are numbered from 1 on (1..)".into()),
        place => Ok(place),
    }
}

/// A count with its unit.
fn seconds(text: &str) -> Option<u64> {
    let (count, unit) = text.split_at(text.find(|sign: char| !sign.is_ascii_digit())?);
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(seconds)
}

/// A moment as RFC 3339 writes it, from 1970 on.
fn rfc3339(text: &str) -> Option<Time> {
    let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    u64::try_from(nanos.div_euclid(1_000)).ok().map(Time::from_micros)
}

/// A moment as [`place`] reads it, to the second; in microseconds where it lies behind the year 9999.
pub(crate) fn shown(at: Time) -> String {
    let seconds = i64::try_from(at.micros() / 1_000_000).ok();
    let moment = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let text = moment.and_then(|moment| moment.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{} us", at.micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_the_standard_writes_them() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-21T21:06:34Z", 1_795_295_194),
            ("2026-11-21t22:06:34+01:00", 1_795_295_194),
            ("2026-11-21 16:06:34-05:00", 1_795_295_194),
            ("2100-03-01T00:00:00z", 4_107_542_400),
        ] {
            assert_eq!(place(text), Ok(Place::At(Time::from_millis(seconds * 1_000))), "{text}");
        }
        let fine = place("1970-01-01T00:00:01.0000019Z");
        assert_eq!(fine, Ok(Place::At(Time::from_micros(1_000_001))));
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for seconds in [0, 951_782_399, 951_782_400, 1_795_295_194, 4_107_542_400, 253_402_300_799] {
            let at = Time::from_millis(seconds * 1_000);
            assert_eq!(place(&shown(at)), Ok(Place::At(at)), "{}", shown(at));
        }
    }

    #[test]
    fn how_long_ago_is_told_in_either_way() {
        let now = Time::from_millis(10_000_000);
        for (text, seconds) in [("-90s", 90), ("-1m", 60), ("1m ago", 60), ("2h ago", 7_200), ("-1d", 86_400)]
        {
            let found = place(text).unwrap();
            assert_eq!(found, Place::Ago(seconds), "{text}");
            assert_eq!(
                found.moment(now),
                Some(Time::from_millis(10_000_000u64.saturating_sub(seconds * 1_000)))
            );
        }
        assert_eq!((place("30"), place("30").unwrap().moment(now)), (Ok(Place::Seq(30)), None));
    }

    #[test]
    fn what_is_no_place_is_refused_with_what_one_looks_like() {
        for text in [
            "",
            "-",
            "ago",
            "-1",
            "-1w",
            "-m",
            "1m",
            "+5",
            "yesterday",
            "2026-11-21",
            "2026-11-21T21:06:34",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T21:06:34.Z",
            "2026-11-21T21:06:34+25:00",
            "1969-12-31T23:59:59Z",
            "-99999999999999999999s",
            "２026-11-21T21:06:34Z",
            "99999999999999999999",
        ] {
            assert!(place(text).is_err_and(|told| told.contains("-90s")), "{text:?} was taken");
        }
        assert!(behind("0").is_err() && behind("1") == Ok(Place::Seq(1)));
    }
}
