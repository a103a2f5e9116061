//! What objects are called, and where they are found.

use crate::config::S3Store;
use crate::machine;
use crate::sink::encode::rfc3339;

/// The name of a batch: by day, hour and host, as Athena, DuckDB and ClickHouse read it. `id`: the segment's, µs since the
/// epoch.
pub(super) fn batch_key(store: &S3Store, host: &str, id: u64, suffix: &str) -> String {
    let time = rfc3339(id * 1000);
    let (date, hour) = (&time[..10], &time[11..13]);
    let stamp = time.replace(['-', ':'], "");
    format!("{}dt={date}/hour={hour}/host={host}/{stamp}.ndjson{suffix}", store.prefix)
}

/// The name of an object of one transaction.
pub(super) fn object_key(store: &S3Store, template: &str, host: &str, id: u64, digest: &str) -> String {
    let time = rfc3339(id * 1000);
    let key = template
        .replace("{{DIGEST}}", digest)
        .replace("{{DATE}}", &time[..10])
        .replace("{{HOUR}}", &time[11..13])
        .replace("{{HOST}}", host);
    format!("{}{}", store.prefix, key)
}

/// Where an object is found, if the store says how.
pub(super) fn url(store: &S3Store, key: &str, digest: &str) -> Option<String> {
    let url = store.access_url.as_ref()?;
    let scheme = if store.insecure { "http" } else { "https" };
    let url = url
        .replace("{{SCHEME}}", scheme)
        .replace("{{ENDPOINT}}", &store.endpoint)
        .replace("{{BUCKET}}", &store.bucket)
        .replace("{{KEY}}", key)
        .replace("{{DIGEST}}", digest);
    Some(url)
}

/// This machine's name, of characters that no key and no reader stumbles over.
pub(super) fn host() -> String {
    plain(&machine::name())
}

fn plain(name: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let name: String = name.chars().map(fits).collect();
    if name.trim_matches('.').is_empty() { "unknown".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;

    /// 2026-03-01 12:00:00.123456 UTC
    const ID: u64 = 1_772_366_400_123_456;

    #[test]
    fn keys_and_urls() {
        let mut store = store("127.0.0.1:1");
        assert_eq!(
            batch_key(&store, "web-1", ID, ".zst"),
            "dt=2026-03-01/hour=12/host=web-1/20260301T120000.123456000Z.ndjson.zst"
        );
        store.prefix = "a/b/".into();
        assert_eq!(
            object_key(&store, "{{DATE}}/{{HOUR}}-{{HOST}}/{{DIGEST}}", "h", ID, "abc"),
            "a/b/2026-03-01/12-h/abc"
        );
        assert_eq!(url(&store, "a/b/abc", "abc"), None);
        store.access_url = Some("{{SCHEME}}://{{ENDPOINT}}/{{BUCKET}}/{{KEY}}?{{DIGEST}}".into());
        assert_eq!(url(&store, "a/b/abc", "abc").as_deref(), Some("http://127.0.0.1:1/bucket/a/b/abc?abc"));
    }

    #[test]
    fn a_host_is_a_part_of_a_name() {
        assert_eq!(plain("web-1.example"), "web-1.example");
        assert_eq!(plain("a/b c=ü"), "a_b_c__");
        assert_eq!((plain(""), plain("..")), ("unknown".into(), "unknown".into()));
    }
}
