// SPDX-License-Identifier: GPL-2.0-only

//! What `packaging/kernel-tree check` says of kernels: headers are made up here, and so are the
//! compilers and dpkg's answers.

use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use tempfile::TempDir;

const RELEASE: &str = "7.3.4+deb13-amd64";
/// The exit status that makes dkms pass over a kernel.
const PASSED_OVER: i32 = 77;

/// A machine with headers, compilers and the source.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a temporary directory"));
        machine.write(
            "headers/include/config/auto.conf",
            "CONFIG_RUST=y\n\
             CONFIG_SHMEM=y\n\
             CONFIG_CC_VERSION_TEXT=\"a-gcc-14 (Debian 14.2.0-19) 14.2.0\"\n\
             CONFIG_BINDGEN_VERSION_TEXT=\"bindgen 0.71.1\"\n\
             CONFIG_RUSTC_VERSION_TEXT=\"rustc 1.85.1 (4eb161250 2025-03-15)\"\n",
        );
        machine.write("headers/.config", "CONFIG_RUST=y\n");
        machine.write("headers/Module.symvers", "0x0 a vmlinux EXPORT_SYMBOL\n");
        machine.program("rustc", "echo 'rustc 1.85.1 (4eb161250 2025-03-15)'");
        machine.program("bindgen", "echo 'bindgen 0.71.1'");
        for name in ["a-gcc-14", "flex", "bison", "bc"] {
            machine.program(name, "");
        }
        machine.program("dpkg-query", "echo 7.3.4-1~bpo13+1");
        machine.write("src/linux-source-7.3.tar.xz", "");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn program(&self, name: &str, body: &str) {
        let name = format!("bin/{name}");
        self.write(&name, &format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(self.path(&name), fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    fn configure(&self, from: &str, to: &str) {
        let path = self.path("headers/include/config/auto.conf");
        let text = fs::read_to_string(&path).expect("it was written");
        assert!(text.contains(from), "{from} is in {text}");
        fs::write(path, text.replace(from, to)).expect("a file");
    }

    fn kernel_tree(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/kernel-tree");
        // Of the machine's own programs those that every Debian has, and no compiler.
        for name in [
            "bash",
            "cat",
            "cut",
            "df",
            "dirname",
            "find",
            "head",
            "realpath",
            "rm",
            "rmdir",
            "sed",
            "sha256sum",
            "sort",
            "tail",
            "tr",
        ] {
            let link = self.path("bin").join(name);
            // The machine may have its own.
            if !link.exists() {
                std::os::unix::fs::symlink(Path::new("/usr/bin").join(name), link).expect("a link");
            }
        }
        Command::new("/usr/bin/bash")
            .arg(script)
            .args(arguments)
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("ASHMEM_TREES", self.path("trees"))
            .env("ASHMEM_SOURCES", self.path("src"))
            .output()
            .expect("bash runs")
    }

    fn check_of(&self, release: &str) -> Output {
        let headers = self.path("headers");
        self.kernel_tree(&["check", release, headers.to_str().expect("plain")])
    }

    /// That it is refused, and every word of the reason.
    fn refuses(&self, release: &str, reason: &[&str]) {
        let output = self.check_of(release);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(PASSED_OVER), "{said}");
        for part in reason {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
        assert_eq!(said.trim().lines().count(), 1, "one reason: {said}");
    }

    fn takes(&self) {
        let output = self.check_of(RELEASE);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{output:?}");
    }
}

#[test]
fn what_is_all_there_is_taken() {
    Machine::new().takes();
}

#[test]
fn an_old_kernel_is_refused() {
    Machine::new().refuses("6.12.94+deb13-amd64", &["6.12.94", "Linux 7.2 and later"]);
    Machine::new().refuses("7.1.9", &["Linux 7.2 and later"]);
}

#[test]
fn a_kernel_that_was_never_tried_is_refused() {
    Machine::new().refuses(
        "7.4.1+deb13-amd64",
        &["Linux 7.3 at most", "ASHMEM_ANY_KERNEL=1"],
    );
    Machine::new().refuses("8.0", &["Linux 7.3 at most"]);
}

#[test]
fn a_full_disk_is_told_before_anything_is_made() {
    let machine = Machine::new();
    machine.program("df", "echo Avail; echo 1999M");
    machine.refuses(RELEASE, &["2 GB are needed", "1999 MB are free"]);
}

#[test]
fn missing_headers_are_named() {
    let machine = Machine::new();
    fs::remove_file(machine.path("headers/include/config/auto.conf")).expect("it was there");
    machine.refuses(
        RELEASE,
        &["install the package linux-headers-7.3.4+deb13-amd64"],
    );
}

#[test]
fn a_kernel_without_rust_is_refused() {
    let machine = Machine::new();
    machine.configure("CONFIG_RUST=y\n", "");
    machine.refuses(RELEASE, &["without Rust (CONFIG_RUST)"]);
}

#[test]
fn another_compiler_is_refused() {
    let machine = Machine::new();
    machine.program("rustc", "echo 'rustc 1.97.1 (abc 2026-07-01)'");
    machine.refuses(RELEASE, &["rustc 1.85.1", "here is rustc 1.97.1"]);

    let machine = Machine::new();
    machine.program("bindgen", "echo 'bindgen 0.72.1'");
    machine.refuses(RELEASE, &["bindgen 0.71.1", "here is bindgen 0.72.1"]);
}

#[test]
fn missing_compilers_are_named() {
    for (name, named) in [
        ("rustc", "install the package rustc"),
        ("bindgen", "install the package bindgen"),
        ("a-gcc-14", "a-gcc-14, is missing"),
    ] {
        let machine = Machine::new();
        fs::remove_file(machine.path("bin").join(name)).expect("it was there");
        machine.refuses(RELEASE, &[named]);
    }
}

#[test]
fn missing_source_is_named() {
    let machine = Machine::new();
    fs::remove_file(machine.path("src/linux-source-7.3.tar.xz")).expect("it was there");
    machine.refuses(
        RELEASE,
        &["is missing: apt install linux-source-7.3=7.3.4-1~bpo13+1 "],
    );
}

#[test]
fn source_of_another_version_is_refused() {
    let machine = Machine::new();
    machine.program(
        "dpkg-query",
        "case $* in *source*) echo 7.3.2-1~bpo13+1;; *) echo 7.3.4-1~bpo13+1;; esac",
    );
    machine.refuses(
        RELEASE,
        &[
            "here as version 7.3.2-1~bpo13+1, not 7.3.4-1~bpo13+1: apt",
            "apt install linux-source-7.3=7.3.4-1~bpo13+1",
        ],
    );
}

#[test]
fn headers_of_unknown_origin_have_no_source() {
    let machine = Machine::new();
    machine.program("dpkg-query", "exit 1");
    machine.refuses(RELEASE, &["not installed by dpkg"]);
}

#[test]
fn tools_for_the_metadata_are_named() {
    let machine = Machine::new();
    fs::remove_file(machine.path("bin/bison")).expect("it was there");
    machine.refuses(RELEASE, &["bison is needed"]);
}

#[test]
fn with_metadata_no_source_is_needed() {
    let machine = Machine::new();
    fs::remove_file(machine.path("src/linux-source-7.3.tar.xz")).expect("it was there");
    machine.write("headers/rust/libkernel.rmeta", "");
    machine.takes();
}

#[test]
fn what_was_made_is_for_the_headers_it_was_made_from() {
    let machine = Machine::new();
    fs::remove_file(machine.path("src/linux-source-7.3.tar.xz")).expect("it was there");
    machine.write(&format!("trees/{RELEASE}/rust/libkernel.rmeta"), "");
    let output = Command::new("sh")
        .args(["-c", "cat .config Module.symvers | sha256sum"])
        .current_dir(machine.path("headers"))
        .output()
        .expect("sh runs");
    let sum = String::from_utf8(output.stdout).expect("a sum");
    machine.write(&format!("trees/{RELEASE}/made-from"), &sum);
    machine.takes();
    // The same release, of another revision of the package.
    machine.write("headers/Module.symvers", "0x1 a vmlinux EXPORT_SYMBOL\n");
    machine.refuses(RELEASE, &["is missing: apt install"]);
}

#[test]
fn the_reason_is_told_where_dkms_prints() {
    let machine = Machine::new();
    machine.configure("CONFIG_RUST=y\n", "");
    let terminal = machine.path("terminal");
    // A process whose standard error is that file, as dkms's is the user's terminal.
    let mut dkms = Command::new("/usr/bin/sleep")
        .arg("60")
        .stderr(File::create(&terminal).expect("a file"))
        .spawn()
        .expect("sleep runs");
    let headers = machine.path("headers");
    let output = machine.kernel_tree(&[
        "check",
        RELEASE,
        headers.to_str().expect("plain"),
        &dkms.id().to_string(),
    ]);
    let told = fs::read_to_string(&terminal);
    dkms.kill().expect("it runs");
    dkms.wait().expect("it ended");
    assert_eq!(output.status.code(), Some(PASSED_OVER), "{output:?}");
    assert!(told.expect("a file").contains("without Rust (CONFIG_RUST)"));
}

#[test]
fn what_was_made_goes_with_the_headers() {
    let machine = Machine::new();
    machine.write("trees/7.3.4/rust/libkernel.rmeta", "");
    machine.write("trees/7.2.9/rust/libkernel.rmeta", "");
    for release in ["7.3.4", "7.2.9"] {
        let link = machine.path("trees").join(release).join("include");
        let headers = machine.path(if release == "7.3.4" {
            "headers"
        } else {
            "gone"
        });
        std::os::unix::fs::symlink(headers.join("include"), link).expect("a link");
    }
    let output = machine.kernel_tree(&["prune"]);
    assert!(output.status.success(), "{output:?}");
    assert!(machine.path("trees/7.3.4/rust").exists());
    assert!(!machine.path("trees/7.2.9").exists());
}
