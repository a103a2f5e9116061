//! HAProxys of other releases of Debian, for the OpenSSL that each was built with: TLS on both sides, in every form, each
//! request once, whole, in the clear, on its own connection.

mod support;

use std::collections::BTreeMap;

use support::forms::all_forms;
use support::haproxy::Root;
use support::on_each_path;
use support::sidetap::CapturePath;

on_each_path!(openssl_1_1, openssl_3_5);

fn openssl_1_1(path: CapturePath) {
    on_both_sides(path, "bullseye", "1.1.1", "openssl-1.1");
}

fn openssl_3_5(path: CapturePath) {
    on_both_sides(path, "trixie", "3.5", "openssl");
}

/// `library`: what records call that version.
fn on_both_sides(path: CapturePath, release: &str, version: &str, library: &str) {
    let Some(root) = Root::of_release(release) else { return };
    let said = root.version();
    let runs_on = format!("Running on OpenSSL version : OpenSSL {version}");
    assert!(said.contains(&runs_on), "no {runs_on:?} in what Debian {release}'s HAProxy says: {said}");
    let mut libraries = BTreeMap::<String, usize>::new();
    all_forms(&root, path, (true, true), "", |transaction| {
        *libraries.entry(transaction.0["tls"]["library"].to_string()).or_default() += 1;
    });
    let known: Vec<&String> = libraries.keys().collect();
    assert_eq!(known, [&format!("{library:?}")], "{libraries:?}");
}
