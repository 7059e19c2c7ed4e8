// SPDX-License-Identifier: GPL-2.0-only

//! A prompt on the serial line.

use std::fs::File;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::wait;
use nix::unistd::setsid;

const BUSYBOX: &str = "/bin/busybox";
const TERMINAL: &str = "/dev/ttyS0";

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);

/// Runs a shell until it exits.
pub fn run(rows: u16, cols: u16) -> anyhow::Result<()> {
    let status = Command::new(BUSYBOX)
        .args(["--install", "-s", "/bin"])
        .status()
        .with_context(|| format!("{BUSYBOX}; was it put into the initramfs?"))?;
    ensure!(status.success(), "{BUSYBOX} --install: {status}");
    symlink("/init", "/bin/guest").context("/bin/guest")?;

    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(TERMINAL)
        .context(TERMINAL)?;
    let size = libc::winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: The ioctl reads one `winsize`, which is there.
    unsafe { set_window_size(terminal.as_raw_fd(), &size) }.context("TIOCSWINSZ")?;
    println!(
        "The module is loaded. `guest test --here --filter NAME` runs tests, \
         `dmesg` shows the kernel log, `exit` powers off."
    );

    let copy = |f: &File| f.try_clone().context("dup");
    let (input, output, error) = (copy(&terminal)?, copy(&terminal)?, copy(&terminal)?);
    let mut command = Command::new(BUSYBOX);
    command
        .args(["sh", "-l"])
        .env("TERM", "linux")
        .env("PS1", "guest:\\w# ")
        .stdin(input)
        .stdout(output)
        .stderr(error);
    let own_the_terminal = || {
        setsid()?;
        // SAFETY: The ioctl takes a number; the descriptor is standard input.
        unsafe { set_controlling_terminal(0, 0) }?;
        Ok(())
    };
    // SAFETY: It makes two system calls and touches no memory of others.
    unsafe { command.pre_exec(own_the_terminal) };
    let shell = command.spawn().context(BUSYBOX)?.id();

    // As PID 1, this collects the orphans of what is run in there as well.
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))
                if pid.as_raw() as u32 == shell =>
            {
                return Ok(());
            }
            Ok(_) => {}
            Err(Errno::EINTR) => sleep(Duration::from_millis(1)),
            Err(e) => return Err(e).context("wait"),
        }
    }
}
