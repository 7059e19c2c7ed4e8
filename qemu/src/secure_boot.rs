// SPDX-License-Identifier: GPL-2.0-only

//! Secure Boot: keys, modules signed with them, and a firmware that starts only what it trusts.
//!
//! QEMU's `-kernel` would show nothing: this firmware starts what QEMU hands to it even if the
//! signature does not hold. So kernel and initramfs lie on a disk, and a boot entry names them, as
//! on a machine that boots without a boot loader.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use serde_json::json;
use tempfile::TempDir;

use crate::verdict::End;
use crate::verdict::Record;

/// The firmware, of Debian's package ovmf.
const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
/// Its variables, without any key.
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Whose variables `Boot0000` and `BootOrder` are: EFI_GLOBAL_VARIABLE.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// In whose name keys are enrolled. Nobody asks.
const ENROLLER: &str = "4c1b6a0e-5d0b-4a43-9a0f-3f6c1f0d8f55";
/// On the disk, as the firmware names them.
const KERNEL: &str = "kernel";
const INITRAMFS: &str = "initramfs";

/// What the firmware writes when there is nothing more that it could start.
pub const NOTHING_STARTS: &str = "BdsDxe: No bootable option or device was found";
/// What it writes of an image whose signature does not hold, or is nobody's that it trusts.
const DENIED: &str = ": Access Denied";

/// A private key, and the certificate of its public half, in PEM.
#[derive(Debug)]
struct Key {
    key: PathBuf,
    certificate: PathBuf,
}

impl Key {
    /// Makes one, in a directory that is not to be kept.
    fn new(directory: &Path, name: &str) -> anyhow::Result<Self> {
        let key = directory.join(format!("{name}.key"));
        let certificate = directory.join(format!("{name}.pem"));
        run(Command::new("openssl")
            .args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes"])
            .args(["-days", "2", "-subj", &format!("/CN={name}")])
            .args(["-addext", "extendedKeyUsage=codeSigning"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate))?;
        Ok(Self { key, certificate })
    }

    /// Signs a module, with the program that the kernel's build tree has for it.
    fn sign(&self, sign_file: &Path, module: &Path, to: &Path) -> anyhow::Result<()> {
        run(Command::new(sign_file)
            .arg("sha256")
            .args([&self.key, &self.certificate])
            .args([module, to]))
    }
}

/// Takes the certificate of who signed a kernel's image out of it, into a directory of its own.
fn signer(image: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    run(Command::new("pe-listsigs")
        .current_dir(directory)
        .arg("--extract")
        .arg(image))?;
    let mut certificates = vec![];
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "pem") {
            certificates.push(path);
        }
    }
    match &*certificates {
        [one] => Ok(one.clone()),
        _ => bail!(
            "{} has {} certificates of who signed it, and one is expected",
            image.display(),
            certificates.len()
        ),
    }
}

/// Whom a firmware trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusts {
    /// The owner, who signs modules only.
    ModulesOnly,
    /// Whoever signed the kernel as well.
    Kernels,
}

/// Keys that were made for this one run, and what was signed with them. All of it is gone with
/// this value.
#[derive(Debug)]
pub struct Signed {
    directory: TempDir,
    own: Key,
    signer: PathBuf,
}

impl Signed {
    /// Makes keys, and signs a module.
    pub fn new(kernel: &Path, module: &Path, sign_file: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let signed = Self {
            own: Key::new(directory.path(), "own")?,
            signer: signer(kernel, &directory.path().join("signer"))?,
            directory,
        };
        signed.own.sign(sign_file, module, &signed.module())?;

        let lib = signed.files().join("lib");
        fs::create_dir_all(&lib).with_context(|| format!("cannot make {}", lib.display()))?;
        fs::copy(module, lib.join("unsigned.ko"))
            .with_context(|| format!("cannot copy {}", module.display()))?;
        let another = Key::new(signed.directory.path(), "another")?;
        another.sign(sign_file, module, &lib.join("another.ko"))?;

        let mut image =
            fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
        let middle = image.len() / 2;
        image[middle] ^= 1;
        let changed = signed.changed_kernel();
        fs::write(&changed, image)
            .with_context(|| format!("cannot write {}", changed.display()))?;
        Ok(signed)
    }

    /// The module, signed with the owner's key.
    pub fn module(&self) -> PathBuf {
        self.directory.path().join("signed.ko")
    }

    /// What goes into the guest besides: the module as it was, and signed with a key that nobody
    /// trusts (userspace-tests/src/tests/secure_boot.rs).
    pub fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    /// The kernel, with one bit changed after it was signed.
    pub fn changed_kernel(&self) -> PathBuf {
        self.directory.path().join("changed")
    }

    /// A firmware, for one machine at a time.
    pub fn firmware(&self, trusts: Trusts) -> Firmware {
        Firmware {
            owner: self.own.certificate.clone(),
            trusted: match trusts {
                Trusts::ModulesOnly => vec![],
                Trusts::Kernels => vec![self.signer.clone()],
            },
            directory: self.directory.path().into(),
        }
    }
}

/// What a machine's firmware trusts, and where its variables and its disk are made.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// The certificate of the machine's owner: platform key, key exchange key, and in `db`.
    owner: PathBuf,
    /// Other certificates in `db`.
    trusted: Vec<PathBuf>,
    directory: PathBuf,
}

