//! The examples of RFC 7541, what another implementation makes of the same blocks, and the bounds.

use super::encoder::{Encoder, Field, Way};
use super::table::MAX_HELD;
use super::*;

pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    hex.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

pub(super) fn strings(fields: &Fields) -> Vec<Field> {
    let text = |span: &Span| String::from_utf8_lossy(span.of(&fields.text)).into_owned();
    fields.fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn decoded(decoder: &mut Decoder, hex: &str) -> String {
    lines(&decoder.decode(&bytes(hex)).unwrap())
}

fn lines(fields: &Fields) -> String {
    strings(fields).into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

fn field(name: &str, value: &str) -> Field {
    (name.to_owned(), value.to_owned())
}

const ADDED: Way = Way { is_indexed: true, is_added: true, has_name_index: true, is_huffman: true, is_secret: false };
const TOLD: Way = Way { is_added: false, ..ADDED };

fn block(encoder: &mut Encoder, fields: &[Field], way: Way) -> Vec<u8> {
    let mut block = Vec::new();
    fields.iter().for_each(|field| encoder.field(field, way, &mut block));
    block
}

#[test]
fn literals_of_the_rfc() {
    let custom = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    let mut decoder = Decoder::from_start();
    assert_eq!(decoded(&mut decoder, custom), "custom-key: custom-header\n");
    assert_eq!(decoded(&mut decoder, "be"), "custom-key: custom-header\n", "it was added");

    let mut decoder = Decoder::from_start();
    assert_eq!(decoded(&mut decoder, "040c 2f73 616d 706c 652f 7061 7468"), ":path: /sample/path\n");
    assert_eq!(decoded(&mut decoder, "1008 7061 7373 776f 7264 0673 6563 7265 74"), "password: secret\n");
    assert_eq!(decoded(&mut decoder, "82"), ":method: GET\n");
    assert_eq!(decoder.decode(&[0xbe]), Err(Error::Malformed), "none of these was added");
}

/// Appendix C.3 and C.4: without and with Huffman coding.
#[test]
fn requests_of_the_rfc() {
    let first = ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n";
    let second = format!("{first}cache-control: no-cache\n");
    let third =
        ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value\n";
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut decoder = Decoder::from_start();
        assert_eq!(decoded(&mut decoder, blocks[0]), first);
        assert_eq!(decoded(&mut decoder, blocks[1]), second);
        assert_eq!(decoded(&mut decoder, blocks[2]), third);
    }
}

/// Appendix C.5 and C.6: with a table of 256 bytes, so that fields are dropped.
#[test]
fn responses_of_the_rfc() {
    let rest = "cache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com\n";
    let third = ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\n\
        location: https://www.example.com\ncontent-encoding: gzip\n\
        set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n";
    for blocks in [
        [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 \
             3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 \
             7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 \
             6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ],
        [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad \
             1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 \
             e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ],
    ] {
        let mut decoder = Decoder::from_start();
        decoder.table.resize(256);
        assert_eq!(decoded(&mut decoder, blocks[0]), format!(":status: 302\n{rest}"));
        assert_eq!(decoded(&mut decoder, blocks[1]), format!(":status: 307\n{rest}"));
        assert_eq!(decoded(&mut decoder, blocks[2]), third);
        assert_eq!(decoder.decode(&[0xc1]), Err(Error::Malformed), "three fields are left");
    }
}

#[test]
fn blocks_that_break_the_rules_are_refused() {
    for (hex, why) in [
        ("80", "index 0"),
        ("be", "an index beyond both tables"),
        ("ff ff ff ff ff 0f", "one far beyond"),
        ("0f 2f 00", "the name of a field that is not there"),
        ("82 3f e1 1f", "a new size behind a field"),
        ("41 05 61", "a value that ends too early"),
        ("41", "no value"),
        ("40", "no name"),
        ("00 82 ff ff 00", "a name with a byte of padding"),
        ("7f", "an integer that ends too early"),
    ] {
        assert_eq!(Decoder::from_start().decode(&bytes(hex)), Err(Error::Malformed), "{why}");
    }
    assert_eq!(decoded(&mut Decoder::from_start(), ""), "", "nothing is a block without fields");
}

#[test]
fn a_size_is_taken_within_the_largest_limit_told() {
    let size_8192 = bytes("3f e1 3f");
    assert!(Decoder::from_start().decode(&size_8192).is_ok(), "no limit is known");
    let mut decoder = Decoder::from_start();
    decoder.allow(4096);
    assert_eq!(decoder.decode(&size_8192), Err(Error::Malformed));
    decoder.allow(8192);
    decoder.allow(100);
    assert!(decoder.decode(&size_8192).is_ok());
}

/// Blocks made by another implementation, and blocks that were damaged, with what that implementation reads in them:
/// `tests/data/hpack/generate.py`.
#[test]
fn another_implementation_reads_the_same() {
    let (mut blocks, mut refused) = (0, 0);
    for line in include_str!("../../../../tests/data/hpack/vectors.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["#", ..] => {}
            ["connection", limit] => CONNECTION.set(Some(connection(limit))),
            [block, "refused"] => {
                refused += 1;
                let answer = with_connection(|decoder| decoder.decode(&bytes(block)));
                assert_eq!(answer, Err(Error::Malformed), "{block}");
            }
            [block, ref fields @ ..] => {
                blocks += 1;
                let fields: Vec<Vec<u8>> = fields.iter().map(|hex| bytes(hex)).collect();
                let answer = with_connection(|decoder| decoder.decode(&bytes(block)));
                let answer = answer.unwrap_or_else(|error| panic!("{error:?} for {block}"));
                let ours = answer.fields.iter().flat_map(|&(n, v)| [n, v]).map(|span| span.of(&answer.text).to_vec());
                assert_eq!(ours.collect::<Vec<_>>(), fields, "{block}");
            }
            [] => {}
        }
    }
    assert!(blocks > 1000 && refused > 300, "{blocks} blocks, {refused} refused");
}

