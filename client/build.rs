// SPDX-License-Identifier: GPL-2.0-only

//! Makes `$OUT_DIR/abi.rs` from the header that users include, so that the
//! tests and the driver speak of the same numbers.

mod bindgen;

fn main() {
    println!("cargo::rerun-if-changed=../driver/include/ashmem.h");
    // The same as for the driver; it includes the header above.
    bindgen::bindgen(
        "../driver/include/abi_numbers.h",
        "abi.rs",
        "ASHMEM_.*|ABI_.*|ashmem_.*",
        &[],
    );
}
