//! Compiles `bpf/sidetap.bpf.c` and generates its Rust skeleton.

use std::path::PathBuf;
use std::{env, ffi::OsStr};

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "bpf/sidetap.bpf.c";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("sidetap.skel.rs");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let vmlinux = format!("vmlinux/{arch}");

    SkeletonBuilder::new()
        .source(SOURCE)
        .clang_args([OsStr::new("-I"), OsStr::new(&vmlinux), OsStr::new("-Wall"), OsStr::new("-Werror")])
        .build_and_generate(&out)
        .unwrap_or_else(|error| panic!("cannot compile {SOURCE} (is clang installed?): {error:#}"));

    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-changed={vmlinux}");
}
