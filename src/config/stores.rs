//! `services`: where captured data goes.

use std::time::Duration;

use super::reader::{Item, Section};
use super::settings::{
    Batch, Compression, FileStore, OtelProtocol, OtelStore, Rotate, S3Mode, S3Store, Secret, SpoolFolder, Store,
};

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Stdout,
    File,
    S3,
    Otel,
    Disabled,
}

pub fn event_stores(services: &Section, env: Environment) -> Vec<Store> {
    let types = [("stdout", Type::Stdout), ("file", Type::File), ("otel", Type::Otel), ("disabled", Type::Disabled)];
    stores(services.list("event_stores"), &types, env)
}

pub fn object_stores(services: &Section, env: Environment) -> Vec<Store> {
    let types = [
        ("stdout", Type::Stdout),
        ("file", Type::File),
        ("s3", Type::S3),
        ("otel", Type::Otel),
        ("disabled", Type::Disabled),
    ];
    stores(services.list("object_stores"), &types, env)
}

fn stores(items: Vec<Item>, types: &[(&str, Type)], env: Environment) -> Vec<Store> {
    let mut stores = Vec::new();
    for item in items {
        let Some(store) = store(&item, types, env) else { continue };
        stores.push(store);
    }
    stores
}

fn store(item: &Item, types: &[(&str, Type)], env: Environment) -> Option<Store> {
    // The type decides which other keys there are, so it is read first.
    let names: Vec<&str> = types.iter().map(|(name, _)| *name).collect();
    match item.deciding("type", &names)?.choice(types)? {
        Type::Stdout => item.section(&["type"]).map(|_| Store::Stdout),
        Type::Disabled => item.section(&["type"]).map(|_| Store::Disabled),
        Type::File => file(&item.section(&["type", "path", "rotate"])?),
        Type::S3 => s3(item, env),
        Type::Otel => otel(item, env),
    }
}

const COMPRESSIONS: [(&str, Compression); 3] =
    [("zstd", Compression::Zstd), ("gzip", Compression::Gzip), ("none", Compression::None)];

fn file(section: &Section) -> Option<Store> {
    let rotate = section.section("rotate", &["max_bytes", "max_age", "keep", "compression"]).and_then(|rotate| {
        let (max_bytes, max_age) = (rotate.get("max_bytes"), rotate.get("max_age"));
        if max_bytes.is_none() && max_age.is_none() {
            rotate
                .error("\"max_bytes\" is missing; say how large a file may grow, such as 100MiB, or give \"max_age\"");
        }
        let keep = rotate.get("keep").map_or(Some(5), |keep| keep.count());
        let compression = compression(&rotate, Compression::None);
        Some(Rotate {
            max_bytes: max_bytes.and_then(|size| size.size()),
            max_age: max_age.and_then(|age| age.duration()),
            keep: keep?,
            compression: compression?,
        })
    });
    let path = section.required("path", "; name the file to write to")?.text()?.into();
    Some(Store::File(FileStore { path, rotate }))
}

fn compression(section: &Section, default: Compression) -> Option<Compression> {
    section.get("compression").map_or(Some(default), |item| item.choice(&COMPRESSIONS))
}

