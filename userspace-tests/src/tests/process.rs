// SPDX-License-Identifier: GPL-2.0-only

//! Other processes, for tests that need some.

use std::io::IoSlice;
use std::io::IoSliceMut;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::process;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::sys::signal::Signal;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::UnixAddr;
use nix::sys::socket::recvmsg;
use nix::sys::socket::sendmsg;
use nix::sys::socket::socketpair;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Pid;
use nix::unistd::fork;

use crate::region::Mapping;
use crate::region::PAGE;

/// A child process that ends with what its function gives.
pub struct Child(Pid);

/// Starts `body` in a child.
pub fn spawn(body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Child> {
    std::io::stdout().flush()?;
    // SAFETY: This program has one thread, so the child may do everything.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Parent { child } => Ok(Child(child)),
        ForkResult::Child => {
            let code = match body() {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("in a child: {error:?}");
                    1
                }
            };
            process::exit(code)
        }
    }
}

impl Child {
    /// Its number.
    pub fn pid(&self) -> Pid {
        self.0
    }

    /// Waits for its end.
    pub fn wait(self) -> anyhow::Result<WaitStatus> {
        waitpid(self.0, None).context("waitpid")
    }

    /// Waits for its end, which must be a good one.
    pub fn join(self) -> anyhow::Result<()> {
        match self.wait()? {
            WaitStatus::Exited(_, 0) => Ok(()),
            other => bail!("the child failed: {other:?}"),
        }
    }
}

/// Waits until `done` says so, for 20 seconds at most.
pub fn until(what: &str, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let started = Instant::now();
    while !done()? {
        ensure!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Runs `body` in a child and waits for it.
pub fn in_child(body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    spawn(body)?.join()
}

/// Asserts that `body` ends by this signal.
pub fn dies_of(signal: Signal, body: impl FnOnce()) -> anyhow::Result<()> {
    let child = spawn(|| {
        body();
        Ok(())
    })?;
    match child.wait()? {
        WaitStatus::Signaled(_, found, _) if found == signal => Ok(()),
        other => bail!("expected {signal}, found {other:?}"),
    }
}

/// What a touch of each page of a mapping does, each in a child: `.` nothing,
/// `B` SIGBUS, `S` SIGSEGV. With `write`, the first byte is written, with 1.
pub fn touches(map: &Mapping, write: bool) -> anyhow::Result<String> {
    (0..map.pages())
        .map(|page| {
            let child = spawn(|| {
                if write {
                    map.write(page * PAGE, 1);
                } else {
                    map.read(page * PAGE);
                }
                Ok(())
            })?;
            match child.wait()? {
                WaitStatus::Exited(_, 0) => Ok('.'),
                WaitStatus::Signaled(_, Signal::SIGBUS, _) => Ok('B'),
                WaitStatus::Signaled(_, Signal::SIGSEGV, _) => Ok('S'),
                other => bail!("page {page}: {other:?}"),
            }
        })
        .collect()
}

/// Two ends of a connection.
pub fn sockets() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("socketpair")
}

/// Tells the other end of a connection to go on.
pub fn go(socket: &OwnedFd) -> anyhow::Result<()> {
    ensure!(nix::unistd::write(socket, b"g")? == 1);
    Ok(())
}

/// Waits until the other end says [`go`].
pub fn await_go(socket: &OwnedFd) -> anyhow::Result<()> {
    ensure!(
        nix::unistd::read(socket, &mut [0])? == 1,
        "the other end is gone"
    );
    Ok(())
}

/// Sends a descriptor and a byte over a Unix socket.
pub fn send_fd(socket: &OwnedFd, fd: BorrowedFd<'_>) -> anyhow::Result<()> {
    let fds = [fd.as_raw_fd()];
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"f")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )
    .context("sendmsg")?;
    Ok(())
}

/// Receives a descriptor.
pub fn receive_fd(socket: &OwnedFd) -> anyhow::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([libc::c_int; 1]);
    let mut iov = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .context("recvmsg")?;
    for cmsg in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = cmsg {
            ensure!(fds.len() == 1, "{} descriptors", fds.len());
            // SAFETY: The kernel just made it for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(fds[0]) });
        }
    }
    bail!("no descriptor came")
}
