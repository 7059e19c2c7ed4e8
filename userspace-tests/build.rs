// SPDX-License-Identifier: GPL-2.0-only

//! Makes `$OUT_DIR/abi.rs` from the header that users include, so that the
//! tests and the driver speak of the same numbers, and `$OUT_DIR/kernel.rs`
//! from those of the kernel.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::process::exit;

/// What bindgen reads, the same as for the driver; it includes the header below.
const WRAPPER: &str = "../driver/include/abi_numbers.h";
/// The one source of the ABI.
const HEADER: &str = "../driver/include/ashmem.h";
/// Names the headers of the kernel.
const KERNEL: &str = "src/kernel.h";

fn main() {
    for file in [WRAPPER, HEADER, KERNEL] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=BINDGEN");

    bindgen(WRAPPER, "abi.rs", "ASHMEM_.*|ABI_.*|ashmem_.*");
    bindgen(
        KERNEL,
        "kernel.rs",
        "KERNEL_.*|(FOPEN|FUSE|IORING|LOOP|UFFD|PAGE_IS|PM_SCAN)_.*|(fuse|io_uring|uffdio|pm_scan|page_region).*",
    );
}

/// Makes a file in `$OUT_DIR` of the items of a header that have such names.
fn bindgen(header: &str, out: &str, items: &str) {
    // The command instead of the crate: the kernel's build needs it anyway,
    // and the crate would pull in a tenfold of what is compiled here.
    let bindgen = env::var("BINDGEN").unwrap_or_else(|_| "bindgen".into());
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join(out);
    let result = Command::new(&bindgen)
        .arg(header)
        .args(["--allowlist-item", items])
        .args([
            "--rust-target",
            "1.82",
            "--use-core",
            "--with-derive-default",
            "--no-prepend-enum-name",
            // The header is read as for 64 bits. That all of it is the same
            // for 32 but for the alignment of 64-bit integers, which these
            // checks would find, is what the kernel's ABI is made for.
            "--no-layout-tests",
        ])
        .arg("--output")
        .arg(&out)
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
