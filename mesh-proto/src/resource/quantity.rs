//! Durations, sizes, shares and times as users write them.

use super::problem::{Code, Problem};
use super::reader::{At, Reader};
use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest duration any field takes.
const DAY: Duration = Duration::from_secs(86_400);

/// The units of a duration, largest first, with their milliseconds.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The units of a size, with their bytes, as in Kubernetes.
const SIZE_UNITS: [(&str, u64); 6] =
    [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("G", 1_000_000_000), ("M", 1_000_000), ("K", 1000)];

/// `500ms`, `1s`, `5m`, `1h`: a millisecond to a day.
pub(super) fn read_duration(reader: &mut Reader, at: &At<'_>) -> Option<Duration> {
    let text = reader.text(at)?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let per_unit = DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, millis)| *millis);
    let millis = per_unit.zip(number.parse().ok()).and_then(|(millis, number)| millis.checked_mul(number));
    let duration = millis.map(Duration::from_millis).filter(|found| !found.is_zero() && *found <= DAY);
    if duration.is_none() {
        let shown = Problem::shown(text);
        let message =
            format!("{shown:?} is not a duration; write for instance 500ms, 1s, 5m or 1h, at most 24h");
        reader.error(at, Code::InvalidValue, message);
    }
    duration
}

/// A duration of whole milliseconds in the largest unit that divides it.
pub(super) fn duration_text(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit = DURATION_UNITS.iter().find(|(_, unit)| millis.is_multiple_of(*unit)).unwrap_or(&("ms", 1));
    format!("{}{}", millis / unit.1.max(1), unit.0)
}

/// A number of bytes, plain or with `K`, `M`, `G` (powers of 1000) or `Ki`, `Mi`, `Gi` (powers of 1024).
pub(super) fn read_size(reader: &mut Reader, at: &At<'_>, bounds: RangeInclusive<u64>) -> Option<u64> {
    let text = reader.text(at)?;
    let unit = SIZE_UNITS.iter().find(|(name, _)| text.ends_with(name));
    let (number, factor) = match unit {
        Some((name, factor)) => (text.strip_suffix(name)?, *factor),
        None => (text, 1),
    };
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u64> = if plain { number.parse().ok() } else { None };
    let bytes = number.and_then(|number| number.checked_mul(factor)).filter(|bytes| bounds.contains(bytes));
    if bytes.is_none() {
        let message = format!(
            "{:?} is not a size; write for instance 65536, 64Ki or 10M, from {} to {} bytes",
            Problem::shown(text),
            bounds.start(),
            bounds.end()
        );
        reader.error(at, Code::InvalidValue, message);
    }
    bytes
}

/// A number of bytes in the largest binary unit that divides it.
pub(super) fn size_text(bytes: u64) -> String {
    let unit = SIZE_UNITS.iter().take(3).find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit.max(&1)))
}

/// A share from 0 to 1, in 1/10,000.
pub(super) fn read_share(reader: &mut Reader, at: &At<'_>) -> Option<u32> {
    let text = reader.text(at)?;
    let share = parse_share(text);
    if share.is_none() {
        let shown = Problem::shown(text);
        let message = format!("{shown:?} is not a share; write a number from 0 to 1 in steps of 0.0001");
        reader.error(at, Code::InvalidValue, message);
    }
    share
}

fn parse_share(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let whole: u32 = whole.parse().ok()?;
    let part: u32 = format!("{part:0<4}").parse().ok()?;
    whole.checked_mul(10_000)?.checked_add(part).filter(|share| *share <= 10_000)
}

/// A share of 1/10,000 as text.
pub(super) fn share_text(share: u32) -> String {
    let text = format!("{}.{:04}", share / 10_000, share % 10_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A point in time with its offset (RFC 3339), as Unix seconds from 1 on.
pub(super) fn read_time(reader: &mut Reader, at: &At<'_>) -> Option<u64> {
    let text = reader.text(at)?;
    let time = text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_second()).ok());
    let time = time.filter(|seconds| *seconds > 0);
    if time.is_none() {
        let message = format!(
            "{:?} is not a time with its offset (RFC 3339); write for instance 2027-01-31T18:00:00Z",
            Problem::shown(text)
        );
        reader.error(at, Code::InvalidValue, message);
    }
    time
}

/// Unix seconds as RFC 3339 in UTC.
pub(super) fn time_text(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact() {
        for (text, share) in
            [("0", 0), ("1", 10_000), ("0.01", 100), ("0.5", 5000), ("1.0", 10_000), ("0.0001", 1)]
        {
            assert_eq!(parse_share(text), Some(share), "{text}");
            assert_eq!(parse_share(&share_text(share)), Some(share), "{text}");
        }
        for bad in ["", ".", "1.", ".5", "1.0001", "2", "-1", "0.00001", "1e-2", "0,5", "NaN"] {
            assert_eq!(parse_share(bad), None, "{bad}");
        }
    }

    #[test]
    fn units_are_the_largest_that_divide() {
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(duration_text(Duration::from_secs(7200)), "2h");
        assert_eq!(duration_text(Duration::from_millis(1500)), "1500ms");
        assert_eq!(size_text(10 << 20), "10Mi");
        assert_eq!(size_text(1000), "1000");
        assert_eq!(time_text(0), "1970-01-01T00:00:00Z");
    }
}
