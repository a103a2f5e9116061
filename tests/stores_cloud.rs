//! What a store is to find out by itself: credentials that are lent, and certificates of one's own. Needs no root.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::program::{Program, listens};
use support::sidetap::binary;
use support::tls::{Authority, Key};
use support::{PYTHON, Scratch, free_port};

const LIMIT: Duration = Duration::from_secs(60);

/// A bucket, the metadata of an instance, the security token service and a collector.
struct Cloud {
    folder: Scratch,
    authority: Authority,
    port: u16,
    tls_port: u16,
    program: Program,
}

impl Cloud {
    fn start() -> Cloud {
        let (folder, authority) = (Scratch::new("cloud"), Authority::new());
        let (port, tls_port) = (free_port(), free_port());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/stores/cloud.py");
        let mut command = Command::new(PYTHON);
        command.args([script, &port.to_string(), &tls_port.to_string()]).arg(authority.pem(Key::Ecdsa));
        let mut program = Program::start("cloud", &mut command, folder.path());
        program.wait_ready("servers", LIMIT, |_| listens(port) && listens(tls_port));
        Cloud { folder, authority, port, tls_port, program }
    }

    /// A configuration with this store alone.
    fn config(&self, store: &str) -> PathBuf {
        let text = format!(
            "version: 2
services: {{object_stores: [{{{store}, spool: {{path: {}/spool}}}}]}}
stacks: {{all: {{plugins: [{{type: http_capture, config: {{level: full, format: json}}}}]}}}}
tap: {{http: {{stack: all}}}}
",
            self.folder.path().display()
        );
        self.folder.file("sidetap.yaml", &text)
    }

    fn bucket(&self) -> String {
        let ca = self.authority.ca();
        format!(
            "type: s3, bucket: bucket, endpoint: '127.0.0.1:{}', insecure: true, ca_file: {}",
            self.port,
            ca.display()
        )
    }

    fn replay(&self, config: &Path, environment: &[(&str, &str)]) -> Program {
        let mut command = Command::new(binary());
        let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/recordings/failing.rec");
        command.args(["replay", recording, "--config"]).arg(config);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        // Where there may be a profile.
        command.env("HOME", self.folder.path()).envs(environment.iter().copied());
        Program::start("sidetap", &mut command, self.folder.path())
    }

    /// What the requests to these paths said.
    fn asked(&self, path: &str) -> Vec<Value> {
        let all = self.program.stdout();
        let requests = all.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        requests.filter(|request| request["path"].as_str().is_some_and(|found| found.starts_with(path))).collect()
    }

    /// The objects were put by whoever has these lent credentials.
    fn assert_put_with(&self, key: &str, session: &str) {
        let objects = self.asked("/bucket/");
        assert!(!objects.is_empty(), "nothing was put{}", self.program.tail());
        for object in objects {
            let signed = object["headers"]["authorization"].as_str().expect("it is signed");
            assert!(signed.contains(&format!("Credential={key}/")), "{signed}");
            assert_eq!(object["headers"]["x-amz-security-token"], session);
        }
    }
}

#[test]
fn a_web_identity_lends_credentials() {
    let cloud = Cloud::start();
    let token = cloud.folder.file("token", "a-web-identity");
    let sts = format!("https://127.0.0.1:{}", cloud.tls_port);
    let environment = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().expect("a plain path")),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/writer"),
        ("AWS_ENDPOINT_URL_STS", sts.as_str()),
    ];
    let mut agent = cloud.replay(&cloud.config(&cloud.bucket()), &environment);
    assert!(agent.wait_exit(LIMIT).success(), "{}", agent.stderr());
    cloud.assert_put_with("LENT-BY-STS", "session-of-sts");
    let asked = cloud.asked("/").into_iter().find(|request| request["query"]["Action"].is_string());
    assert_eq!(asked.expect("the service was asked")["query"]["RoleArn"], "arn:aws:iam::123456789012:role/writer");
    assert!(!agent.stderr().contains("a-web-identity"), "{}", agent.stderr());
}

#[test]
fn an_instances_role_lends_credentials() {
    let cloud = Cloud::start();
    let metadata = format!("http://127.0.0.1:{}", cloud.port);
    let mut agent = cloud.replay(&cloud.config(&cloud.bucket()), &[("AWS_METADATA_ENDPOINT", metadata.as_str())]);
    assert!(agent.wait_exit(LIMIT).success(), "{}", agent.stderr());
    cloud.assert_put_with("LENT-BY-INSTANCE", "session-of-instance");
}

#[test]
fn a_collector_with_a_certificate_of_ones_own_is_trusted_where_that_is_named() {
    let cloud = Cloud::start();
    let store = |more: &str| {
        let port = cloud.tls_port;
        cloud.config(&format!("type: otel, protocol: http, endpoint: '127.0.0.1:{port}', tls: {{enabled: true{more}}}"))
    };
    let mut distrusting = cloud.replay(&store(""), &[]);
    distrusting.wait_ready("complaint", LIMIT, |agent| agent.stderr().contains("what is captured waits in the spool"));
    assert!(distrusting.stderr().contains("certificate"), "{}", distrusting.stderr());
    drop(distrusting);
    assert_eq!(cloud.asked("/v1/logs").len(), 0);

    let ca = format!(", ca_file: {}", cloud.authority.ca().display());
    let mut agent = cloud.replay(&store(&ca), &[]);
    assert!(agent.wait_exit(LIMIT).success(), "{}", agent.stderr());
    assert!(!cloud.asked("/v1/logs").is_empty(), "{}", agent.stderr());
}