thread_local! {
    static CONNECTION: std::cell::Cell<Option<Decoder>> = const { std::cell::Cell::new(None) };
}

fn connection(limit: &str) -> Decoder {
    let mut decoder = Decoder::from_start();
    decoder.allow(limit.parse().unwrap());
    decoder
}

fn with_connection<T>(work: impl FnOnce(&mut Decoder) -> T) -> T {
    let mut decoder = CONNECTION.take().expect("a connection comes first");
    let answer = work(&mut decoder);
    CONNECTION.set(Some(decoder));
    answer
}

#[test]
fn what_was_added_before_the_join_is_unknown_and_what_came_since_is_exact() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::joined());
    let (old, new) = (field("x-old", "1"), field("x-new", "2"));
    block(&mut encoder, std::slice::from_ref(&old), ADDED);
    let seen = block(&mut encoder, &[old.clone(), new.clone(), old.clone(), new], ADDED);
    let fields = decoder.decode(&seen).unwrap();
    assert_eq!(lines(&fields), "<unknown>: <unknown>\nx-new: 2\n<unknown>: <unknown>\nx-new: 2\n");
    assert!(fields.unknown.is_some());
    let named = block(&mut encoder, &[field("x-old", "3"), field("x-old", "3")], ADDED);
    assert_eq!(lines(&decoder.decode(&named).unwrap()), "<unknown>: 3\n<unknown>: 3\n", "the value was sent");
    let again = block(&mut encoder, &[field("x-new", "2")], ADDED);
    let fields = decoder.decode(&again).unwrap();
    assert_eq!((lines(&fields).as_str(), fields.unknown), ("x-new: 2\n", None));
}

#[test]
fn a_lost_block_makes_what_was_known_unknown() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::from_start());
    let (old, lost) = (field("x-old", "1"), field("x-lost", "2"));
    let first = block(&mut encoder, std::slice::from_ref(&old), ADDED);
    assert_eq!(lines(&decoder.decode(&first).unwrap()), "x-old: 1\n");
    block(&mut encoder, &[lost], ADDED);
    decoder.forget();
    let third = block(&mut encoder, &[old], ADDED);
    assert_eq!(lines(&decoder.decode(&third).unwrap()), "<unknown>: <unknown>\n");
}

