// SPDX-License-Identifier: GPL-2.0-only

//! A file system of one file, served by a process of this program.
//!
//! It is the one way to `O_DIRECT` that every kernel with `CONFIG_FUSE_FS` has
//! without a disk. The kernel copies between the buffers of read(2) or write(2)
//! and the server, with nothing in between, and the server says when: until it
//! answers, the kernel holds the buffer's pages as it would for a device.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::MntFlags;
use nix::mount::MsFlags;
use nix::mount::mount;
use nix::mount::umount2;

use crate::kernel;
use crate::tests::process::Child;
use crate::tests::process::spawn;

const DEVICE: &str = "/dev/fuse";
/// The most that is written at once.
const MAX_WRITE: u32 = 64 << 10;

/// A mounted one; unmounted when dropped.
pub struct OneFile {
    path: PathBuf,
    server: Option<Child>,
}

impl OneFile {
    /// Whether this kernel can.
    pub fn possible() -> bool {
        Path::new(DEVICE).exists()
    }

    /// Makes a file with this content. The server calls `reading` when somebody
    /// reads, before it answers; an error there is an error of who reads.
    pub fn new(
        content: Vec<u8>,
        reading: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let path = PathBuf::from("/tmp/fuse");
        File::create(&path)?;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)
            .context(DEVICE)?;
        // The root is the file.
        let options = format!(
            "fd={},rootmode=100644,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        mount(
            Some("fuse"),
            &path,
            Some("fuse"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .context("mounting FUSE")?;
        let mut this = Self { path, server: None };
        this.server = Some(spawn(|| serve(device, content, reading))?);
        Ok(this)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts it; says how the server did.
    pub fn end(mut self) -> anyhow::Result<()> {
        umount2(&self.path, MntFlags::empty()).context("unmounting FUSE")?;
        let server = self.server.take();
        server.context("no server")?.join()
    }
}

impl Drop for OneFile {
    fn drop(&mut self) {
        // It fails if all went well.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

/// Structures that are nothing but integers.
trait Plain: Default {}

impl Plain for kernel::fuse_attr_out {}
impl Plain for kernel::fuse_in_header {}
impl Plain for kernel::fuse_init_out {}
impl Plain for kernel::fuse_open_out {}
impl Plain for kernel::fuse_out_header {}
impl Plain for kernel::fuse_read_in {}
impl Plain for kernel::fuse_write_in {}
impl Plain for kernel::fuse_write_out {}

/// Takes a structure off the beginning.
fn take<T: Plain>(bytes: &mut &[u8]) -> anyhow::Result<T> {
    let (head, rest) = bytes
        .split_at_checked(size_of::<T>())
        .context("a short message")?;
    *bytes = rest;
    // SAFETY: `head` is as long as it should be, and any bytes are such integers.
    Ok(unsafe { head.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes of a structure.
fn put<T: Plain>(value: &T) -> Vec<u8> {
    // SAFETY: Integers without padding between them, borrowed as long as the slice.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }.to_vec()
}

/// Answers until the file system is unmounted.
fn serve(
    mut device: File,
    mut content: Vec<u8>,
    mut reading: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; MAX_WRITE as usize + 4096];
    loop {
        let n = match device.read(&mut buffer) {
            Ok(n) => n,
            // Unmounted.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            // Who had asked is gone.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e).context(DEVICE),
        };
        let mut message = &buffer[..n];
        let header: kernel::fuse_in_header = take(&mut message)?;
        let range = |offset: u64, size: u32| -> anyhow::Result<_> {
            let start = usize::try_from(offset)?.min(content.len());
            Ok(start..(start + size as usize).min(content.len()))
        };
        let answer = match header.opcode {
            kernel::FUSE_INIT => Ok(put(&kernel::fuse_init_out {
                major: kernel::FUSE_KERNEL_VERSION,
                minor: kernel::FUSE_KERNEL_MINOR_VERSION,
                max_write: MAX_WRITE,
                ..Default::default()
            })),
            kernel::FUSE_GETATTR => Ok(put(&kernel::fuse_attr_out {
                attr: kernel::fuse_attr {
                    ino: 1,
                    size: content.len() as u64,
                    mode: libc::S_IFREG | 0o644,
                    nlink: 1,
                    ..Default::default()
                },
                ..Default::default()
            })),
            kernel::FUSE_OPEN => Ok(put(&kernel::fuse_open_out {
                // Or what O_DIRECT does not manage would be read through the
                // page cache, and nobody would know.
                open_flags: kernel::FOPEN_DIRECT_IO,
                ..Default::default()
            })),
            kernel::FUSE_READ => {
                let read: kernel::fuse_read_in = take(&mut message)?;
                let range = range(read.offset, read.size)?;
                match reading() {
                    Ok(()) => Ok(content[range].to_vec()),
                    Err(error) => {
                        eprintln!("while somebody reads: {error:?}");
                        Err(Errno::EIO)
                    }
                }
            }
            kernel::FUSE_WRITE => {
                let write: kernel::fuse_write_in = take(&mut message)?;
                let range = range(write.offset, write.size)?;
                let size = range.len();
                content[range].copy_from_slice(&message[..size]);
                Ok(put(&kernel::fuse_write_out {
                    size: size as u32,
                    ..Default::default()
                }))
            }
            kernel::FUSE_FLUSH | kernel::FUSE_RELEASE | kernel::FUSE_FSYNC => Ok(vec![]),
            // These want no answer.
            kernel::FUSE_FORGET | kernel::FUSE_BATCH_FORGET | kernel::FUSE_INTERRUPT => continue,
            _ => Err(Errno::ENOSYS),
        };
        let error = answer.as_ref().err().map_or(0, |errno| -(*errno as i32));
        let body = answer.unwrap_or_default();
        let mut reply = put(&kernel::fuse_out_header {
            len: (size_of::<kernel::fuse_out_header>() + body.len()).try_into()?,
            error,
            unique: header.unique,
        });
        reply.extend(body);
        match device.write(&reply) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            result => {
                let written = result.with_context(|| format!("answering {}", header.opcode))?;
                anyhow::ensure!(written == reply.len());
            }
        }
    }
}
