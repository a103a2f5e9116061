//! From a segment to the objects that it is sent as.

use hyper::body::Bytes;
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::names;
use crate::config::{S3Mode, S3Store};
use crate::exchange::Summary;

/// An object to be put.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) key: String,
    pub(super) content: Bytes,
    pub(super) content_type: &'static str,
    /// SHA-256 of the content, in hexadecimal.
    pub(super) digest: String,
    pub(super) transactions: u64,
    /// Where it is a single one.
    pub(super) summary: Option<Summary>,
}

/// What becomes of a segment's lines. `id`: the segment's.
pub(super) fn objects(store: &S3Store, host: &str, id: u64, lines: Vec<u8>) -> Vec<Object> {
    match &store.mode {
        S3Mode::Batch(compression) => {
            let transactions = memchr::memchr_iter(b'\n', &lines).count() as u64;
            let mut packed = Vec::new();
            compression.copy(&lines[..], &mut packed).expect("memory takes everything");
            let key = names::batch_key(store, host, id, compression.suffix());
            let content_type = match compression.suffix() {
                ".zst" => "application/zstd",
                ".gz" => "application/gzip",
                _ => "application/x-ndjson",
            };
            vec![Object {
                key,
                digest: sha256(&packed),
                content: packed.into(),
                content_type,
                transactions,
                summary: None,
            }]
        }
        S3Mode::Object(template) => {
            let lines = Bytes::from(lines);
            let object = |line: &[u8]| {
                let digest = sha256(line);
                Object {
                    key: names::object_key(store, template, host, id, &digest),
                    content: lines.slice_ref(line),
                    content_type: "application/json",
                    digest,
                    transactions: 1,
                    summary: store.access_url.is_some().then(|| summary(line)),
                }
            };
            lines.split_inclusive(|&byte| byte == b'\n').map(object).collect()
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is told of a transaction beside its URL, read back from its line.
fn summary(line: &[u8]) -> Summary {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Line {
        metadata: Metadata,
        request: Request,
        response: Response,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Metadata {
        request_id: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Request {
        method: String,
        url: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Response {
        status: u16,
    }
    let line: Line = serde_json::from_slice(line).unwrap_or_default();
    Summary {
        request_id: line.metadata.request_id,
        method: line.request.method,
        url: line.request.url,
        status: line.response.status,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;
    use crate::config::Compression;

    const LINES: &[u8] = b"{\"metadata\":{\"request_id\":\"7\"},\"request\":{\"method\":\"GET\",\"url\":\"http://a/\"},\"response\":{\"status\":404}}\n{\"request\":{\"method\":\"PUT\"}}\n";

    #[test]
    fn a_batch_is_one_object_that_can_be_read() {
        let mut store = store("127.0.0.1:1");
        for (compression, content_type) in [
            (Compression::Zstd, "application/zstd"),
            (Compression::Gzip, "application/gzip"),
            (Compression::None, "application/x-ndjson"),
        ] {
            store.mode = S3Mode::Batch(compression);
            let [object] = &objects(&store, "h", 1, LINES.to_vec())[..] else { panic!("one object") };
            assert_eq!((object.content_type, object.transactions), (content_type, 2));
            assert!(object.key.ends_with(&format!(".ndjson{}", compression.suffix())));
        }
    }

    #[test]
    fn a_transaction_is_an_object_by_its_digest() {
        let mut store = store("127.0.0.1:1");
        store.mode = S3Mode::Object("{{DIGEST}}".into());
        store.access_url = Some("{{KEY}}".into());
        let [first, second] = &objects(&store, "h", 1, LINES.to_vec())[..] else { panic!("two objects") };
        assert_eq!([&first.content[..], &second.content[..]].concat(), LINES);
        assert_eq!((first.key.len(), &first.key), (64, &first.digest));
        let summary = |method: &str, url: &str, id: &str, status| Summary {
            method: method.into(),
            url: url.into(),
            request_id: id.into(),
            status,
        };
        assert_eq!(first.summary, Some(summary("GET", "http://a/", "7", 404)));
        assert_eq!(second.summary, Some(summary("PUT", "", "", 0)));
        // As `sha256sum` says.
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
