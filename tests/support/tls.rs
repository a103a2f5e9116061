//! TLS for the tests: an authority of their own, its certificates, and what servers say of a connection's TLS.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::captured::Transaction;
use super::{Scratch, script};

/// The name that the certificates are for, beside 127.0.0.1 and `localhost`.
pub const NAME: &str = "example.test";

/// What signs a certificate's handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Rsa,
    Ecdsa,
}

/// An authority that nobody knows, with a certificate of each kind of key. Made by the `openssl` command.
pub struct Authority(Scratch);

impl Authority {
    pub fn new() -> Authority {
        let authority = Authority(Scratch::new("authority"));
        // Debian's own configuration would add extensions once more.
        let names = authority.0.file("names.cnf", "[req]\ndistinguished_name = name\n[name]\n");
        let request = |key: &[&str], name: &str, more: &[&str]| {
            let mut command = Command::new("openssl");
            command.current_dir(authority.path()).args(["req", "-x509", "-nodes", "-days", "30", "-config"]);
            command.arg(&names).args(key).args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]);
            let output = command.args(more).output().expect("openssl is installed");
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let ecdsa = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
        let is_authority = ["-subj", "/CN=authority of a test", "-addext", "basicConstraints=critical,CA:TRUE"];
        request(&ecdsa, "ca", &is_authority);
        let subject = format!("/CN={NAME}");
        let names = format!("subjectAltName=DNS:{NAME},DNS:localhost,IP:127.0.0.1");
        let of_server = ["-CA", "ca.crt", "-CAkey", "ca.key", "-subj", &subject, "-addext", &names];
        request(&["-newkey", "rsa:2048"], "rsa", &of_server);
        request(&ecdsa, "ecdsa", &of_server);
        for name in ["rsa", "ecdsa"] {
            let read = |kind: &str| std::fs::read_to_string(authority.path().join(format!("{name}.{kind}")));
            let both = [read("crt"), read("key")].map(|text| text.expect("openssl has just written it")).concat();
            authority.0.file(&format!("{name}.pem"), &both);
        }
        authority
    }

    /// For what else belongs to it, such as sessions and key logs.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.path().join("ca.crt")
    }

    /// A server's certificate with its key behind it.
    pub fn pem(&self, key: Key) -> PathBuf {
        self.path().join(match key {
            Key::Rsa => "rsa.pem",
            Key::Ecdsa => "ecdsa.pem",
        })
    }
}

/// One way of speaking TLS, by the words of HAProxy's `bind` and `server` lines.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub key: Key,
    pub options: &'static str,
    /// As OpenSSL names them.
    pub version: &'static str,
    pub cipher: &'static str,
    /// As IANA names the cipher.
    pub suite: &'static str,
    /// HTTP/2 forbids its cipher (RFC 9113 appendix A).
    pub only_http1: bool,
}

macro_rules! tls12 {
    ($key:ident, $cipher:literal, $suite:literal, $only_http1:literal) => {
        Form {
            key: Key::$key,
            options: concat!("ssl-max-ver TLSv1.2 ciphers ", $cipher),
            version: "TLSv1.2",
            cipher: $cipher,
            suite: $suite,
            only_http1: $only_http1,
        }
    };
}

macro_rules! tls13 {
    ($key:ident, $suite:literal) => {
        Form {
            key: Key::$key,
            options: concat!("ssl-min-ver TLSv1.3 ciphersuites ", $suite),
            version: "TLSv1.3",
            cipher: $suite,
            suite: $suite,
            only_http1: false,
        }
    };
}

pub const FORMS: [Form; 9] = [
    tls13!(Rsa, "TLS_AES_256_GCM_SHA384"),
    tls13!(Ecdsa, "TLS_AES_128_GCM_SHA256"),
    tls13!(Ecdsa, "TLS_CHACHA20_POLY1305_SHA256"),
    tls12!(Rsa, "ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", false),
    tls12!(Ecdsa, "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", false),
    tls12!(Rsa, "ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", false),
    tls12!(Rsa, "ECDHE-RSA-AES128-SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", true),
    tls12!(Ecdsa, "ECDHE-ECDSA-AES256-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384", true),
    // The client chooses the secret and the server's key opens it: no key is exchanged.
    tls12!(Rsa, "AES128-SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA256", true),
];

/// What a server says of the connection that a request came on, in a header of its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    pub version: String,
    pub cipher: String,
    pub resumed: bool,
    pub alpn: Option<String>,
    pub sni: Option<String>,
}

/// HAProxy's line that adds them, and the header they are in.
pub const FRONT_WORDS: &str = "    http-response set-header X-Front-Tls \
     \"%[ssl_fc_protocol]|%[ssl_fc_cipher]|%[ssl_fc_is_resumed]|%[ssl_fc_alpn]|%[ssl_fc_sni]\"\n";
pub const FRONT_HEADER: &str = "x-front-tls";
/// nginx has them in its configuration.
pub const SERVER_HEADER: &str = "x-server-tls";

impl Words {
    pub fn read(transaction: &Transaction, header: &str) -> Option<Words> {
        let parts: Vec<&str> = transaction.header("response", header)?.split('|').collect();
        let [version, cipher, resumed, alpn, sni] = parts[..] else { return None };
        let known = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Some(Words {
            version: version.to_owned(),
            cipher: cipher.to_owned(),
            resumed: matches!(resumed, "1" | "r"),
            alpn: known(alpn),
            sni: known(sni),
        })
    }

    /// What is wrong with the record's `tls`, if these words are true.
    pub fn wrong(&self, transaction: &Transaction) -> Option<String> {
        let Some(tls) = transaction.0.get("tls") else { return Some("no tls".to_owned()) };
        let is = |key: &str, expected: Option<&str>| tls.get(key).and_then(|value| value.as_str()) == expected;
        let form = FORMS.iter().find(|form| form.cipher == self.cipher);
        let protocol = if self.alpn.as_deref() == Some("h2") { "http2" } else { "http1" };
        let is_right = is("version", Some(short_version(&self.version)))
            && form.is_none_or(|form| is("cipher", Some(form.suite)))
            && is("alpn", self.alpn.as_deref())
            && is("sni", self.sni.as_deref())
            && tls.get("uncovered").is_none()
            && transaction.0.pointer("/request/protocol").is_some_and(|name| name == protocol);
        (!is_right).then(|| format!("tls is not that of {self:?}"))
    }
}

/// `TLSv1.3` as records have it.
pub fn short_version(openssl: &str) -> &str {
    openssl.strip_prefix("TLSv").unwrap_or(openssl)
}

/// Builds the client and server in Go. `flags`: the linker's.
pub fn build_go(exe: &Path, flags: &str) {
    let mut build = Command::new("go");
    build.env("GO111MODULE", "off").env("GOCACHE", std::env::temp_dir().join("sidetap-go-cache"));
    build.args(["build", "-ldflags", flags, "-o"]).arg(exe).arg(script("tls/main.go"));
    let output = build.output().expect("go is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
