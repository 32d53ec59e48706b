//! Moments and lengths of time as scenarios write them: `5s`, `1h 30m`, `10y`, `epoch 3`, `epoch 3 + 5s`.

use std::time::Duration;

/// When something is, counted from the scenario's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// So long after the start.
    After(Duration),
    /// So long after an epoch's beginning (E-0.5).
    Epoch(u64, Duration),
}

/// How lengths are written, for who has written one otherwise.
pub(super) const LENGTHS: &str = "a number with its unit, as in 500ms, 5s, 10m, 2h, 30d or 10y (365 days each), several of them with \
                                  spaces between, a century at most";

/// The longest: a century is beyond every parameter, and far from where log time ends.
pub(super) const MOST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A length of time.
pub(super) fn length(text: &str) -> Option<Duration> {
    let mut parts = text.split_whitespace().peekable();
    parts.peek()?;
    let whole = parts.try_fold(Duration::ZERO, |sum, part| sum.checked_add(one(part)?))?;
    (whole <= MOST).then_some(whole)
}

fn one(part: &str) -> Option<Duration> {
    let (count, unit) = part.split_at(part.find(|sign: char| !sign.is_ascii_digit())?);
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "y" => 365 * 86_400_000,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(ms).map(Duration::from_millis)
}

/// A moment.
pub(super) fn moment(text: &str) -> Option<Moment> {
    let Some(rest) = text.trim().strip_prefix("epoch ") else { return length(text).map(Moment::After) };
    let (number, beyond) = match rest.split_once('+') {
        Some((number, beyond)) => (number, length(beyond)?),
        None => (rest, Duration::ZERO),
    };
    let number = number.trim().parse().ok().filter(|epoch| *epoch > 0)?;
    Some(Moment::Epoch(number, beyond))
}

/// A length as people read it: its two greatest units.
pub(super) fn shown(length: Duration) -> String {
    let ms = length.as_millis();
    let units = [
        ("y", 365 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let (mut left, mut parts) = (ms, Vec::new());
    for (name, unit) in units {
        if left >= unit && parts.len() < 2 {
            parts.push(format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_people_write_them() {
        for (text, ms) in [
            ("0s", 0),
            ("500ms", 500),
            ("5s", 5_000),
            ("1h 30m", 5_400_000),
            ("2d", 172_800_000),
            ("10y", 315_360_000_000),
        ] {
            assert_eq!(length(text), Some(Duration::from_millis(ms)), "{text}");
            assert_eq!(shown(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn what_is_no_length_is_none() {
        for text in ["", " ", "5", "s", "5 s", "-5s", "5S", "5sec", "1.5h", "101y", "99999999999999999999s"] {
            assert_eq!(length(text), None, "{text:?}");
        }
    }

    #[test]
    fn epochs_are_moments_too() {
        assert_eq!(moment("epoch 3"), Some(Moment::Epoch(3, Duration::ZERO)));
        assert_eq!(moment("epoch 3 + 5s"), Some(Moment::Epoch(3, Duration::from_secs(5))));
        assert_eq!(moment("7s"), Some(Moment::After(Duration::from_secs(7))));
        for text in ["epoch", "epoch 0", "epoch x", "epoch 3 + ", "epoch 3 5s"] {
            assert_eq!(moment(text), None, "{text}");
        }
    }
}