impl Firmware {
    /// Makes variables and disk, and gives QEMU's arguments for them.
    pub fn arguments(
        &self,
        kernel: &Path,
        initramfs: &Path,
        command_line: &str,
    ) -> anyhow::Result<Vec<String>> {
        let disk = self.directory.join("disk");
        fs::create_dir_all(&disk).with_context(|| format!("cannot make {}", disk.display()))?;
        for (from, name) in [(kernel, KERNEL), (initramfs, INITRAMFS)] {
            fs::copy(from, disk.join(name))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        let variables = self.variables(command_line)?;
        Ok([
            // Only the firmware itself may write to its variables.
            "-global".into(),
            "driver=cfi.pflash01,property=secure,value=on".into(),
            "-drive".into(),
            format!("if=pflash,unit=0,format=raw,readonly=on,file={CODE}"),
            "-drive".into(),
            format!("if=pflash,unit=1,format=raw,file={}", variables.display()),
            "-drive".into(),
            format!(
                "if=virtio,format=raw,readonly=on,file=fat:{}",
                disk.display()
            ),
        ]
        .into())
    }

    /// Makes the variables: the keys, that Secure Boot is on, and the boot entry.
    fn variables(&self, command_line: &str) -> anyhow::Result<PathBuf> {
        let entries = self.directory.join("entries.json");
        let variables = self.directory.join("variables.fd");
        let options = format!("initrd=\\{INITRAMFS} {command_line}");
        let variable = |name: &str, data: &[u8]| {
            let digits = data.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            let data: String = digits
                .filter_map(|digit| char::from_digit(digit.into(), 16))
                .collect();
            // For the firmware and the running system, kept.
            json!({"name": name, "guid": GLOBAL, "attr": 7, "data": data})
        };
        let json = json!({
            "version": 2,
            "variables": [
                variable("Boot0000", &boot_entry(KERNEL, &format!("\\{KERNEL}"), &options)),
                variable("BootOrder", &0u16.to_le_bytes()),
            ],
        });
        fs::write(&entries, json.to_string())
            .with_context(|| format!("cannot write {}", entries.display()))?;

        let mut command = Command::new("virt-fw-vars");
        command.arg("--input").arg(VARIABLES);
        command.args(["--set-pk", ENROLLER]).arg(&self.owner);
        command.args(["--add-kek", ENROLLER]).arg(&self.owner);
        for certificate in [&self.owner].into_iter().chain(&self.trusted) {
            command.args(["--add-db", ENROLLER]).arg(certificate);
        }
        command.arg("--secure-boot");
        command.arg("--set-json").arg(&entries);
        command.arg("--output").arg(&variables);
        run(&mut command)?;
        Ok(variables)
    }
}

/// An EFI_LOAD_OPTION: a file, looked for on all disks, and what it is told.
fn boot_entry(title: &str, path: &str, options: &str) -> Vec<u8> {
    const ACTIVE: u32 = 1;
    // Type and subtype of a node of a device path, and its length.
    let path = text(path);
    let mut file = vec![4, 4];
    file.extend(u16::to_le_bytes(4 + path.len() as u16));
    file.extend(path);
    file.extend([0x7f, 0xff, 4, 0]);

    let mut entry = vec![];
    entry.extend(ACTIVE.to_le_bytes());
    entry.extend((file.len() as u16).to_le_bytes());
    entry.extend(text(title));
    entry.extend(file);
    entry.extend(text(options));
    entry
}

/// As the firmware has it: UTF-16, with an end.
fn text(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]);
    units.flat_map(u16::to_le_bytes).collect()
}

/// An error if the firmware did anything but refuse the kernel because of its signature.
pub fn refused(record: &Record) -> anyhow::Result<()> {
    let nothing = matches!(&record.end, End::Fatal(line) if line.contains(NOTHING_STARTS));
    ensure!(
        nothing && record.report.is_empty(),
        "the firmware did not refuse it: the machine ended with {:?}, and its guest reported {:?}",
        record.end,
        record.report
    );
    let denied = format!("\"{KERNEL}\" from \\{KERNEL}{DENIED}");
    ensure!(
        record.console.contains(&denied),
        "it did not start, but the firmware does not say `{denied}`"
    );
    Ok(())
}

/// Runs a program that is to end well; what it says otherwise is the error.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| {
        format!("cannot run {program}: scripts/root.packages has what it is of")
    })?;
    ensure!(
        output.status.success(),
        "{program} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_boot_entry_is_what_the_specification_says() {
        let expected = [
            &[1, 0, 0, 0][..],
            // The device path: one node, and its end.
            &[4 + 3 * 2 + 4, 0],
            b"t\0\0\0",
            &[4, 4, 4 + 3 * 2, 0],
            b"\\\0k\0\0\0",
            &[0x7f, 0xff, 4, 0],
            b"o\0\0\0",
        ]
        .concat();
        assert_eq!(boot_entry("t", "\\k", "o"), expected);
    }

    const DENIES: &str = "BdsDxe: loading Boot0000 \"kernel\" from \\kernel\r\n\
        BdsDxe: failed to load Boot0000 \"kernel\" from \\kernel: Access Denied\r\n";

    fn is_refused(console: &str, report: &str, end: End) -> bool {
        refused(&Record {
            console: console.into(),
            report: report.into(),
            end,
        })
        .is_ok()
    }

    #[test]
    fn a_refusal_is_told_from_every_other_end() {
        let nothing = || End::Fatal(format!("{NOTHING_STARTS}."));
        assert!(is_refused(DENIES, "", nothing()));
        assert!(!is_refused(DENIES, "TAP version 14\n", nothing()));
        assert!(!is_refused(DENIES, "", End::PowerOff));
        assert!(!is_refused(DENIES, "", End::Fatal("Kernel panic".into())));
        let not_found = DENIES.replace("Access Denied", "Not Found");
        assert!(!is_refused(&not_found, "", nothing()));
    }
}
