//! The configuration file: read strictly, checked in full, turned into [`Settings`].
//!
//! Owns every key, default and message. Nothing here acts on a setting. A file that has any error gives no settings
//! at all, but all of its errors, each with line, column and path.
#![forbid(unsafe_code)]

mod errors;
mod filters;
mod guard;
mod patterns;
mod plugins;
mod reader;
mod sections;
mod settings;
mod stores;
mod yaml;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use errors::Problems;
use reader::Item;

pub use errors::{Errors, Position, Problem};
pub use filters::{ExeMatch, Filters, Group, Strategy, Tapped};
pub use patterns::{ContainerFilter, NamePatterns};
pub use settings::*;

/// Largest file, in bytes.
pub const LARGEST: usize = 1 << 20;

/// What runs without a file: `config/sidetap.yaml`, summaries of everything to stdout.
const BUILT_IN: &str = include_str!("../../config/sidetap.yaml");

/// Reads a file.
pub fn load(path: &Path) -> Result<Settings, Errors> {
    load_if(path, |_| None)
}

/// Reads a file, but not one that everyone can write: for whoever does as root what it says.
pub fn load_guarded(path: &Path) -> Result<Settings, Errors> {
    load_if(path, |file| guard::complaint(path, &file.metadata().ok()?))
}

/// `complaint`: what is wrong with the opened file itself.
fn load_if(path: &Path, complaint: impl FnOnce(&File) -> Option<String>) -> Result<Settings, Errors> {
    let name = path.display().to_string();
    if ["http://", "https://"].iter().any(|scheme| name.to_ascii_lowercase().starts_with(scheme)) {
        let hint = "is an address, and only files are read: fetch it first, such as with `curl -fsS -o FILE ADDRESS`";
        return Err(Errors::of_file(&name, hint));
    }
    let unreadable = |error: std::io::Error| Errors::of_file(&name, unreadable(&error));
    let file = File::open(path).map_err(unreadable)?;
    if let Some(complaint) = complaint(&file) {
        return Err(Errors::of_file(&name, complaint));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    parse(&name, &bytes)
}

/// Reads a file's bytes. `name` stands before each error.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Settings, Errors> {
    parse_with(name, bytes, &|variable| std::env::var(variable).ok())
}

/// As [`parse`], with the environment's variables from a function.
pub fn parse_with(name: &str, bytes: &[u8], environment: &dyn Fn(&str) -> Option<String>) -> Result<Settings, Errors> {
    let problems = Problems::default();
    let settings = read(name, bytes, environment, &problems)?;
    let problems = problems.into_vec();
    match settings {
        Some(settings) if problems.is_empty() => Ok(settings),
        _ => Err(Errors { name: name.to_string(), problems }),
    }
}

pub fn default_settings() -> Settings {
    parse_with("the built-in configuration", BUILT_IN.as_bytes(), &|_| None)
        .expect("config/sidetap.yaml is valid, which a test checks")
}

/// The settings as far as they can be read, with what is wrong in `problems`.
fn read(
    name: &str,
    bytes: &[u8],
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &Problems,
) -> Result<Option<Settings>, Errors> {
    if bytes.len() > LARGEST {
        return Err(Errors::of_file(name, "larger than 1 MiB, which no configuration is"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(name, bytes, error.valid_up_to()))?;
    let tree = yaml::read(text).map_err(|problem| Errors { name: name.to_string(), problems: vec![problem] })?;
    if tree.value == yaml::Value::Null {
        return Err(Errors::of_file(name, "the file is empty; a configuration starts with `version: 2`"));
    }
    Ok(sections::settings(&Item::root(&tree, problems), environment))
}

fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file".to_string(),
        ErrorKind::PermissionDenied => "cannot be read: permission denied".to_string(),
        ErrorKind::IsADirectory => "is a directory, not a file".to_string(),
        _ => format!("cannot be read: {error}"),
    }
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> Errors {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let position = Position {
        line: before.matches('\n').count() + 1,
        column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
    };
    let message = format!("not UTF-8 text: byte {:#04x}", bytes[valid]);
    Errors {
        name: name.to_string(),
        problems: vec![Problem { position: Some(position), path: String::new(), message }],
    }
}