fn s3(item: &Item, env: Environment) -> Option<Store> {
    let section = item.section(&[
        "type",
        "endpoint",
        "region",
        "bucket",
        "access_key",
        "secret_key",
        "session_token",
        "insecure",
        "ca_file",
        "path_style",
        "access_url",
        "prefix",
        "mode",
        "key",
        "batch",
        "spool",
    ])?;
    let access_key = section.get("access_key");
    let secret_key = section.get("secret_key");
    if access_key.is_some() != secret_key.is_some() {
        let (here, lacking) = if access_key.is_some() { ("access", "secret") } else { ("secret", "access") };
        section.error(format!(
            "\"{here}_key\" is there without \"{lacking}_key\"; give both, or neither for the usual credential chain"
        ));
    }
    let keys = access_key.map(|key| secret(&key, env)).zip(secret_key.map(|key| secret(&key, env)));
    let session_token = section.get("session_token");
    if let Some(token) = session_token.as_ref().filter(|_| keys.is_none()) {
        token.error("belongs to \"access_key\" and \"secret_key\", which are missing");
    }
    let text = |key: &str| section.get(key).and_then(|item| item.text());
    let flag = |key: &str| section.get(key).and_then(|item| item.boolean());
    let endpoint = section.get("endpoint").map_or(Some("s3.amazonaws.com"), |item| endpoint(&item));
    let bucket_item = section.required("bucket", "; name the bucket to write to")?;
    let bucket = bucket_item.text()?;
    if bucket.contains('/') {
        bucket_item.error("a bucket's name has no slash; what stands before the names of objects is `prefix`");
    }
    let prefix = text("prefix").unwrap_or_default().trim_matches('/');
    let batch_section = section.section("batch", &["max_bytes", "max_age", "compression"]);
    let mode = mode(&section, batch_section.as_ref());
    let batch = batch_section.map_or(DEFAULT_BATCH, |section| batch(&section));
    let spool = spool(&section, batch.max_bytes, "`batch.max_bytes`");
    let endpoint = endpoint?.to_string();
    let store = S3Store {
        // Others than Amazon know buckets by name in their hosts only where they were set up so. A dot in a bucket's
        // name does not fit the certificate of `*.s3.amazonaws.com`.
        path_style: flag("path_style").unwrap_or(!endpoint.ends_with("amazonaws.com") || bucket.contains('.')),
        endpoint,
        region: text("region").unwrap_or("us-east-1").to_string(),
        bucket: bucket.to_string(),
        keys: keys.and_then(|(access, secret)| access.zip(secret)),
        session_token: session_token.and_then(|token| secret(&token, env)),
        insecure: flag("insecure").unwrap_or(false),
        ca_file: text("ca_file").map(Into::into),
        access_url: section.get("access_url").and_then(|item| template(&item, &ACCESS_URL)),
        prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
        mode: mode?,
        batch,
        spool,
    };
    Some(Store::S3(Box::new(store)))
}

const ACCESS_URL: [&str; 5] = ["SCHEME", "ENDPOINT", "BUCKET", "KEY", "DIGEST"];
const OBJECT_KEY: [&str; 4] = ["DIGEST", "DATE", "HOUR", "HOST"];

/// A host, with or without a port.
fn endpoint<'a>(item: &Item<'a>) -> Option<&'a str> {
    let text = item.text()?;
    if text.contains("://") {
        item.error("write the host alone, without a scheme; `insecure: true` is plain http");
        return None;
    }
    Some(text.trim_end_matches('/'))
}

fn mode(section: &Section, batch: Option<&Section>) -> Option<S3Mode> {
    let mode =
        section.get("mode").map_or(Some("batch"), |mode| mode.choice(&[("batch", "batch"), ("object", "object")]));
    let key = section.get("key");
    if mode? == "batch" {
        if let Some(key) = key {
            key.error("is for `mode: object`; in batches, `prefix` stands before the names of objects");
        }
        let compression = batch.map_or(Some(Compression::Zstd), |batch| compression(batch, Compression::Zstd));
        return compression.map(S3Mode::Batch);
    }
    if let Some(compression) = batch.and_then(|batch| batch.get("compression")) {
        compression.error("is for `mode: batch`; an object of a single transaction is not compressed");
    }
    let Some(key) = key else { return Some(S3Mode::Object("{{DIGEST}}".to_string())) };
    let template = template(&key, &OBJECT_KEY)?;
    if !template.contains("{{DIGEST}}") {
        key.error("needs a {{DIGEST}}, or all objects would have the same name");
    }
    if template.split('/').any(|part| matches!(part, "" | "." | "..")) {
        key.error("has an empty part, \".\" or \"..\" between its slashes");
    }
    Some(S3Mode::Object(template))
}

const DEFAULT_BATCH: Batch = Batch { max_bytes: 8 << 20, max_age: Duration::from_secs(10) };

fn batch(section: &Section) -> Batch {
    let max_bytes = section.get("max_bytes").and_then(|size| Some((size.size()?, size)));
    if let Some((_, size)) = max_bytes.as_ref().filter(|(bytes, _)| !(1..=LARGEST_BATCH).contains(bytes)) {
        size.error("must be between 1 byte and 1 GiB");
    }
    Batch {
        max_bytes: max_bytes.map_or(DEFAULT_BATCH.max_bytes, |(bytes, _)| bytes),
        max_age: section.get("max_age").and_then(|age| age.duration()).unwrap_or(DEFAULT_BATCH.max_age),
    }
}

