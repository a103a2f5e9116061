//! Connections between two ends of OpenSSL, as scripts/gen-tls-recordings recorded them.
//!
//! Lines: `key`, a line of the key log; `client` or `server`, what that side sent, in hex; `said client` or `said
//! server`, what it said in it, in hex; `cipher`, its name.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn wire(text: &str) -> (Wire, String) {
    let (mut wire, mut cipher) = (Wire::default(), String::new());
    for line in text.lines() {
        match line.split_once(' ').expect("a word and what it says") {
            ("key", line) => wire.secrets.extend(keylog::parse(line)),
            ("client", data) => wire.chunks.push((Side::Client, hex(data))),
            ("server", data) => wire.chunks.push((Side::Server, hex(data))),
            ("cipher", name) => cipher = name.to_string(),
            ("said", said) => match said.split_once(' ').expect("a side and what it said") {
                ("client", data) => wire.client.extend(hex(data)),
                (_, data) => wire.server.extend(hex(data)),
            },
            (word, _) => panic!("no line begins with {word}"),
        }
    }
    (wire, cipher)
}

#[test]
fn what_openssl_said_is_opened() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let (wire, cipher) = wire(&std::fs::read_to_string(&path).unwrap());
        let (session, told) = read(&wire);
        assert_eq!(session.state(), State::Open, "{}", path.display());
        assert_told_all(&wire, &told);
        assert_eq!(session.info().cipher.as_deref(), Some(cipher.as_str()));
        assert_eq!(session.info().sni.as_deref(), Some("app.example"));
        count += 1;
    }
    assert!(count >= 20, "{count} recordings");
}
