//! Recordings of real runs of HAProxy, replayed: what comes out is what came out before, to the byte.
//!
//! Made by scripts/gen-recordings. After a change that is meant to change the output, `INSTA_UPDATE=always cargo test --test
//! replay` writes the new one to tests/snapshots, to be read before it is committed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn replay(recording: &Path) -> String {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/replay.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidetap"));
    let output = command.arg("replay").arg(recording).args(["--config", config]).output().expect("it was built");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {log}", recording.display());
    String::from_utf8(output.stdout).expect("JSON is text")
}

#[test]
fn recordings_give_what_they_gave_before() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/recordings");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).expect("it is there").map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let name = file.file_stem().expect("it has a name").to_string_lossy().into_owned();
        insta::assert_snapshot!(name, replay(&file));
    }
}
