//! Content codings undone: gzip, deflate, br and zstd (RFC 9110 section 8.4).
//!
//! Takes a body as it was on the wire, as far as it was kept, and gives what a reader would want to see. Output and
//! memory are bounded whatever the input says of itself, and what was decoded before an error is given too. It does
//! not look at content types and does not guess a coding that the header does not name.

use std::io::{self, Read};

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use flate2::{Decompress, FlushDecompress, Status};

/// A body without its content codings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    pub bytes: Vec<u8>,
    pub outcome: Outcome,
}

/// How much of the content `Decoded::bytes` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it.
    Whole,
    /// Its first `limit` bytes; there is more.
    Cut,
    /// What could be had of a body that ends too early.
    Short,
    /// What could be had before the body stopped following its coding, maybe nothing. A zstd frame that asks for a
    /// larger window than HTTP allows counts as such.
    Broken,
    /// The body as it came, up to `limit` bytes: a coding is not known, or there are more than [`MAX_CODINGS`].
    Unknown,
}

/// The most codings on one body that are undone.
pub const MAX_CODINGS: usize = 4;

/// The largest window a zstd body may ask for, as a power of two: 8 MiB (RFC 9659 section 3).
const ZSTD_WINDOW_LOG: u32 = 23;

/// Undoes what `content_encoding` says was done to `body`: a list in the order of application, undone from its end.
///
/// `limit`: the most bytes wanted, of the result and of each step to it. An empty body is whole in any coding.
pub fn decode(content_encoding: &[u8], body: &[u8], limit: usize) -> Decoded {
    let Some(codings) = codings(content_encoding) else {
        return Decoded { bytes: body[..body.len().min(limit)].to_vec(), outcome: Outcome::Unknown };
    };
    let Some((&last, before)) = codings.split_last() else { return read(body, limit) };
    let mut decoded = undo(last, body, limit);
    for &coding in before.iter().rev() {
        let mut next = undo(coding, &decoded.bytes, limit);
        // what is missing on the way is missing in the end; how it went missing first is what to tell
        if decoded.outcome != Outcome::Whole {
            next.outcome = decoded.outcome;
        }
        decoded = next;
    }
    decoded
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// The codings in order of application; none where one is unknown or they are too many.
fn codings(content_encoding: &[u8]) -> Option<Vec<Coding>> {
    let mut codings = Vec::new();
    for name in content_encoding.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
        if name.is_empty() || name.eq_ignore_ascii_case(b"identity") {
            continue;
        }
        if codings.len() == MAX_CODINGS {
            return None;
        }
        codings.push(coding(name)?);
    }
    Some(codings)
}

/// A coding by its registered name, in any case.
fn coding(name: &[u8]) -> Option<Coding> {
    match name.to_ascii_lowercase().as_slice() {
        b"gzip" | b"x-gzip" => Some(Coding::Gzip),
        b"deflate" => Some(Coding::Deflate),
        b"br" => Some(Coding::Brotli),
        b"zstd" => Some(Coding::Zstd),
        _ => None,
    }
}

fn undo(coding: Coding, body: &[u8], limit: usize) -> Decoded {
    if body.is_empty() {
        return Decoded { bytes: Vec::new(), outcome: Outcome::Whole };
    }
    match coding {
        Coding::Gzip => read(flate2::bufread::MultiGzDecoder::new(body), limit),
        Coding::Deflate => inflate(body, limit),
        Coding::Brotli => read(Brotli::new(body), limit),
        Coding::Zstd => unzstd(body, limit),
    }
}

/// `deflate` is the zlib format (RFC 9110 section 8.4.1.2); some servers send the bare deflate stream instead.
fn inflate(body: &[u8], limit: usize) -> Decoded {
    let zlib = read(Inflate::new(body, true), limit);
    if zlib.outcome == Outcome::Broken && zlib.bytes.is_empty() { read(Inflate::new(body, false), limit) } else { zlib }
}

