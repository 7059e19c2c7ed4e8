// SPDX-License-Identifier: GPL-2.0-only

//! Makes `$OUT_DIR/kernel.rs` from headers of the kernel that `libc` lacks.

#[path = "../client/bindgen.rs"]
mod bindgen;

fn main() {
    bindgen::bindgen(
        "src/kernel.h",
        "kernel.rs",
        "KERNEL_.*|(FOPEN|FUSE|IORING|KCOV|LOOP|UFFD|PAGE_IS|PM_SCAN)_.*|(fuse|io_uring|uffdio|pm_scan|page_region).*",
        &["--no-prepend-enum-name"],
    );
}
