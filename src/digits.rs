//! Numbers and addresses as text, in decimal. Every record has dozens of them, and the standard library's formatter
//! takes several times as long for each.

use std::io::Write;
use std::net::IpAddr;

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Appends a number's digits.
pub fn append_number(out: &mut Vec<u8>, number: u64) {
    let digit = |number: u64| b'0' + (number % 10) as u8;
    let pair = |number: u64| PAIRS[(number % 100) as usize];
    // Of known length, so that it is a store or two: most numbers are short.
    match number {
        0..10 => out.push(digit(number)),
        10..100 => out.extend_from_slice(&pair(number)),
        100..1000 => {
            let [tens, ones] = pair(number);
            out.extend_from_slice(&[digit(number / 100), tens, ones]);
        }
        1000..10_000 => {
            let ([thousands, hundreds], [tens, ones]) = (pair(number / 100), pair(number));
            out.extend_from_slice(&[thousands, hundreds, tens, ones]);
        }
        _ => {
            let mut digits = [0; 20];
            let first = fill_from_end(&mut digits, number);
            out.extend_from_slice(&digits[first..]);
        }
    }
}

/// Writes a number's digits to the end of `room`, which must be large enough; where they begin.
fn fill_from_end(room: &mut [u8], mut number: u64) -> usize {
    let mut first = room.len();
    while number >= 10 {
        first -= 2;
        room[first..first + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    // What is left is the first digit, unless a pair took it.
    if number > 0 || first == room.len() {
        first -= 1;
        room[first] = b'0' + number as u8;
    }
    first
}

/// Writes the last digits of a number, as many as there is room for, with zeros before it.
pub fn fill(room: &mut [u8], mut number: u64) {
    for part in room.rchunks_mut(2) {
        let pair = PAIRS[(number % 100) as usize];
        part.copy_from_slice(&pair[2 - part.len()..]);
        number /= 100;
    }
}

/// Appends an address: IPv4 in dots, also where it came as an IPv6 address; IPv6 as RFC 5952 has it.
pub fn append_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let mut text = [b'.'; "255.255.255.255".len()];
            let mut first = text.len() + 1;
            for octet in ip.octets().into_iter().rev() {
                first = fill_from_end(&mut text[..first - 1], octet.into());
            }
            out.extend_from_slice(&text[first..]);
        }
        IpAddr::V6(ip) => write!(out, "{ip}").expect("writing to memory never fails"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(append: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        append(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_of_every_length() {
        for number in [0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 9_999, 10_000, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(written(|out| append_number(out, number)), number.to_string());
        }
    }

    #[test]
    fn numbers_fill_their_room() {
        for (room, number, text) in [(9, 1_002, "000001002"), (4, 2026, "2026"), (3, 1_234, "234"), (1, 7, "7")] {
            let mut out = vec![b'x'; room];
            fill(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn numbers_are_as_the_formatter_has_them(number in any::<u64>(), shift in 0..64) {
            let number = number >> shift;
            prop_assert_eq!(written(|out| append_number(out, number)), number.to_string());
        }

        #[test]
        fn addresses_are_as_the_formatter_has_them(ip in any::<IpAddr>()) {
            prop_assert_eq!(written(|out| append_ip(out, ip)), ip.to_canonical().to_string());
        }
    }

    #[test]
    fn an_ipv4_address_is_one_in_either_form() {
        assert_eq!(written(|out| append_ip(out, "::ffff:10.0.0.255".parse().unwrap())), "10.0.0.255");
        assert_eq!(written(|out| append_ip(out, "2001:db8:0::1".parse().unwrap())), "2001:db8::1");
    }
}
