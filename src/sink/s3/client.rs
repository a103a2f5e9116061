//! The way to a bucket: where it is, who asks, and what a refusal means.

use std::error::Error;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{Certificate, ClientConfigKey, ClientOptions, RetryConfig};

use super::profile;
use crate::config::S3Store;

/// How long it may take to be connected.
const CONNECT: Duration = Duration::from_secs(5);

/// Where credentials come from if the store has none: the environment, by the names that Amazon gives them. These lead
/// to keys, a token of a web identity (EKS), or an agent that lends keys (ECS, EKS). Without any, the machine's own role
/// is asked for.
const ENVIRONMENT: [&str; 11] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
];

/// Prepares everything; nothing is sent yet. `timeout`: for a whole request.
pub(super) fn connect(store: &S3Store, timeout: Duration) -> Result<AmazonS3> {
    // The client takes the process's provider of cryptography. It is no error that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut options = ClientOptions::new()
        .with_allow_http(store.insecure)
        .with_connect_timeout(CONNECT)
        .with_timeout(timeout)
        // Its way to shuffle addresses asks the C library, which a static binary must not.
        .with_config(ClientConfigKey::RandomizeAddresses, "false");
    if let Some(path) = &store.ca_file {
        let what = || format!("cannot read the certificates in {}", path.display());
        let pem = fs::read(path).with_context(what)?;
        for certificate in Certificate::from_pem_bundle(&pem).with_context(what)? {
            options = options.with_root_certificate(certificate);
        }
    }
    let builder = AmazonS3Builder::new()
        .with_bucket_name(&store.bucket)
        .with_region(&store.region)
        .with_endpoint(endpoint(store))
        .with_virtual_hosted_style_request(!store.path_style)
        .with_client_options(options)
        // What is tried again, and when, is up to the sender.
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
    let builder = credentials(builder, store, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    builder.build().with_context(|| match store.insecure {
        true => "no connection can be prepared".to_owned(),
        false => {
            "no connection can be prepared (https needs certificates, in /etc/ssl/certs or in `ca_file`)".to_owned()
        }
    })
}

/// The URL that keys are added to, or, in path style, bucket and key.
fn endpoint(store: &S3Store) -> String {
    let scheme = if store.insecure { "http" } else { "https" };
    let host = match store.endpoint.as_str() {
        // Each region has its own; the one without a region answers with redirects.
        "s3.amazonaws.com" => format!("s3.{}.amazonaws.com", store.region),
        other => other.to_owned(),
    };
    match store.path_style {
        true => format!("{scheme}://{host}"),
        false => format!("{scheme}://{}.{host}", store.bucket),
    }
}

fn credentials(
    mut builder: AmazonS3Builder,
    store: &S3Store,
    environment: &dyn Fn(&str) -> Option<String>,
) -> AmazonS3Builder {
    if let Some((access, secret)) = &store.keys {
        let builder = builder.with_access_key_id(access.reveal()).with_secret_access_key(secret.reveal());
        return match &store.session_token {
            Some(token) => builder.with_token(token.reveal()),
            None => builder,
        };
    }
    for name in ENVIRONMENT {
        if let Some(value) = environment(name)
            && let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()
        {
            builder = builder.with_config(key, value);
        }
    }
    if environment("AWS_ACCESS_KEY_ID").or(environment("AWS_WEB_IDENTITY_TOKEN_FILE")).is_some() {
        return builder;
    }
    match profile::keys(environment) {
        Some(keys) => {
            let builder = builder.with_access_key_id(keys.access).with_secret_access_key(keys.secret);
            keys.token.into_iter().fold(builder, AmazonS3Builder::with_token)
        }
        None => builder,
    }
}

/// Why an object was not taken, as far as it makes a difference for who has to do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The credentials are wrong, or may not do this.
    Refused,
    /// There are none.
    NoCredentials,
    NoBucket,
    /// It is there, and does not take it now.
    Busy,
    /// It does not answer, or not as it should.
    Unreachable,
}

