// SPDX-License-Identifier: GPL-2.0-only

//! Memory cgroups, for tests that need some.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;

use crate::region::PAGE;
use crate::tests::process::Child;
use crate::tests::process::spawn;

/// Where the memory cgroups are.
pub const ROOT: &str = "/sys/fs/cgroup";

/// A memory cgroup, without others in it or without processes.
pub struct Group(PathBuf);

impl Group {
    /// A group for the groups of this test.
    pub fn parent() -> anyhow::Result<Self> {
        let root = Self(ROOT.into());
        root.write("cgroup.subtree_control", "+memory")?;
        let path = root.0.join(format!("test-{}", std::process::id()));
        // The root is no group of ours, to be removed.
        std::mem::forget(root);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let group = Self(path);
        group.write("cgroup.subtree_control", "+memory")?;
        Ok(group)
    }

    /// A group in it, for processes.
    pub fn child(&self, name: &str) -> anyhow::Result<Self> {
        let path = self.0.join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Writes to one of its files.
    pub fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).with_context(|| format!("`{text}` to {}", path.display()))
    }

    /// Reads one of its files.
    pub fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = self.0.join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// A value of a file that has one a line, with its key.
    pub fn value(&self, file: &str, key: &str) -> anyhow::Result<usize> {
        self.read(file)?
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
            .with_context(|| format!("no {key} in {file}"))
    }

    /// Pages of files that it is charged for.
    pub fn pages(&self) -> anyhow::Result<usize> {
        Ok(self.value("memory.stat", "file")? / PAGE)
    }

    /// Waits until `is` holds for this value of memory.stat, and gives it: the
    /// kernel adds up what its processors counted every two seconds, or when
    /// it is much.
    fn wait(&self, key: &str, is: impl Fn(usize) -> bool, what: &str) -> anyhow::Result<usize> {
        let started = Instant::now();
        loop {
            let found = self.value("memory.stat", key)?;
            if is(found) {
                return Ok(found);
            }
            if started.elapsed() > Duration::from_secs(10) {
                bail!("{what}: {} is charged for {key} {found}", self.name());
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Asserts for how many pages it is charged; regions are all that has some.
    pub fn expect(&self, pages: usize, what: &str) -> anyhow::Result<()> {
        self.wait("file", |bytes| bytes == pages * PAGE, what)
            .with_context(|| format!("expected {} bytes", pages * PAGE))?;
        Ok(())
    }

    /// Bytes of kernel objects that it is charged for.
    pub fn slab(&self) -> anyhow::Result<usize> {
        self.value("memory.stat", "slab")
    }

    /// Asserts that it is charged for at least this much of kernel objects.
    pub fn slab_at_least(&self, bytes: usize, what: &str) -> anyhow::Result<usize> {
        self.wait("slab", |found| found >= bytes, what)
            .with_context(|| format!("expected at least {bytes} bytes"))
    }

    /// Asserts that it is charged for no more than this much.
    pub fn slab_at_most(&self, bytes: usize, what: &str) -> anyhow::Result<usize> {
        self.wait("slab", |found| found <= bytes, what)
            .with_context(|| format!("expected at most {bytes} bytes"))
    }

    /// Its path.
    pub fn name(&self) -> String {
        self.0.display().to_string()
    }

    /// Its number, by which the kernel names it elsewhere.
    pub fn inode(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(&self.0).with_context(|| self.name())?.ino())
    }

    /// Starts a child in it.
    pub fn spawn(&self, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Child> {
        spawn(|| {
            self.write("cgroup.procs", "0")?;
            body()
        })
    }

    /// Runs a child in it.
    pub fn run(&self, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.spawn(body)?.join()
    }

    /// Removes it, which must be possible.
    pub fn remove(self) -> anyhow::Result<()> {
        let removed = self.rmdir();
        std::mem::forget(self);
        removed
    }

    fn rmdir(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            match fs::remove_dir(&self.0) {
                // Who has ended is still there for a moment.
                Err(error)
                    if error.raw_os_error() == Some(libc::EBUSY)
                        && started.elapsed() < Duration::from_secs(5) =>
                {
                    sleep(Duration::from_millis(10));
                }
                result => return result.with_context(|| self.name()),
            }
        }
    }
}

impl Drop for Group {
    /// For tests that fail; the others use [`Group::remove`].
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        if let Err(error) = self.rmdir() {
            eprintln!("{error:#}");
        }
    }
}

/// Two groups, and the one that they are in.
pub fn groups() -> anyhow::Result<(Group, Group, Group)> {
    let parent = Group::parent()?;
    let (a, b) = (parent.child("a")?, parent.child("b")?);
    Ok((a, b, parent))
}

/// Removes them, which must be possible.
pub fn remove(groups: (Group, Group, Group)) -> anyhow::Result<()> {
    groups.0.remove()?;
    groups.1.remove()?;
    groups.2.remove()
}
