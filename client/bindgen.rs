// SPDX-License-Identifier: GPL-2.0-only

//! For build scripts: makes Rust of C headers.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::process::exit;

/// Makes the file `out` in `$OUT_DIR` of the items of a header that have such
/// names, for cargo's target.
pub fn bindgen(header: &str, out: &str, items: &str, options: &[&str]) {
    println!("cargo::rerun-if-changed={header}");
    println!("cargo::rerun-if-env-changed=BINDGEN");

    // The command instead of the crate: the kernel's build needs it anyway,
    // and the crate would pull in a tenfold of what is compiled here.
    let bindgen = env::var("BINDGEN").unwrap_or_else(|_| "bindgen".into());
    // Sizes of types stand in the numbers. What rustc calls a target clang knows.
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join(out);
    let result = Command::new(&bindgen)
        .arg(header)
        .args(["--allowlist-item", items])
        .args([
            "--rust-target",
            "1.82",
            "--use-core",
            "--with-derive-default",
        ])
        .args(options)
        .arg("--output")
        .arg(&out)
        .args(["--", &format!("--target={target}")])
        .output();
    match result {
        Err(e) => fail(&format!(
            "cannot run `{bindgen}`: {e}. Install Debian's package `bindgen`, or name the program in $BINDGEN"
        )),
        Ok(o) if !o.status.success() => fail(&format!(
            "`{bindgen}` could not read {header}:\n{}",
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