fn unzstd(body: &[u8], limit: usize) -> Decoded {
    let decoder = zstd::stream::read::Decoder::with_buffer(body);
    let bounded = decoder.and_then(|mut decoder| decoder.window_log_max(ZSTD_WINDOW_LOG).map(|()| decoder));
    match bounded {
        Ok(decoder) => read(decoder, limit),
        Err(_) => Decoded { bytes: Vec::new(), outcome: Outcome::Broken },
    }
}

/// Reads up to `limit` bytes, and one more to see whether there are more.
fn read(reader: impl Read, limit: usize) -> Decoded {
    let mut bytes = Vec::new();
    // what was read before an error stays in `bytes`
    let result = reader.take((limit as u64).saturating_add(1)).read_to_end(&mut bytes);
    let outcome = match result {
        _ if bytes.len() > limit => Outcome::Cut,
        Ok(_) => Outcome::Whole,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Outcome::Short,
        Err(_) => Outcome::Broken,
    };
    bytes.truncate(limit);
    Decoded { bytes, outcome }
}

/// A zlib or bare deflate stream. Unlike `flate2`'s own reader it tells an early end from the real one.
struct Inflate<'a> {
    input: &'a [u8],
    stream: Decompress,
    ended: bool,
}

impl Inflate<'_> {
    fn new(input: &[u8], zlib_header: bool) -> Inflate<'_> {
        Inflate { input, stream: Decompress::new(zlib_header), ended: false }
    }
}

impl Read for Inflate<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            let (used_before, made_before) = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(self.input, buffer, FlushDecompress::None)?;
            let used = (self.stream.total_in() - used_before) as usize;
            let made = (self.stream.total_out() - made_before) as usize;
            self.input = &self.input[used..];
            self.ended = status == Status::StreamEnd;
            if made > 0 {
                return Ok(made);
            }
            if used == 0 && !self.ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

/// A brotli stream (RFC 7932). Unlike `brotli`'s own reader it tells an early end from a broken stream, and takes no
/// window beyond the 16 MiB of the RFC.
struct Brotli<'a> {
    input: &'a [u8],
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
}

impl Brotli<'_> {
    fn new(input: &[u8]) -> Brotli<'_> {
        let alloc = StandardAlloc::default;
        Brotli { input, state: BrotliState::new_strict(alloc(), alloc(), alloc()) }
    }
}

