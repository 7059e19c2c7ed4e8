// SPDX-License-Identifier: GPL-2.0-only

//! `cat` by mapping: what is copied is never read into a buffer.

use std::env;
use std::fs;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use anyhow::Context;
use anyhow::ensure;
use ashmem::MapOptions;
use ashmem::Protection;
use ashmem::Region;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::munmap;

use crate::program;

/// Copies standard input, a region or a file, to standard output.
pub fn run() -> anyhow::Result<()> {
    let input = io::stdin();
    match Region::try_from(input.as_fd()) {
        Ok(region) if region.size()? == 0 => Ok(()),
        Ok(region) => {
            // The descriptor's own idea of a size is 0, as of every device; the region has one.
            let memory = region.map_with(MapOptions::new().protection(Protection::READ))?;
            copy(memory.as_ptr(), memory.len())
        }
        Err(error) if error.errno() == libc::ENOTTY => {
            copy_file(&input.as_fd().try_clone_to_owned()?.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// The same for a file, by mmap(2) itself.
fn copy_file(file: &File) -> anyhow::Result<()> {
    let len = file.metadata()?.len().try_into()?;
    // Nothing cannot be mapped.
    let Some(bytes) = NonZeroUsize::new(len) else {
        return Ok(());
    };
    // SAFETY: Without MAP_FIXED a mapping replaces nothing.
    let base = unsafe {
        mmap(
            None,
            bytes,
            ProtFlags::PROT_READ,
            MapFlags::MAP_PRIVATE,
            file,
            0,
        )
    }?;
    let copied = copy(base.as_ptr().cast(), len);
    // SAFETY: It is ours, and nobody has a reference to it.
    unsafe { munmap(base, len) }?;
    copied
}

/// Writes so many bytes from there on to standard output: it is the kernel that reads them.
fn copy(mut from: *const u8, mut left: usize) -> anyhow::Result<()> {
    while left > 0 {
        // SAFETY: The callers have so many bytes mapped there. The kernel checks that as well: what it
        // cannot read is EFAULT.
        let written = unsafe { libc::write(libc::STDOUT_FILENO, from.cast(), left) };
        let written = usize::try_from(Errno::result(written)?)?;
        from = from.wrapping_add(written);
        left -= written;
    }
    Ok(())
}

/// What `cat` writes that has this as its standard input.
fn cat(input: OwnedFd) -> anyhow::Result<String> {
    let output = program(&["cat"])?
        .stdin(Stdio::from(input))
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "cat: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Has a region and a file of the same content copied.
pub fn show() -> anyhow::Result<()> {
    let lines: Vec<String> = (1..=1000).map(|line| format!("line {line}\n")).collect();
    let text = lines.concat();
    let region = Region::new(c"text", text.len())?;
    region.map()?.write(0, text.as_bytes());

    let path = env::temp_dir().join(format!("textbook-{}", std::process::id()));
    fs::write(&path, &text)?;
    let file = File::open(&path);
    // Its content stays as long as it is open.
    fs::remove_file(&path)?;

    println!("cat by mapping, of {} bytes", text.len());
    for (what, input) in [("a region", region.into()), ("a file", file?.into())] {
        let copied = cat(input)?;
        ensure!(copied == text, "{what}: the copy differs");
        let first = copied.lines().next().context("no lines")?;
        let last = copied.lines().last().context("no lines")?;
        let len = copied.len();
        println!("  {what:9} {len} bytes, the same, from \"{first}\" to \"{last}\"");
    }
    Ok(())
}