/// Of a store that gathers records as it sees fit.
const LEAST_SPOOL: u64 = 1 << 20;

/// A batch is in memory while it is sent.
const LARGEST_BATCH: u64 = 1 << 30;

/// `least`: a batch's size, and what it is called.
fn spool(section: &Section, least: u64, called: &str) -> SpoolFolder {
    let default = SpoolFolder { path: None, max_bytes: 1 << 30 };
    let Some(spool) = section.section("spool", &["path", "max_bytes"]) else { return default };
    let max_bytes = spool.get("max_bytes").and_then(|size| Some((size.size()?, size)));
    if let Some((_, size)) = max_bytes.as_ref().filter(|(bytes, _)| *bytes < least) {
        size.error(format!("has no room for a batch; it must be at least {called}"));
    }
    SpoolFolder {
        path: spool.get("path").and_then(|path| path.text()).map(Into::into),
        max_bytes: max_bytes.map_or(default.max_bytes, |(bytes, _)| bytes),
    }
}

/// Every `{{…}}` in it must be one that will be filled in.
fn template(item: &Item, known: &[&str]) -> Option<String> {
    let template = item.text()?;
    for part in template.split("{{").skip(1) {
        let name = part.split("}}").next().unwrap_or_default();
        if !known.contains(&name) {
            item.error(format!("unknown \"{{{{{name}}}}}\", expected one of {{{{{}}}}}", known.join("}}, {{")));
            return None;
        }
    }
    Some(template.to_string())
}

fn otel(item: &Item, env: Environment) -> Option<Store> {
    const PROTOCOLS: [(&str, OtelProtocol); 3] =
        [("grpc", OtelProtocol::Grpc), ("http", OtelProtocol::Http), ("stdout", OtelProtocol::Stdout)];
    let section =
        item.section(&["type", "endpoint", "protocol", "service_name", "environment", "headers", "tls", "spool"])?;
    let protocol = section.get("protocol").map_or(Some(OtelProtocol::Grpc), |item| item.choice(&PROTOCOLS));
    let text = |key: &str| section.get(key).and_then(|item| item.text()).map(str::to_string);
    let headers = section.get("headers").map(|item| item.entries()).unwrap_or_default();
    let headers = headers.into_iter().filter_map(|(name, item)| Some((name.to_string(), secret(&item, env)?)));
    let headers = headers.collect();
    let tls = section.section("tls", &["enabled", "insecure_skip_verify", "ca_file"]);
    let ca_file = tls.as_ref().and_then(|tls| tls.get("ca_file")?.text()).map(Into::into);
    let flag = |key: &str| tls.as_ref().and_then(|tls| tls.get(key)?.boolean()).unwrap_or(false);
    let default_endpoint = if protocol == Some(OtelProtocol::Http) { "localhost:4318" } else { "localhost:4317" };
    Some(Store::Otel(Box::new(OtelStore {
        protocol: protocol?,
        endpoint: text("endpoint").unwrap_or(default_endpoint.to_string()),
        service_name: text("service_name").unwrap_or("sidetap".to_string()),
        environment: text("environment"),
        headers,
        tls: flag("enabled"),
        insecure_skip_verify: flag("insecure_skip_verify"),
        ca_file,
        spool: spool(&section, LEAST_SPOOL, "1MiB"),
    })))
}

/// `{type: env, value: NAME}` or `{type: text, value: LITERAL}`.
fn secret(item: &Item, env: Environment) -> Option<Secret> {
    if item.is_scalar() {
        // What stands there may be the secret itself, which no message may quote.
        item.error("expected keys with values: `type: env` or `type: text`, and `value`");
        return None;
    }
    let section = item.section(&["type", "value"])?;
    let from_environment =
        section.required("type", ", expected env or text")?.choice(&[("env", true), ("text", false)]);
    let value = section.required("value", "; give the variable's name or the text")?;
    let text = value.text()?;
    if !from_environment? {
        return Some(Secret::new(text.to_string()));
    }
    let secret = env(text).filter(|secret| !secret.is_empty());
    if secret.is_none() {
        value.error(format!("the environment variable {text} is not set"));
    }
    secret.map(Secret::new)
}
