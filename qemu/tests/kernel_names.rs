// SPDX-License-Identifier: GPL-2.0-only

//! What the scripts make of the names that `KERNEL=` may have, with a cache in which there is nothing.

use std::path::Path;
use std::process::Command;

/// What a script says before it fails.
fn refusal(script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../scripts")
            .join(script),
    )
    .args(arguments)
    .env_remove("KERNEL")
    .env_remove("TEST")
    .env("ASHMEM_CACHE", cache.path())
    .envs(environment.iter().copied())
    .output()
    .expect("bash runs");
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn names_of_kernels_are_taken() {
    for name in [
        "stock",
        "debug",
        "stock:forky",
        "stock:sid:7.2",
        "stock:trixie-backports:7.10",
    ] {
        let said = refusal("paths", &[name], &[]);
        let hint = format!("make it with: make modules KERNEL={name}\n");
        assert!(said.ends_with(&hint), "{name}: {said}");
    }
}

#[test]
fn other_names_are_refused_with_a_list() {
    for name in [
        "",
        "Stock",
        "stock:",
        "stock:fork",
        "stock:forky sid",
        "stock:forky:",
        "stock:forky:7",
        "stock:forky:7.2:1",
        "debug:forky",
    ] {
        let said = refusal("paths", &[name], &[]);
        assert!(said.contains(&format!("KERNEL is '{name}'")), "{said}");
        for part in ["stock:SUITE:SERIES", "trixie-backports forky sid"] {
            assert!(said.contains(part), "{said}");
        }
    }
}

#[test]
fn the_matrix_has_stock_kernels_only_and_records_all_or_nothing() {
    let said = refusal("matrix", &[], &[("KERNEL", "stock debug")]);
    assert!(said.contains("KERNEL has 'debug'"), "{said}");
    let said = refusal("matrix", &[], &[("KERNEL", "stock:fork")]);
    assert!(said.contains("KERNEL is 'stock:fork'"), "{said}");
    for (name, value) in [("KERNEL", "stock"), ("TEST", "pin")] {
        let said = refusal("matrix", &[], &[("RECORD", "1"), (name, value)]);
        assert!(said.contains("leave KERNEL= and TEST= away"), "{said}");
    }
}
