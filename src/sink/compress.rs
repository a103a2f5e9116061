//! Compression of what is put away: one way for files and batches.

use std::io::{self, Read, Write};

use flate2::write::GzEncoder;

use crate::config::Compression;

/// Zstandard's own default: about as fast as a disk, and smaller than what gzip makes of it.
const ZSTD_LEVEL: i32 = 3;

impl Compression {
    /// What the names of files end in, by which readers know how to read them.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Compression::Zstd => ".zst",
            Compression::Gzip => ".gz",
            Compression::None => "",
        }
    }

    /// Copies everything, compressed.
    pub(super) fn copy(self, mut from: impl Read, mut to: impl Write) -> io::Result<()> {
        match self {
            Compression::Zstd => zstd::stream::copy_encode(from, to, ZSTD_LEVEL),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(to, flate2::Compression::default());
                io::copy(&mut from, &mut encoder)?;
                encoder.finish().map(drop)
            }
            Compression::None => io::copy(&mut from, &mut to).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_can_be_read() {
        let text = "one line\n".repeat(10_000);
        for compression in [Compression::Zstd, Compression::Gzip, Compression::None] {
            let mut packed = Vec::new();
            compression.copy(text.as_bytes(), &mut packed).unwrap();
            let mut read = String::new();
            match compression {
                Compression::Zstd => read = String::from_utf8(zstd::decode_all(&packed[..]).unwrap()).unwrap(),
                Compression::Gzip => {
                    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut read).map(drop).unwrap();
                }
                Compression::None => read = String::from_utf8(packed.clone()).unwrap(),
            }
            assert!(read == text, "{compression:?}");
            assert_eq!(packed.len() < text.len() / 10, compression != Compression::None);
        }
    }
}
