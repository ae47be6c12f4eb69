//! Times and counts: durations, the delete budget, and how long an approval lasts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::error::InvalidValue;

/// The longest time that a manifest may write.
pub const MAX_DURATION: Duration = Duration::from_hours(24);

const UNITS: &[(&str, u64)] = &[("s", 1), ("m", 60), ("h", 3600)];

/// Parses `30s`, `5m` or `1h`: whole seconds, minutes or hours, from one second to [`MAX_DURATION`].
///
/// # Errors
///
/// If `text` is not such a duration.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidValue> {
    let error = || InvalidValue::new(text, "a duration such as 30s, 5m or 1h");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    if count.is_empty() {
        return Err(error());
    }
    if unit.is_empty() {
        return Err(error().because("no unit").hint(format!("write {text}s for seconds")));
    }
    let Some((_, seconds)) = UNITS.iter().find(|(word, _)| *word == unit) else {
        return Err(error().because(format!("unknown unit {}", super::quoted(unit))).hint("the units are s, m and h"));
    };
    // Too many digits for a u64 are too long a time, too.
    match count.parse::<u64>().ok().and_then(|count| count.checked_mul(*seconds)) {
        Some(0) => Err(error().because("shorter than 1s")),
        Some(seconds) if seconds <= MAX_DURATION.as_secs() => Ok(Duration::from_secs(seconds)),
        _ => Err(error().because("longer than 24h")),
    }
}

/// Writes a duration as [`parse_duration`] reads it, in the largest unit that divides it.
fn format_duration(f: &mut fmt::Formatter<'_>, seconds: u64) -> fmt::Result {
    let (unit, size) =
        UNITS.iter().rev().find(|(_, size)| seconds >= *size && seconds.is_multiple_of(*size)).unwrap_or(&UNITS[0]);
    write!(f, "{}{unit}", seconds / size)
}

/// How many deletes a skill may make within which time (`delete_budget`); the next one in the window is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeleteBudget {
    limit: u32,
    window: Duration,
}

impl DeleteBudget {
    /// The number of deletes in a window; may be 0.
    #[must_use]
    pub fn limit(self) -> u32 {
        self.limit
    }

    /// The window's length, from one second to [`MAX_DURATION`].
    #[must_use]
    pub fn window(self) -> Duration {
        self.window
    }

    /// The window's length in nanoseconds.
    #[must_use]
    pub fn window_ns(self) -> u64 {
        self.window.as_secs() * 1_000_000_000
    }
}

impl fmt::Display for DeleteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.limit)?;
        match self.window.as_secs() {
            1 => f.write_str("s"),
            60 => f.write_str("min"),
            3600 => f.write_str("h"),
            seconds => format_duration(f, seconds),
        }
    }
}

impl FromStr for DeleteBudget {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || InvalidValue::new(text, "NUMBER/WINDOW, such as 50/min or 10/30s");
        let (count, window) = text.split_once('/').ok_or_else(error)?;
        if count.is_empty() || !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error().because("no whole number before the `/`"));
        }
        let limit = count.parse().map_err(|_| error().because(format!("more than {}", u32::MAX)))?;
        let window = match window {
            "s" => Duration::from_secs(1),
            "m" | "min" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            other => parse_duration(other.strip_suffix("min").map(|n| format!("{n}m")).as_deref().unwrap_or(other))
                .map_err(|wrong| InvalidValue {
                    found: format!("{} (window: {})", super::quoted(text), wrong.found),
                    expected: "NUMBER/WINDOW, with a window of s, min, h, or from 1s to 24h".into(),
                    hint: Some("write 50/min or 10/30s".into()),
                })?,
        };
        Ok(Self { limit, window })
    }
}

/// How approval is asked for (`approval`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Approval {
    /// How long an action waits for an answer before it is denied.
    pub timeout: Duration,
    /// How long a given approval lasts.
    pub grant: Grant,
}

impl Default for Approval {
    fn default() -> Self {
        Self { timeout: Duration::from_mins(5), grant: Grant::Once }
    }
}

/// How long an approval lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// For the one action that was asked for.
    Once,
    /// For the same action, for this long.
    For(Duration),
    /// For the same action, until the process that asked has ended.
    Session,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Once => f.write_str("once"),
            Self::For(time) => format_duration(f, time.as_secs()),
            Self::Session => f.write_str("session"),
        }
    }
}

impl FromStr for Grant {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "once" => Ok(Self::Once),
            "session" => Ok(Self::Session),
            other => parse_duration(other)
                .map(Self::For)
                .map_err(|error| InvalidValue { expected: "once, session, or a duration such as 10m".into(), ..error }),
        }
    }
}
