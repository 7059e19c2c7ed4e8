// SPDX-License-Identifier: GPL-2.0-only

//! The guest's file system: a newc archive of a few static programs, and of
//! whatever else a tree of files has for it.
//!
//! It is not compressed: QEMU copies it into the guest's memory at once, and
//! an emulated processor takes longer to unpack it than that.

use std::fs;
use std::io::Cursor;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use anyhow::bail;

/// What goes into it.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The guest's program, which becomes `/init`.
    pub guest: &'a Path,
    /// The module, which becomes `/lib/ashmem.ko`.
    pub module: Option<&'a Path>,
    /// For the shell; becomes `/bin/busybox`.
    pub busybox: Option<&'a Path>,
    /// A directory: everything below it, under the same names and with the same
    /// modes.
    pub files: Option<&'a Path>,
}

/// Writes the archive.
pub fn write(contents: Contents<'_>, to: &mut impl Write) -> anyhow::Result<()> {
    let mut archive = Archive { to, files: 0 };
    for directory in ["bin", "dev", "lib", "proc", "sys", "tmp"] {
        // The tree's own has the mode that is asked for.
        if !contents.files.is_some_and(|f| f.join(directory).is_dir()) {
            archive.add(directory, 0o040_755, &[])?;
        }
    }
    // Of two entries of one name the kernel keeps the later: these are first.
    if let Some(files) = contents.files {
        archive.add_tree("", files)?;
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
    /// Adds what is in a directory, in the order of the names. The kernel makes
    /// no parents: each directory comes before what is in it.
    fn add_tree(&mut self, prefix: &str, directory: &Path) -> anyhow::Result<()> {
        let context = || format!("cannot read {}", directory.display());
        let mut entries = fs::read_dir(directory)
            .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
            .with_context(context)?;
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                bail!("{}: its name is not UTF-8", path.display());
            };
            let name = format!("{prefix}{name}");
            let context = || format!("cannot read {}", path.display());
            let meta = entry.metadata().with_context(context)?;
            if meta.is_dir() {
                self.add(&name, meta.mode(), &[])?;
                self.add_tree(&format!("{name}/"), &path)?;
            } else if meta.is_file() {
                self.add_file(&name, meta.mode(), &path)?;
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).with_context(context)?;
                self.add(&name, meta.mode(), target.as_os_str().as_bytes())?;
            } else {
                bail!(
                    "{}: only files, directories and symbolic links can go into the guest",
                    path.display()
                );
            }
        }
        Ok(())
    }

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
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;

    use super::*;

    fn nothing<'a>() -> Contents<'a> {
        Contents {
            guest: Path::new("/nonexistent/guest"),
            module: None,
            busybox: None,
            files: None,
        }
    }

    /// Name and mode of each entry, and what is in it.
    fn packed(contents: Contents<'_>) -> Vec<(String, String)> {
        let mut archive = vec![];
        write(contents, &mut archive).expect("it can be packed");
        let mut entries = vec![];
        let mut rest = Cursor::new(archive);
        loop {
            let mut reader = cpio::NewcReader::new(rest).expect("a newc entry");
            if reader.entry().is_trailer() {
                return entries;
            }
            let name = format!("{} {:o}", reader.entry().name(), reader.entry().mode());
            let mut data = String::new();
            std::io::Read::read_to_string(&mut reader, &mut data).expect("text");
            entries.push((name, data));
            rest = reader.finish().expect("the next one");
        }
    }

    fn expect(found: &[(String, String)], expected: &[(&str, &str)]) {
        let found: Vec<_> = found.iter().map(|(n, d)| (&**n, &**d)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_archive_has_what_was_asked_for_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let guest = dir.path().join("guest");
        fs::write(&guest, "program").expect("writable");
        let contents = Contents {
            guest: &guest,
            ..nothing()
        };
        expect(
            &packed(contents),
            &[
                ("bin 40755", ""),
                ("dev 40755", ""),
                ("lib 40755", ""),
                ("proc 40755", ""),
                ("sys 40755", ""),
                ("tmp 40755", ""),
                ("init 100755", "program"),
            ],
        );
    }

    #[test]
    fn a_tree_of_files_keeps_names_modes_and_links_and_parents_come_first() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let guest = dir.path().join("guest");
        fs::write(&guest, "program").expect("writable");
        let files = dir.path().join("files");
        let mode = |name: &str, mode| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(files.join(name), mode).expect("it is ours");
        };
        for name in ["tmp", "usr/lib/empty", "bin"] {
            fs::create_dir_all(files.join(name)).expect("writable");
        }
        for (name, data) in [("bin/tool", "a tool"), ("usr/lib.conf", "x=1")] {
            fs::write(files.join(name), data).expect("writable");
        }
        symlink("../bin/tool", files.join("usr/tool")).expect("writable");
        mode("tmp", 0o1777);
        mode("bin", 0o755);
        mode("bin/tool", 0o4751);
        mode("usr", 0o755);
        mode("usr/lib", 0o700);
        mode("usr/lib/empty", 0o755);
        mode("usr/lib.conf", 0o640);
        let contents = Contents {
            guest: &guest,
            files: Some(&files),
            ..nothing()
        };
        expect(
            &packed(contents),
            &[
                ("dev 40755", ""),
                ("lib 40755", ""),
                ("proc 40755", ""),
                ("sys 40755", ""),
                ("bin 40755", ""),
                ("bin/tool 104751", "a tool"),
                ("tmp 41777", ""),
                ("usr 40755", ""),
                ("usr/lib 40700", ""),
                ("usr/lib/empty 40755", ""),
                ("usr/lib.conf 100640", "x=1"),
                ("usr/tool 120777", "../bin/tool"),
                ("init 100755", "program"),
            ],
        );
    }

    #[test]
    fn what_is_neither_file_nor_directory_nor_link_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = dir.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).expect("writable");
        let contents = Contents {
            files: Some(dir.path()),
            ..nothing()
        };
        let error = write(contents, &mut vec![]).expect_err("it is a socket");
        assert!(format!("{error:#}").contains("/socket: only files"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let files = Some(Path::new("/nonexistent/files"));
        for (contents, name) in [
            (nothing(), "/nonexistent/guest"),
            (Contents { files, ..nothing() }, "/nonexistent/files"),
        ] {
            let error = write(contents, &mut vec![]).expect_err("there is no such file");
            assert!(format!("{error:#}").contains(name));
        }
    }
}
