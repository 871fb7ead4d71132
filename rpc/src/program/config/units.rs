//! Byte sizes and durations as people write them: `256MiB`, `20ms`.

use std::time::Duration;

const BYTE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];
const TIME_UNITS_NS: [(&str, u64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

/// `256MiB`, `64 KiB`, `1000B`; whole numbers only. `None` for anything else, and beyond 64 bits.
pub fn bytes(text: &str) -> Option<u64> {
    number_with_unit(text, &BYTE_UNITS)
}

/// `20ms`, `500 us`, `1s`; whole numbers only.
pub fn duration(text: &str) -> Option<Duration> {
    number_with_unit(text, &TIME_UNITS_NS).map(Duration::from_nanos)
}

fn number_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at_checked(split)?;
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes("256MiB"), Some(256 << 20));
        assert_eq!(bytes("64 KiB"), Some(65_536));
        assert_eq!(bytes("1kB"), Some(1000));
        assert_eq!(bytes("0B"), Some(0));
        for bad in ["", "MiB", "1", "1mib", "1.5MiB", "-1B", "1 MiB x", "99999999999GiB", "99999999999999999999B", "1é"]
        {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("20ms"), Some(Duration::from_millis(20)));
        assert_eq!(duration("500 us"), Some(Duration::from_micros(500)));
        assert_eq!(duration("2s"), Some(Duration::from_secs(2)));
        for bad in ["", "20", "ms", "20 minutes", "1.5s", "99999999999999s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