#[test]
fn a_table_that_was_emptied_or_filled_since_the_join_is_known_whole() {
    let mut decoder = Decoder::joined();
    assert!(decoder.decode(&[0xbe]).unwrap().unknown.is_some());
    assert_eq!(lines(&decoder.decode(&bytes("20 3f e1 1f 82")).unwrap()), ":method: GET\n");
    assert_eq!(decoder.decode(&[0xbe]), Err(Error::Malformed), "nothing was added since the size was 0");

    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::joined());
    let mut seen = Vec::new();
    encoder.resize(200, &mut seen);
    seen.extend(block(&mut encoder, &[field("a", &"b".repeat(60)), field("c", &"d".repeat(60))], ADDED));
    decoder.decode(&seen).unwrap();
    assert!(decoder.decode(&[0xbf]).is_ok());
    assert_eq!(decoder.decode(&[0xc0]), Err(Error::Malformed), "there is no room for a third");
}

/// A field larger than the table empties it. Without its limit that cannot be seen, and does not have to be.
#[test]
fn a_field_too_large_for_a_table_of_unknown_size_shifts_nothing() {
    for held in [100, 5000, MAX_HELD + 1] {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::joined());
        let seen = [field("a", "1"), field("large", &"x".repeat(held)), field("b", "2"), field("b", "2")];
        let fields = decoder.decode(&block(&mut encoder, &seen, ADDED)).unwrap();
        assert_eq!(strings(&fields), seen);
        let again = [field("b", "2"), field("a", "1")];
        let fields = decoder.decode(&block(&mut encoder, &again, ADDED)).unwrap();
        assert!(lines(&fields).starts_with("b: 2\n"));
        assert!(["a: 1\n", "<unknown>: <unknown>\n"].iter().any(|end| lines(&fields).ends_with(end)), "{fields:?}");
    }
}

#[test]
fn of_a_larger_table_than_is_held_the_oldest_fields_are_unknown() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::from_start());
    let mut first = Vec::new();
    encoder.resize(4 << 20, &mut first);
    decoder.decode(&first).unwrap();
    let long = "x".repeat(1000);
    for number in 0..1000 {
        let name = format!("n{number}");
        decoder.decode(&block(&mut encoder, &[field(&name, &long)], ADDED)).unwrap();
        assert!(decoder.weight() < 4 * MAX_HELD, "{} bytes", decoder.weight());
    }
    let old = decoder.decode(&block(&mut encoder, &[field("n1", &long)], TOLD)).unwrap();
    assert_eq!(lines(&old), "<unknown>: <unknown>\n");
    let new = decoder.decode(&block(&mut encoder, &[field("n990", &long)], TOLD)).unwrap();
    assert_eq!(lines(&new), format!("n990: {long}\n"));
}

/// A few bytes that stand for many: text and fields are bounded, and so is the time.
#[test]
fn a_block_that_unpacks_without_end_is_refused() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::from_start());
    let mut bomb = block(&mut encoder, &[field("x", &"y".repeat(4000))], ADDED);
    bomb.resize(MAX_BLOCK, 0xbe);
    assert_eq!(decoder.decode(&bomb), Err(Error::TooLarge));
    assert!(decoder.weight() < 4 * MAX_HELD);
    assert_eq!(Decoder::from_start().decode(&vec![0x82; MAX_BLOCK]), Err(Error::TooLarge));
    assert_eq!(Decoder::joined().decode(&vec![0xbe; MAX_BLOCK]), Err(Error::TooLarge));
    let sizes = vec![0x20; MAX_BLOCK];
    assert!(Decoder::from_start().decode(&sizes).is_ok(), "many sizes are only long");
    let empties = [0x40, 0, 0].repeat(MAX_FIELDS);
    let fields = Decoder::from_start().decode(&empties).unwrap();
    assert_eq!(fields.fields.len(), MAX_FIELDS);
}