impl Trouble {
    /// What it is, and what the server or the system said, in a line. No secret is in it.
    pub(super) fn of(error: &object_store::Error, store: &S3Store) -> (Trouble, String) {
        let mut deepest: &dyn Error = error;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        let (all, said) = (error.to_string(), said(&deepest.to_string()));
        let trouble = match error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Trouble::Refused
            }
            object_store::Error::NotFound { .. } => Trouble::NoBucket,
            _ if store.keys.is_none() && all.contains("169.254.") => Trouble::NoCredentials,
            _ if ["429", "500", "502", "503", "504"].iter().any(|code| said.starts_with(code)) => Trouble::Busy,
            _ => Trouble::Unreachable,
        };
        (trouble, said)
    }
}

/// `503 Service Unavailable: SlowDown, Reduce your request rate` out of what the client makes of an answer.
fn said(text: &str) -> String {
    let text = text.split_once("status code: ").map_or(text, |(_, answer)| answer);
    let between = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        rest.split_once("</").map(|(inner, _)| inner.trim())
    };
    let status = text.split(": ").next().unwrap_or_default();
    let said = match (between("Code"), between("Message")) {
        (Some(code), Some(message)) => format!("{status}: {code}, {message}"),
        (Some(code), None) => format!("{status}: {code}"),
        _ => text.to_owned(),
    };
    said.chars().filter(|c| !c.is_control()).take(200).collect::<String>().trim_end_matches([' ', ':']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;

    #[test]
    fn where_a_bucket_is() {
        let mut store = store("s3.amazonaws.com");
        (store.insecure, store.path_style, store.region) = (false, false, "eu-central-1".into());
        assert_eq!(endpoint(&store), "https://bucket.s3.eu-central-1.amazonaws.com");
        store.path_style = true;
        assert_eq!(endpoint(&store), "https://s3.eu-central-1.amazonaws.com");
        (store.endpoint, store.insecure) = ("minio:9000".into(), true);
        assert_eq!(endpoint(&store), "http://minio:9000");
        store.path_style = false;
        assert_eq!(endpoint(&store), "http://bucket.minio:9000");
    }

    #[test]
    fn what_a_server_said() {
        assert_eq!(
            said(
                "Server returned non-2xx status code: 503 Service Unavailable: <Error>\n<Code>SlowDown</Code><Message>Less</Message></Error>"
            ),
            "503 Service Unavailable: SlowDown, Less"
        );
        assert_eq!(said("Server returned non-2xx status code: 403 Forbidden: "), "403 Forbidden");
        assert_eq!(said("Connection refused (os error 111)"), "Connection refused (os error 111)");
    }

    #[test]
    fn credentials_come_from_the_environment() {
        let mut store = store("minio:9000");
        let value = |builder: &AmazonS3Builder, key| builder.get_config_value(&key);
        let given = credentials(AmazonS3Builder::new(), &store, &|name| Some(format!("env {name}")));
        assert_eq!(value(&given, AmazonS3ConfigKey::AccessKeyId).as_deref(), Some("access"));
        store.keys = None;
        let found = credentials(AmazonS3Builder::new(), &store, &|name| Some(format!("env {name}")));
        assert_eq!(value(&found, AmazonS3ConfigKey::SecretAccessKey).as_deref(), Some("env AWS_SECRET_ACCESS_KEY"));
        assert_eq!(value(&found, AmazonS3ConfigKey::Token).as_deref(), Some("env AWS_SESSION_TOKEN"));
        assert_eq!(
            value(&found, AmazonS3ConfigKey::WebIdentityTokenFile).as_deref(),
            Some("env AWS_WEB_IDENTITY_TOKEN_FILE")
        );
        let none = credentials(AmazonS3Builder::new(), &store, &|_| None);
        assert_eq!(value(&none, AmazonS3ConfigKey::AccessKeyId), None);
    }
}
