//! Any bytes as a body in any coding: no panic, no more output than asked for, and a longer limit only adds to it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidetap_fuzz::proto::coding::decode;

fuzz_target!(|body: &[u8]| {
    for coding in ["gzip", "deflate", "br", "zstd", "br, gzip"] {
        let short = decode(coding.as_bytes(), body, 100).bytes;
        let long = decode(coding.as_bytes(), body, 1 << 16).bytes;
        assert!(short.len() <= 100 && long.len() <= 1 << 16);
        assert!(long.starts_with(&short), "{coding}");
    }
});
