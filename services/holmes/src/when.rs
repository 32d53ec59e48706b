//! A place in a log as people name it: by a sequence number, by a moment, or by how long ago it was.

use holmes_kernel::Time;

const DAY_S: u64 = 86_400;

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
        "d" => DAY_S,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(seconds)
}

/// A moment as RFC 3339 writes it, from 1970 on.
fn rfc3339(text: &str) -> Option<Time> {
    if !text.is_ascii() {
        return None;
    }
    let (date, clock) = text.split_once(['T', 't', ' '])?;
    let at = clock.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = clock.split_at(at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let is_moment = year >= 1970
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !is_moment || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros: u64 = format!("{fraction:0<6}")[..6].parse().ok()?;
    let local = days(year, month, day) * DAY_S + hour * 3_600 + minute * 60 + second;
    let utc = match zone.split_at(1) {
        ("Z" | "z", "") => local,
        ("+", offset) => local.checked_sub(offset_s(offset)?)?,
        ("-", offset) => local + offset_s(offset)?,
        _ => return None,
    };
    Some(Time::from_micros(utc * 1_000_000 + micros))
}

fn offset_s(text: &str) -> Option<u64> {
    let [hours, minutes] = numbers(text, ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some(hours * 3_600 + minutes * 60)
}

/// Numbers of just so many digits each.
fn numbers<const N: usize>(text: &str, between: char, widths: [usize; N]) -> Option<[u64; N]> {
    let parts: Vec<&str> = text.split(between).collect();
    let right = |(part, width): (&&str, &usize)| {
        part.len() == *width && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if parts.len() != N || !parts.iter().zip(&widths).all(right) {
        return None;
    }
    let mut numbers = [0; N];
    for (number, part) in numbers.iter_mut().zip(parts) {
        *number = part.parse().ok()?;
    }
    Some(numbers)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Whole days from the first of 1970 to a date. A year of four digits keeps the loops short.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let of_year = |year| if is_leap(year) { 366 } else { 365 };
    (1970..year).map(of_year).sum::<u64>() + (1..month).map(|month| days_in(year, month)).sum::<u64>() + day
        - 1
}

/// A moment as [`place`] reads it, to the second.
pub(crate) fn shown(at: Time) -> String {
    let seconds = at.micros() / 1_000_000;
    let (mut left, mut year, mut month) = (seconds / DAY_S, 1970, 1);
    // Times of a log are those of clocks; beyond four digits there is no way to write one.
    while year < 9_999 && left >= if is_leap(year) { 366 } else { 365 } {
        left -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    while month < 12 && left >= days_in(year, month) {
        left -= days_in(year, month);
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", left + 1)
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
