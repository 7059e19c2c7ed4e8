// SPDX-License-Identifier: GPL-2.0-only

//! Signed modules. The machine was started by a firmware with Secure Boot, whose `db` has the
//! certificate of the key with which the host has signed the module. Others lie beside it.

use std::fs;
use std::fs::File;
use std::path::Path;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::kmod::ModuleInitFlags;
use nix::kmod::finit_module;
use nix::mount::MsFlags;
use nix::mount::mount;

use crate::harness::tests;
use crate::init::MODULE;
use crate::kmsg::KernelLog;
use crate::region::NODE;
use crate::region::Region;
use crate::tests::module::without;

tests! {
    kernel_was_started_by_secure_boot_and_enforces_signatures,
    signed_module_works,
    unsigned_module_is_refused,
    module_signed_with_another_key_is_refused,
    changed_module_is_refused,
    module_with_a_changed_signature_is_refused,
}

/// The module as it was built.
const UNSIGNED: &str = "/lib/unsigned.ko";
/// The module, signed with a key whose certificate is nowhere.
const ANOTHER: &str = "/lib/another.ko";
/// What ends a module's file, if it is signed.
const MARKER: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`, before that.
const TRAILER: usize = 12;

fn kernel_was_started_by_secure_boot_and_enforces_signatures() -> anyhow::Result<()> {
    const SECURITY: &str = "/sys/kernel/security";
    const KIND: Option<&str> = Some("securityfs");

    let mut log = KernelLog::open(None)?;
    let texts = log.texts()?;
    for text in [
        "secureboot: Secure boot enabled",
        "integrity: Loaded X.509 cert 'own: ",
    ] {
        ensure!(
            texts.iter().any(|t| t.starts_with(text)),
            "the kernel log lacks `{text}`"
        );
    }
    let arguments = fs::read_to_string("/proc/cmdline")?;
    ensure!(
        arguments.split(' ').any(|a| a == "module.sig_enforce=1"),
        "{arguments}"
    );
    let enforced = fs::read_to_string("/sys/module/module/parameters/sig_enforce")?;
    ensure!(enforced == "Y\n", "sig_enforce is {enforced}");
    mount(KIND, SECURITY, KIND, MsFlags::empty(), None::<&str>).context(SECURITY)?;
    let lockdown = fs::read_to_string(format!("{SECURITY}/lockdown"))?;
    ensure!(lockdown.contains("[integrity]"), "lockdown is {lockdown}");
    Ok(())
}

/// It was loaded before the tests: the harness has failed otherwise.
fn signed_module_works() -> anyhow::Result<()> {
    ensure!(fs::read(MODULE)?.ends_with(MARKER), "{MODULE} is unsigned");
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    map.stamp(0..4, 7);
    region.unpin(1..3)?;
    ensure!(region.purge_all()? == 2 && region.pin(0..4)?);
    ensure!(map.picture(7) == "x00x", "{}", map.picture(7));
    Ok(())
}

/// Asserts that a module is refused, and what the kernel log says of that. It says nothing where
/// a known key has signed something else.
fn refused(module: &Path, why: Option<&str>) -> anyhow::Result<()> {
    const REJECTED: &str = "is rejected";

    without(|| {
        let mut log = KernelLog::open(None)?;
        log.start_here();
        let file = File::open(module).with_context(|| module.display().to_string())?;
        let found = finit_module(&file, c"", ModuleInitFlags::empty());
        ensure!(found == Err(Errno::EKEYREJECTED), "{found:?}");
        let said = log
            .texts()?
            .into_iter()
            .find(|text| text.ends_with(REJECTED));
        ensure!(said == why, "the kernel log says {said:?}");
        ensure!(!Path::new(NODE).exists(), "{NODE} is there");
        Ok(())
    })
}

fn unsigned_module_is_refused() -> anyhow::Result<()> {
    let why = "Loading of unsigned module is rejected";
    refused(Path::new(UNSIGNED), Some(why))?;
    // Nothing else is wrong with it.
    let (signed, unsigned) = (fs::read(MODULE)?, fs::read(UNSIGNED)?);
    ensure!(signed.starts_with(&unsigned), "it is another module");
    Ok(())
}

fn module_signed_with_another_key_is_refused() -> anyhow::Result<()> {
    ensure!(fs::read(ANOTHER)?.ends_with(MARKER), "it is unsigned");
    let why = "Loading of module with unavailable key is rejected";
    refused(Path::new(ANOTHER), Some(why))
}

/// The signed module, with one bit of this byte changed.
fn with_a_changed_byte(at: impl FnOnce(usize) -> usize) -> anyhow::Result<()> {
    const CHANGED: &str = "/tmp/changed.ko";

    let mut module = fs::read(MODULE)?;
    let at = at(module.len());
    module[at] ^= 1;
    fs::write(CHANGED, module)?;
    refused(Path::new(CHANGED), None)
}

fn changed_module_is_refused() -> anyhow::Result<()> {
    with_a_changed_byte(|len| len / 2)
}

fn module_with_a_changed_signature_is_refused() -> anyhow::Result<()> {
    // The end of what the key made.
    with_a_changed_byte(|len| len - MARKER.len() - TRAILER - 1)
}
