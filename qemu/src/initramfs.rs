// SPDX-License-Identifier: GPL-2.0-only

//! The guest's file system: a newc archive of a few static programs.
//!
//! It is not compressed: QEMU copies it into the guest's memory at once, and
//! an emulated processor takes longer to unpack it than that.

use std::fs;
use std::io::Cursor;
use std::io::Write;
use std::path::Path;

use anyhow::Context;

/// What goes into it.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The guest's program, which becomes `/init`.
    pub guest: &'a Path,
    /// The module, which becomes `/lib/ashmem.ko`.
    pub module: Option<&'a Path>,
    /// For the shell; becomes `/bin/busybox`.
    pub busybox: Option<&'a Path>,
}

/// Writes the archive.
pub fn write(contents: Contents<'_>, to: &mut impl Write) -> anyhow::Result<()> {
    let mut archive = Archive { to, files: 0 };
    for directory in ["bin", "dev", "lib", "proc", "sys", "tmp"] {
        archive.add(directory, 0o040_755, &[])?;
    }
    archive.add_file("init", 0o100_755, contents.guest)?;
    if let Some(module) = contents.module {
        archive.add_file("lib/ashmem.ko", 0o100_644, module)?;
    }
    if let Some(busybox) = contents.busybox {
        archive.add_file("bin/busybox", 0o100_755, busybox)?;
    }
    cpio::newc::trailer(archive.to)?;
    Ok(())
}

struct Archive<'a, W> {
    to: &'a mut W,
    /// Inode numbers must differ, or the kernel takes files for hard links.
    files: u32,
}

impl<W: Write> Archive<'_, W> {
    fn add_file(&mut self, name: &str, mode: u32, from: &Path) -> anyhow::Result<()> {
        let data = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.add(name, mode, &data)
    }

    fn add(&mut self, name: &str, mode: u32, data: &[u8]) -> anyhow::Result<()> {
        self.files += 1;
        let entry = cpio::NewcBuilder::new(name)
            .ino(self.files)
            .nlink(1)
            .mode(mode);
        // The writer needs an owned sink, and a borrowed one is a sink too.
        let mut writer = entry.write(&mut *self.to, data.len().try_into()?);
        std::io::copy(&mut Cursor::new(data), &mut writer)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_archive_has_what_was_asked_for_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let guest = dir.path().join("guest");
        fs::write(&guest, "program").expect("writable");
        let contents = Contents {
            guest: &guest,
            module: None,
            busybox: None,
        };
        let mut archive = vec![];
        write(contents, &mut archive).expect("it can be packed");

        let mut names = vec![];
        let mut rest = Cursor::new(archive);
        loop {
            let mut reader = cpio::NewcReader::new(rest).expect("a newc entry");
            if reader.entry().is_trailer() {
                break;
            }
            names.push(format!(
                "{} {:o}",
                reader.entry().name(),
                reader.entry().mode()
            ));
            if reader.entry().name() == "init" {
                let mut data = String::new();
                std::io::Read::read_to_string(&mut reader, &mut data).expect("text");
                assert_eq!(data, "program");
            }
            rest = reader.finish().expect("the next one");
        }
        assert_eq!(
            names,
            [
                "bin 40755",
                "dev 40755",
                "lib 40755",
                "proc 40755",
                "sys 40755",
                "tmp 40755",
                "init 100755",
            ]
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let contents = Contents {
            guest: Path::new("/nonexistent/guest"),
            module: None,
            busybox: None,
        };
        let error = write(contents, &mut vec![]).expect_err("there is no such file");
        assert!(format!("{error:#}").contains("/nonexistent/guest"));
    }
}
