//! Python with packages from its index, installed once into a folder of Cargo's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::PYTHON;

/// The Python of a folder with packages, made by the first test that needs it. `venv`: how the folder is made beside what is
/// usual; `packages`: what pip is to install, and how.
///
/// # Errors
/// What the installation says where it fails: the index may be out of reach.
pub fn with_packages(name: &str, venv: &[&str], packages: &[&str]) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-python"));
    let lock = fs::File::create(folder.with_extension("lock")).expect("Cargo's folder is ours");
    lock.lock().expect("the other test ends");
    let (done, python) = (folder.join("complete"), folder.join("bin/python"));
    if done.exists() {
        return Ok(python);
    }
    let place = folder.to_str().expect("a plain path");
    run(Path::new(PYTHON), &[&["-m", "venv", "--clear", place], venv].concat())?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(&python, &[&pip[..], packages].concat())?;
    fs::write(done, "").expect("Cargo's folder is ours");
    Ok(python)
}

fn run(program: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
