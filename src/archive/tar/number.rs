//! Numbers in tar headers: octal digits, or big-endian bytes where those do not reach; and the
//! decimals and names of pax records.

use crate::wire::entry::Timestamp;

/// A header's number; `None` where it is none. An empty field is zero.
pub fn read(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement in all bits but the first.
        let negative = first & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for byte in std::iter::once(&(first & 0x7f | if negative { 0x80 } else { 0 })).chain(rest) {
            value = value.checked_mul(256)?.checked_add(i64::from(*byte))?;
        }
        return Some(value);
    }
    let digits = field.iter().skip_while(|b| **b == b' ' || **b == 0);
    let mut value = 0i64;
    for digit in digits.take_while(|b| **b != b' ' && **b != 0) {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value = value.checked_mul(8)?.checked_add(digit.into())?;
    }
    Some(value)
}

/// Writes a number as octal digits with a NUL after them; `false` where it does not fit, and zero is
/// written.
pub fn write(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    let fits = value.checked_shr(3 * digits as u32).unwrap_or(0) == 0;
    let text = format!("{:0digits$o}", if fits { value } else { 0 });
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
    fits
}

/// A decimal number of a pax record.
pub fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// The name of an attribute as a part of a record's key, which ends at the first `=`: as GNU tar
/// has it.
pub fn escape(name: &[u8]) -> Vec<u8> {
    let escaped = |&byte: &u8| match byte {
        b'%' => b"%25".to_vec(),
        b'=' => b"%3D".to_vec(),
        other => vec![other],
    };
    name.iter().flat_map(escaped).collect()
}

/// The same back; what is no escape stays.
pub fn unescape(name: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), name);
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, len) = match rest {
            [b'%', b'2', b'5', ..] => (b'%', 3),
            [b'%', b'3', b'D' | b'd', ..] => (b'=', 3),
            _ => (byte, rest.len() - after.len()),
        };
        out.push(byte);
        rest = &rest[len..];
    }
    out
}

/// A time of a pax record: seconds with a sign and any number of decimals, cut to nanoseconds.
pub fn time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs = i64::try_from(decimal(whole.as_bytes())?).ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (negative, nanos) {
        (false, _) => Timestamp { secs, nanos },
        (true, 0) => Timestamp { secs: -secs, nanos },
        (true, _) => Timestamp { secs: (-secs).checked_sub(1)?, nanos: 1_000_000_000 - nanos },
    })
}

/// The same, written.
pub fn time_text(time: Timestamp) -> String {
    let total = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let (sign, total) = (if total < 0 { "-" } else { "" }, total.unsigned_abs());
    let (secs, nanos) = (total / 1_000_000_000, total % 1_000_000_000);
    if nanos == 0 { format!("{sign}{secs}") } else { format!("{sign}{secs}.{nanos:09}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_bytes() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77777777)),
            (b"0000648\0", None),
            (b"x", None),
            (&[0x80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Some(1 << 24)),
            (&[0xff; 12], Some(-1)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfb], Some(-5)),
            (&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None),
        ] {
            assert_eq!(read(field), value, "{field:?}");
        }
        let mut field = [1; 8];
        assert!(write(&mut field, 0o1234567));
        assert_eq!(&field, b"1234567\0");
        assert!(!write(&mut field, 0o10000000));
        assert_eq!(read(&field), Some(0));
    }

    #[test]
    fn times_come_back_with_their_nanoseconds() {
        for (secs, nanos, text) in [
            (0, 0, "0"),
            (5, 1, "5.000000001"),
            (-1, 999_999_999, "-0.000000001"),
            (-7, 250_000_000, "-6.750000000"),
            (1_700_000_000, 120_000_000, "1700000000.120000000"),
            (-3, 0, "-3"),
        ] {
            assert_eq!(time_text(Timestamp { secs, nanos }), text);
            assert_eq!(time(text.as_bytes()), Some(Timestamp { secs, nanos }), "{text}");
        }
        assert_eq!(time(b"1.5"), Some(Timestamp { secs: 1, nanos: 500_000_000 }));
        for bad in ["", "x", "1.x", "--1", "1e5", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }
}
