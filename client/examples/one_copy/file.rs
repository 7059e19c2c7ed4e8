// SPDX-License-Identifier: GPL-2.0-only

//! A file that can be read with `O_DIRECT` where there is no disk: a file system of one file, by FUSE.

use std::env;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::remove_file;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use fuser::BackgroundSession;
use fuser::Config;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::FileType;
use fuser::Filesystem;
use fuser::INodeNo;
use fuser::LockOwner;
use fuser::OpenFlags;
use fuser::ReplyAttr;
use fuser::ReplyData;
use fuser::Request;
use linux_raw_sys::general::__NR_cachestat;
use linux_raw_sys::general::cachestat;
use linux_raw_sys::general::cachestat_range;
use nix::errno::Errno;

/// What the file holds.
struct Content(Vec<u8>);

impl Filesystem for Content {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let attributes = FileAttr {
            ino,
            size: self.0.len() as u64,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o444,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::MAX, &attributes);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let start = self.0.len().min(offset as usize);
        let end = self.0.len().min(start + size as usize);
        reply.data(&self.0[start..end]);
    }
}

/// The file, while it is mounted.
pub struct Served {
    path: PathBuf,
    session: BackgroundSession,
}

impl Served {
    /// A file with this content, served by a thread of this process.
    pub fn new(content: Vec<u8>) -> anyhow::Result<Self> {
        let path = env::temp_dir().join(format!("one_copy-{}", process::id()));
        // The file system's root is no folder: it is mounted on a file, and is one.
        File::create(&path)?;
        let session = fuser::spawn_mount(Content(content), &path, &Config::default());
        if session.is_err() {
            remove_file(&path)?;
        }
        let session = session.context("mounting FUSE")?;
        Ok(Self { path, session })
    }

    /// Opens it to be read, with flags of open(2).
    pub fn open(&self, flags: i32) -> anyhow::Result<File> {
        let mut options = OpenOptions::new();
        Ok(options.read(true).custom_flags(flags).open(&self.path)?)
    }

    /// Unmounts it.
    pub fn end(self) -> anyhow::Result<()> {
        self.session.umount_and_join()?;
        Ok(remove_file(&self.path)?)
    }
}

/// How many pages of a file the page cache has.
pub fn cached(file: &File) -> anyhow::Result<u64> {
    let all = cachestat_range { off: 0, len: 0 };
    // SAFETY: Zeros are integers.
    let mut found: cachestat = unsafe { std::mem::zeroed() };
    // SAFETY: The kernel reads the one and writes the other.
    let ret = unsafe {
        libc::syscall(
            __NR_cachestat.into(),
            file.as_raw_fd(),
            &raw const all,
            &raw mut found,
            0,
        )
    };
    Errno::result(ret).context("cachestat")?;
    Ok(found.nr_cache)
}
