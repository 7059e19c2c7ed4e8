// SPDX-License-Identifier: GPL-2.0-only

//! Makes `$OUT_DIR/abi.rs` from the header that users include, so that the
//! tests and the driver speak of the same numbers.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::process::exit;

/// What bindgen reads, the same as for the driver; it includes the header below.
const WRAPPER: &str = "../driver/include/abi_numbers.h";
/// The one source of the ABI.
const HEADER: &str = "../driver/include/ashmem.h";

fn main() {
    println!("cargo::rerun-if-changed={WRAPPER}");
    println!("cargo::rerun-if-changed={HEADER}");
    println!("cargo::rerun-if-env-changed=BINDGEN");

    // The command instead of the crate: the kernel's build needs it anyway,
    // and the crate would pull in a tenfold of what is compiled here.
    let bindgen = env::var("BINDGEN").unwrap_or_else(|_| "bindgen".into());
    // Sizes of types stand in the numbers. What rustc calls a target clang knows.
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("abi.rs");
    let result = Command::new(&bindgen)
        .arg(WRAPPER)
        .args(["--allowlist-item", "ASHMEM_.*|ABI_.*|ashmem_.*"])
        .args([
            "--rust-target",
            "1.82",
            "--use-core",
            "--with-derive-default",
        ])
        .arg("--output")
        .arg(&out)
        .args(["--", &format!("--target={target}")])
        .output();
    match result {
        Err(e) => fail(&format!(
            "cannot run `{bindgen}`: {e}. Install Debian's package `bindgen`, or name the program in $BINDGEN"
        )),
        Ok(o) if !o.status.success() => fail(&format!(
            "`{bindgen}` could not read {WRAPPER} and {HEADER}:\n{}",
            String::from_utf8_lossy(&o.stderr)
        )),
        Ok(_) => {}
    }
}

/// Ends the build with a sentence instead of a backtrace.
fn fail(why: &str) -> ! {
    for line in why.lines() {
        println!("cargo::error={line}");
    }
    exit(1);
}
