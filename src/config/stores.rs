//! `services`: where captured data goes.

use super::reader::{Item, Section};
use super::settings::{Batch, FileStore, OtelProtocol, OtelStore, Rotate, S3Store, Secret, Store};

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

pub fn event_stores(services: &Section, env: Environment, warnings: &mut Vec<String>) -> Vec<Store> {
    let types = [("stdout", Type::Stdout), ("file", Type::File), ("otel", Type::Otel), ("disabled", Type::Disabled)];
    stores(services.list("event_stores"), &types, env, warnings)
}

pub fn object_stores(services: &Section, env: Environment, warnings: &mut Vec<String>) -> Vec<Store> {
    let types = [
        ("stdout", Type::Stdout),
        ("file", Type::File),
        ("s3", Type::S3),
        ("otel", Type::Otel),
        ("disabled", Type::Disabled),
    ];
    stores(services.list("object_stores"), &types, env, warnings)
}

fn stores(items: Vec<Item>, types: &[(&str, Type)], env: Environment, warnings: &mut Vec<String>) -> Vec<Store> {
    let mut stores = Vec::new();
    for item in items {
        let Some(store) = store(&item, types, env) else { continue };
        if !store.is_available() {
            let (path, name) = (&item.path, store.name());
            warnings.push(format!("{path}: {name} is not available in this build; nothing is written to it"));
        }
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

fn file(section: &Section) -> Option<Store> {
    let rotate = section.section("rotate", &["max_bytes", "keep"]).and_then(|rotate| {
        let max_bytes = rotate.required("max_bytes", "; say how large a file may grow, such as 100MiB")?.size();
        let keep = rotate.get("keep").map_or(Some(5), |keep| keep.count());
        Some(Rotate { max_bytes: max_bytes?, keep: keep? })
    });
    let path = section.required("path", "; name the file to write to")?.text()?.into();
    Some(Store::File(FileStore { path, rotate }))
}

fn s3(item: &Item, env: Environment) -> Option<Store> {
    let section = item.section(&[
        "type",
        "endpoint",
        "region",
        "bucket",
        "access_key",
        "secret_key",
        "insecure",
        "access_url",
        "prefix",
        "batch",
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
    let batch = section.section("batch", &["max_bytes", "max_age"]).and_then(|batch| {
        let max_bytes = batch.get("max_bytes").map_or(Some(8 << 20), |size| size.size());
        let max_age = batch.get("max_age").map_or(Some(std::time::Duration::from_secs(10)), |age| age.duration());
        Some(Batch { max_bytes: max_bytes?, max_age: max_age? })
    });
    let text = |key: &str, default: &str| match section.get(key) {
        Some(item) => item.text().map(str::to_string),
        None => Some(default.to_string()),
    };
    let store = S3Store {
        endpoint: text("endpoint", "s3.amazonaws.com").unwrap_or_default(),
        region: text("region", "us-east-1").unwrap_or_default(),
        bucket: section.required("bucket", "; name the bucket to write to")?.text()?.to_string(),
        keys: keys.and_then(|(access, secret)| access.zip(secret)),
        insecure: section.get("insecure").and_then(|item| item.boolean()).unwrap_or(false),
        access_url: section.get("access_url").and_then(|item| access_url(&item)),
        prefix: text("prefix", "").unwrap_or_default(),
        batch,
    };
    Some(Store::S3(Box::new(store)))
}

/// A template: every `{{…}}` in it must be one that will be filled in.
fn access_url(item: &Item) -> Option<String> {
    const KNOWN: [&str; 4] = ["SCHEME", "ENDPOINT", "BUCKET", "DIGEST"];
    let template = item.text()?;
    for part in template.split("{{").skip(1) {
        let name = part.split("}}").next().unwrap_or_default();
        if !KNOWN.contains(&name) {
            item.error(format!("unknown \"{{{{{name}}}}}\", expected one of {{{{{}}}}}", KNOWN.join("}}, {{")));
            return None;
        }
    }
    Some(template.to_string())
}

fn otel(item: &Item, env: Environment) -> Option<Store> {
    const PROTOCOLS: [(&str, OtelProtocol); 3] =
        [("grpc", OtelProtocol::Grpc), ("http", OtelProtocol::Http), ("stdout", OtelProtocol::Stdout)];
    let section = item.section(&["type", "endpoint", "protocol", "service_name", "environment", "headers", "tls"])?;
    let protocol = section.get("protocol").map_or(Some(OtelProtocol::Grpc), |item| item.choice(&PROTOCOLS));
    let text = |key: &str| section.get(key).and_then(|item| item.text()).map(str::to_string);
    let headers = section.get("headers").map(|item| item.entries()).unwrap_or_default();
    let headers = headers.into_iter().filter_map(|(name, item)| Some((name.to_string(), secret(&item, env)?)));
    let headers = headers.collect();
    let tls = section.section("tls", &["enabled", "insecure_skip_verify"]);
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
    })))
}

/// `{type: env, value: NAME}` or `{type: text, value: LITERAL}`.
fn secret(item: &Item, env: Environment) -> Option<Secret> {
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
