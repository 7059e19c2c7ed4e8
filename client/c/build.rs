// SPDX-License-Identifier: GPL-2.0-only

//! Gives the shared library its name; the number changes when a program that
//! was linked with an older one could not run with it any more.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libashmem.so.1");
}