impl Read for Brotli<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (mut input_left, mut used) = (self.input.len(), 0);
        let (mut room_left, mut made) = (buffer.len(), 0);
        let mut total = 0;
        let result = BrotliDecompressStream(
            &mut input_left,
            &mut used,
            self.input,
            &mut room_left,
            &mut made,
            buffer,
            &mut total,
            &mut self.state,
        );
        self.input = &self.input[used..];
        if made > 0 {
            return Ok(made);
        }
        match result {
            BrotliResult::ResultSuccess | BrotliResult::NeedsMoreOutput => Ok(0),
            BrotliResult::NeedsMoreInput => Err(io::ErrorKind::UnexpectedEof.into()),
            BrotliResult::ResultFailure => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn bare_deflate(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn brotli(content: &[u8]) -> Vec<u8> {
        let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
        encoder.write_all(content).unwrap();
        encoder.into_inner()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        zstd::encode_all(content, 3).unwrap()
    }

    type Encode = fn(&[u8]) -> Vec<u8>;
    const ENCODERS: [(&str, Encode); 6] = [
        ("gzip", gzip),
        ("X-GZip", gzip),
        ("deflate", zlib),
        ("deflate", bare_deflate),
        ("br", brotli),
        ("zstd", zstd),
    ];

    /// Compressible, but not so much that it fits in a few bytes.
    fn text() -> Vec<u8> {
        (0..2000).flat_map(|n| format!("line {n} of {}\n", n * n % 977).into_bytes()).collect()
    }

    #[test]
    fn every_coding_is_undone() {
        for (name, encode) in ENCODERS {
            let decoded = decode(name.as_bytes(), &encode(&text()), usize::MAX);
            assert_eq!(decoded, Decoded { bytes: text(), outcome: Outcome::Whole }, "{name}");
        }
    }

    #[test]
    fn output_stops_at_the_limit_and_says_so() {
        for (name, encode) in ENCODERS {
            let body = encode(&text());
            for limit in [0, 1, 1000, text().len() - 1] {
                let decoded = decode(name.as_bytes(), &body, limit);
                assert_eq!(
                    decoded,
                    Decoded { bytes: text()[..limit].to_vec(), outcome: Outcome::Cut },
                    "{name} {limit}"
                );
            }
            assert_eq!(decode(name.as_bytes(), &body, text().len()).outcome, Outcome::Whole, "{name}");
        }
    }

    #[test]
    fn a_bomb_costs_no_more_than_the_limit() {
        let zeros = vec![0; 2 << 20];
        for (name, encode) in ENCODERS {
            let decoded = decode(name.as_bytes(), &encode(&zeros), 1000);
            assert_eq!(decoded, Decoded { bytes: vec![0; 1000], outcome: Outcome::Cut }, "{name}");
        }
        let twice = decode(b"gzip, gzip", &gzip(&gzip(&zeros)), 1000);
        assert_eq!((twice.bytes.len(), twice.outcome), (1000, Outcome::Cut));
    }

    #[test]
    fn a_body_cut_off_gives_the_part_before_the_cut() {
        for (name, encode) in ENCODERS {
            let body = encode(&text());
            let mut most = 0;
            for length in (1..body.len()).step_by(397) {
                let decoded = decode(name.as_bytes(), &body[..length], usize::MAX);
                assert_eq!(decoded.outcome, Outcome::Short, "{name} {length}");
                assert!(text().starts_with(&decoded.bytes), "{name} {length}");
                most = most.max(decoded.bytes.len());
            }
            // zstd decodes whole blocks only, and this body is one block
            assert!(most > text().len() * 9 / 10 || name == "zstd", "{name}: {most} of {}", text().len());
        }
    }

    #[test]
    fn zstd_cut_off_gives_the_blocks_before_the_cut() {
        let content: Vec<u8> = std::iter::repeat_n(text(), 20).flatten().collect();
        let body = zstd(&content);
        let decoded = decode(b"zstd", &body[..body.len() - 1], usize::MAX);
        assert_eq!(decoded.outcome, Outcome::Short);
        assert!(content.starts_with(&decoded.bytes) && decoded.bytes.len() > content.len() - (128 << 10) - 1);
    }

    #[test]
    fn what_was_flushed_is_decoded() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"first event\n").unwrap();
        encoder.flush().unwrap();
        let sent = encoder.get_ref().clone();
        let decoded = decode(b"gzip", &sent, 1000);
        assert_eq!(decoded, Decoded { bytes: b"first event\n".to_vec(), outcome: Outcome::Short });
    }

    #[test]
    fn lists_are_undone_from_their_end() {
        let body = zstd(&gzip(b"content"));
        assert_eq!(decode(b"gzip, identity,zstd", &body, 100).bytes, b"content");
        assert_eq!(decode(b"gzip,zstd,br", &brotli(&body), 100).bytes, b"content");
        assert_eq!(decode(b"gzip, zstd", &body, 100).outcome, Outcome::Whole);
        assert_eq!(decode(b"zstd, gzip", &body, 100).outcome, Outcome::Broken);
    }

    #[test]
    fn all_members_of_a_gzip_body_are_one_content() {
        let body = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(decode(b"gzip", &body, 100), Decoded { bytes: b"one two".to_vec(), outcome: Outcome::Whole });
    }

    #[test]
    fn no_coding_leaves_the_body_as_it_is() {
        for name in ["", "identity", " , identity"] {
            let whole = decode(name.as_bytes(), b"abc", 3);
            assert_eq!(whole, Decoded { bytes: b"abc".to_vec(), outcome: Outcome::Whole }, "{name:?}");
            let cut = decode(name.as_bytes(), b"abc", 2);
            assert_eq!(cut, Decoded { bytes: b"ab".to_vec(), outcome: Outcome::Cut }, "{name:?}");
        }
    }

    #[test]
    fn unknown_codings_and_too_many_leave_the_body_as_it_is() {
        let body = gzip(b"content");
        for name in ["compress", "gzip, foo", "foo, gzip", "gzip,gzip,gzip,gzip,gzip", "gzip;q=1"] {
            let decoded = decode(name.as_bytes(), &body, 1000);
            assert_eq!(decoded, Decoded { bytes: body.clone(), outcome: Outcome::Unknown }, "{name:?}");
        }
    }

    #[test]
    fn an_empty_body_is_whole() {
        for (name, _) in ENCODERS {
            assert_eq!(decode(name.as_bytes(), b"", 10).outcome, Outcome::Whole, "{name}");
        }
    }

    #[test]
    fn what_follows_no_coding_is_broken() {
        for name in ["gzip", "deflate", "br", "zstd"] {
            assert_eq!(decode(name.as_bytes(), b"<html>plain text</html>", 100).outcome, Outcome::Broken, "{name}");
        }
        let mut body = gzip(&text());
        let checksum = body.len() - 8;
        body[checksum] ^= 1;
        assert_eq!(decode(b"gzip", &body, usize::MAX), Decoded { bytes: text(), outcome: Outcome::Broken });
    }

    #[test]
    fn windows_beyond_what_http_allows_are_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.write_all(&text()).unwrap();
        let body = encoder.finish().unwrap();
        assert_eq!(decode(b"zstd", &body, usize::MAX), Decoded { bytes: vec![], outcome: Outcome::Broken });

        // the header of a large-window brotli stream: 0x11, then 30 bits of window
        assert_eq!(decode(b"br", &[0x11, 0x1e, 0, 0, 0, 0], 100).outcome, Outcome::Broken);
    }

    /// The seeds of the fuzz target, so that what a fuzzer found stays found without one.
    #[test]
    fn fuzz_seeds_are_decoded_within_the_limit() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/seeds/coding");
        let mut whole = 0;
        for seed in std::fs::read_dir(folder).expect("the seeds are part of the source") {
            let body = std::fs::read(seed.unwrap().path()).unwrap();
            for (name, _) in ENCODERS {
                assert!(decode(name.as_bytes(), &body, 100).bytes.len() <= 100);
                whole += usize::from(decode(name.as_bytes(), &body, 1 << 20).outcome == Outcome::Whole);
            }
        }
        assert!(whole >= 4, "{whole} seeds are whole bodies");
    }

    proptest! {
        #[test]
        fn any_content_survives_the_round_trip(content: Vec<u8>, coder in 0..ENCODERS.len()) {
            let (name, encode) = ENCODERS[coder];
            prop_assert_eq!(decode(name.as_bytes(), &encode(&content), usize::MAX).bytes, content);
        }

        #[test]
        fn no_bytes_panic_or_exceed_the_limit(body: Vec<u8>, name in "(gzip|deflate|br|zstd)(, (gzip|br|zstd))?", limit in 0usize..100) {
            prop_assert!(decode(name.as_bytes(), &body, limit).bytes.len() <= limit);
        }

        #[test]
        fn no_damage_panics(at: proptest::sample::Index, byte: u8, coder in 0..ENCODERS.len()) {
            let (name, encode) = ENCODERS[coder];
            let mut body = encode(b"some content, some content, and more of the content");
            *at.get_mut(&mut body) = byte;
            decode(name.as_bytes(), &body, 1000);
        }
    }
}
