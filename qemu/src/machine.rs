// SPDX-License-Identifier: GPL-2.0-only

//! One virtual machine: QEMU, what comes out of it, and its time limit.
//!
//! Every channel is a socket pair of which QEMU inherits one end, so nothing
//! has a name that could clash, and all of them end when QEMU does:
//! the serial line (the kernel's warnings and panics), four virtio-serial
//! ports (report, people's output, kernel log, results) and QMP, which alone tells a
//! power-off from a restart.

use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::thread;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use command_fds::CommandFdExt;
use command_fds::FdMapping;
use serde_json::Value;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::accel::Accel;
use crate::initramfs;
use crate::secure_boot::Firmware;
use crate::verdict;
use crate::verdict::End;
use crate::verdict::Record;

/// Debian's name for it.
const QEMU: &str = "qemu-system-x86_64";
/// What the kernel is told; what stands behind `--` goes to the guest's init.
const KERNEL_ARGUMENTS: &[&str] = &[
    "console=ttyS0",
    // Warnings and worse. A serial line without hardware virtualisation costs
    // several seconds for all of the log, which comes through a port instead.
    "loglevel=5",
    // A panic restarts at once, and `-no-reboot` turns that into an end.
    "panic=-1",
    // After an oops nothing that runs can be believed.
    "oops=panic",
    // The tests read the log while they run; this is for a burst.
    "log_buf_len=4M",
    // The guard pages of a processor that is emulated protect nobody, and
    // flushing them makes every system call dear.
    "mitigations=off",
    // On a busy host an emulated timer can be too late for the test at boot
    // whether it ticks, which then panics.
    "no_timer_check",
    // When the time is up the guest gets an NMI, panics, and shows what every
    // processor does and which tasks are blocked.
    "unknown_nmi_panic",
    "panic_sys_info=all_bt,blocked_tasks",
    // KUnit runs a module's tests as it is loaded: none of them until the
    // pattern is changed, at run time.
    "kunit.enable=1",
    "kunit.autorun=1",
    "kunit.filter_glob=none",
];

/// What a kernel is told besides, of which something is measured.
const MEASURED: &[&str] = &[
    // The same run again, down to the addresses.
    "nokaslr",
    "randomize_kstack_offset=off",
    "norandmaps",
    // Debian's kernel clears all memory as it is allocated, and tmpfs, not knowing, clears it
    // once more. The other kinds of memory would look good for nothing of their own.
    "init_on_alloc=0",
];

/// What a kernel is told besides, that was started with Secure Boot.
const ENFORCED: &[&str] = &[
    "module.sig_enforce=1",
    // The firmware leaves the second processor other memory types than the first; where both are
    // emulated, the kernel now and then hangs for ever as it makes them equal.
    "maxcpus=1",
];

/// How long a machine may go on after a fatal line: for the rest of its text.
const GRACE: Duration = Duration::from_secs(3);
/// How long QEMU may take to leave once its channels are closed, or it was
/// killed.
const LEAVE: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct Spec<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The file system.
    pub contents: initramfs::Contents<'a>,
    /// Arguments of the guest's program. No blanks or quotes.
    pub arguments: &'a [&'a str],
    /// KVM or emulation.
    pub accel: Accel,
    /// For measuring: more RAM, and a kernel that is told [`MEASURED`] as well.
    pub measures: bool,
    /// With less RAM: of it, kernel and guest leave a little over 512 MiB.
    pub small: bool,
    /// With Secure Boot, and a firmware that starts the kernel if it trusts it.
    pub secure_boot: Option<&'a Firmware>,
    /// After this the machine is ended.
    pub limit: Duration,
}

/// Where a run's logs go.
#[derive(Clone, Debug)]
pub struct Logs {
    /// The serial line, and what QEMU says itself.
    pub console: PathBuf,
    /// The kernel log in full, as far as the guest came.
    pub kernel: PathBuf,
    /// The guest's report.
    pub report: PathBuf,
    /// Results for programs. There is no such file if the guest has none.
    pub data: PathBuf,
}

impl Logs {
    /// Named after the run, in a directory that is made if need be.
    pub fn new(directory: &Path, name: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let file = |kind: &str| directory.join(format!("{name}.{kind}"));
        Ok(Self {
            console: file("console.log"),
            kernel: file("kernel.log"),
            report: file("tap"),
            data: file("json"),
        })
    }
}

/// Who is told what while a machine runs.
pub trait Watch {
    /// A line of the report, without its line feed.
    fn report(&mut self, line: &str) {
        let _ = line;
    }
    /// A piece of what people read.
    fn output(&mut self, data: &[u8]) {
        let _ = data;
    }
}

/// Tells nobody.
impl Watch for () {}

/// What the channels' threads send.
enum Event {
    Report(String),
    Output(Vec<u8>),
    Console(String),
    /// The reason of QMP's event SHUTDOWN.
    Shutdown(String),
    Closed,
}

/// Runs a machine to its end.
pub fn run(spec: &Spec<'_>, logs: &Logs, watch: &mut dyn Watch) -> anyhow::Result<Record> {
    let initramfs = pack(spec.contents)?;
    converse(qemu(spec, initramfs.path())?, spec.limit, logs, watch)
}

/// A machine with a disk of its own.
#[derive(Clone, Debug)]
pub struct Disk<'a> {
    /// The disk's image, for QEMU to recognize; it is written to.
    pub image: &'a Path,
    /// A kernel and its initramfs, which find the disk. None: the disk's boot loader is started.
    pub kernel: Option<(&'a Path, &'a Path)>,
    /// Directories that the guest finds by tag, as 9p, to read.
    pub shares: &'a [(&'a str, &'a Path)],
    /// KVM or emulation.
    pub accel: Accel,
    /// After this the machine is ended.
    pub limit: Duration,
}

/// Runs such a machine to its end.
pub fn run_disk(disk: &Disk<'_>, logs: &Logs, watch: &mut dyn Watch) -> anyhow::Result<Record> {
    // The compiler of the kernel's crate takes over a gigabyte.
    let mut command = machine(&["-m", "3G"], disk.accel);
    command.arg("-drive").arg(format!(
        "file={},if=virtio,cache=unsafe,discard=unmap",
        disk.image.display()
    ));
    for (tag, path) in disk.shares {
        command.arg("-virtfs").arg(format!(
            "local,path={},mount_tag={tag},security_model=none,readonly=on",
            path.display()
        ));
    }
    if let Some((kernel, initramfs)) = disk.kernel {
        command
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", "root=/dev/vda1 rw console=ttyS0 no_timer_check"]);
    }
    converse(command, disk.limit, logs, watch)
}

/// Starts QEMU, and follows its channels until it has ended.
fn converse(
    mut command: Command,
    limit: Duration,
    logs: &Logs,
    watch: &mut dyn Watch,
) -> anyhow::Result<Record> {
    let create = |path: &Path| {
        File::create(path).with_context(|| format!("cannot write {}", path.display()))
    };
    let console_log = create(&logs.console)?;
    let kernel_log = create(&logs.kernel)?;
    let mut report_log = create(&logs.report)?;

    let mut channels = Channels::default();
    let console = channels.add("console")?;
    let report = channels.add("verdict")?;
    let output = channels.add("out")?;
    let kmsg = channels.add("kmsg")?;
    let data = channels.add("data")?;
    let mut qmp = channels.add("qmp")?;
    command
        .args(["-display", "none"])
        .args(["-serial", "chardev:console"])
        .args(["-mon", "chardev=qmp,mode=control"])
        .args(["-device", "virtio-serial-pci,max_ports=5"]);
    for (port, chardev) in [
        ("ashmem.verdict", "verdict"),
        ("ashmem.out", "out"),
        ("ashmem.kmsg", "kmsg"),
        ("ashmem.data", "data"),
    ] {
        command.args([
            "-device",
            &format!("virtserialport,chardev={chardev},name={port}"),
        ]);
    }
    channels.give_to(&mut command)?;
    command
        .stdin(Stdio::null())
        .stdout(console_log.try_clone()?)
        .stderr(console_log.try_clone()?);

    let mut qemu = Qemu::start(command)?;
    // The events come only after this; an error is seen as a closed channel.
    let _ = writeln!(qmp, "{}", json!({"execute": "qmp_capabilities"}));

    let (to, events) = mpsc::channel();
    let open = 6;
    spawn(&to, |to| read_console(console, console_log, to));
    spawn(&to, |to| {
        read_lines(report, |line| to.send(Event::Report(line)).is_ok())
    });
    spawn(&to, |to| read_output(output, to));
    spawn(&to, |_| copy(kmsg, kernel_log));
    let data_log = logs.data.clone();
    spawn(&to, move |_| keep(data, &data_log));
    let qmp_in = qmp.try_clone()?;
    spawn(&to, |to| read_qmp(qmp_in, to));
    drop(to);

    let mut record = Record {
        report: String::new(),
        console: String::new(),
        end: End::Other("QEMU was not heard of".into()),
    };
    let mut receive = |event: Event, record: &mut Record| -> anyhow::Result<Heard> {
        match event {
            Event::Report(line) => {
                report_log.write_all(line.as_bytes())?;
                record.report += &line;
                watch.report(line.trim_end_matches('\n'));
            }
            Event::Output(data) => watch.output(&data),
            Event::Console(line) => {
                record.console += &line;
                if verdict::is_fatal(&line) {
                    return Ok(Heard::Fatal(line.trim().to_owned()));
                }
            }
            Event::Shutdown(reason) => return Ok(Heard::Shutdown(reason)),
            Event::Closed => return Ok(Heard::Closed),
        }
        Ok(Heard::Nothing)
    };
    let ended = listen(&events, &mut record, &mut receive, open, limit)?;
    if ended.early.is_some() {
        if ended.early == Some(End::TimeUp(limit)) {
            // Makes the kernel show where its processors are, and panic.
            let _ = writeln!(qmp, "{}", json!({"execute": "inject-nmi"}));
            listen(&events, &mut record, &mut receive, ended.open, GRACE)?;
        }
        qemu.kill()?;
    }
    let status = qemu.wait(LEAVE)?;
    // What was still on its way.
    while let Ok(event) = events.recv_timeout(LEAVE) {
        receive(event, &mut record)?;
    }
    record.end = match (ended.early, ended.shutdown.as_deref()) {
        (Some(end), _) => end,
        (None, Some("guest-shutdown")) if status.success() => End::PowerOff,
        (None, Some("guest-reset")) => End::Reset,
        (None, reason) => End::Other(format!(
            "QEMU ended with {status}, and its reason is {}",
            reason.unwrap_or("unknown; what it said stands in the console's log")
        )),
    };
    Ok(record)
}

/// What an event meant for the machine's end.
enum Heard {
    Nothing,
    Fatal(String),
    Shutdown(String),
    Closed,
}

/// Why listening stopped.
struct Ended {
    /// The machine has to be ended, for this reason. None: it has ended.
    early: Option<End>,
    /// QMP's reason for the end.
    shutdown: Option<String>,
    /// Channels that are still open.
    open: usize,
}

/// Listens until all channels are closed, or the machine is to be ended.
fn listen(
    events: &Receiver<Event>,
    record: &mut Record,
    receive: &mut dyn FnMut(Event, &mut Record) -> anyhow::Result<Heard>,
    mut open: usize,
    limit: Duration,
) -> anyhow::Result<Ended> {
    let mut deadline = Instant::now() + limit;
    let mut fatal = None;
    let mut shutdown = None;
    while open > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = match events.recv_timeout(left) {
            Ok(event) => event,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let early = match fatal {
                    Some(line) => End::Fatal(line),
                    None => End::TimeUp(limit),
                };
                return Ok(Ended {
                    early: Some(early),
                    shutdown,
                    open,
                });
            }
        };
        match receive(event, record)? {
            Heard::Nothing => {}
            Heard::Closed => open -= 1,
            Heard::Shutdown(reason) => shutdown = Some(reason),
            Heard::Fatal(line) => {
                if fatal.is_none() {
                    fatal = Some(line);
                    deadline = deadline.min(Instant::now() + GRACE);
                }
            }
        }
    }
    Ok(Ended {
        early: fatal.map(End::Fatal),
        shutdown,
        open,
    })
}

/// Runs a machine with its serial line on this terminal. Returns when it ends.
pub fn run_interactive(spec: &Spec<'_>) -> anyhow::Result<()> {
    let initramfs = pack(spec.contents)?;
    let mut command = qemu(spec, initramfs.path())?;
    command
        .args(["-display", "none"])
        // Ctrl-C goes to the guest; Ctrl-a x ends QEMU.
        .args(["-chardev", "stdio,id=console,mux=on,signal=off"])
        .args(["-serial", "chardev:console"])
        .args(["-mon", "chardev=console"]);
    let mut qemu = Qemu::start(command)?;
    let status = qemu.wait(spec.limit)?;
    anyhow::ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}

fn pack(contents: initramfs::Contents<'_>) -> anyhow::Result<NamedTempFile> {
    let mut file = NamedTempFile::new().context("cannot make a temporary file")?;
    let mut archive = vec![];
    initramfs::write(contents, &mut archive)?;
    file.write_all(&archive)
        .with_context(|| format!("cannot write {}", file.path().display()))?;
    Ok(file)
}

/// The machine of the test guest.
fn qemu(spec: &Spec<'_>, initramfs: &Path) -> anyhow::Result<Command> {
    // Huge pages for memory that is touched here and there take the 3 GiB.
    let (memory, measured) = match spec.measures {
        true => ("3G", MEASURED),
        false if spec.small => ("800M", &[][..]),
        false => ("1G", &[][..]),
    };
    let enforced = spec.secure_boot.map_or(&[][..], |_| ENFORCED);
    let append = format!(
        "{} -- {}",
        [KERNEL_ARGUMENTS, measured, enforced].concat().join(" "),
        spec.arguments.join(" ")
    );
    let mut command = machine(&["-m", memory], spec.accel);
    match spec.secure_boot {
        Some(firmware) => command.args(firmware.arguments(spec.kernel, initramfs, &append)?),
        None => command
            .arg("-kernel")
            .arg(spec.kernel)
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append")
            .arg(append),
    };
    Ok(command)
}

/// QEMU with no devices but those that are named.
fn machine(arguments: &[&str], accel: Accel) -> Command {
    // QEMU has to end with this process even if that is killed.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", QEMU])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-machine", "q35"])
        .args(arguments)
        .args(accel.arguments());
    command
}

/// The sockets that QEMU inherits.
#[derive(Default)]
struct Channels {
    names: Vec<&'static str>,
    ends: Vec<OwnedFd>,
}

impl Channels {
    /// The first descriptor that QEMU inherits for a channel.
    const FIRST: i32 = 3;

    /// Makes one, and gives the end that stays here.
    fn add(&mut self, name: &'static str) -> anyhow::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair().context("socketpair")?;
        self.names.push(name);
        self.ends.push(theirs.into());
        Ok(ours)
    }

    fn give_to(self, command: &mut Command) -> anyhow::Result<()> {
        let mut mappings = vec![];
        for (child_fd, (name, parent_fd)) in
            (Self::FIRST..).zip(self.names.into_iter().zip(self.ends))
        {
            command.args(["-chardev", &format!("socket,id={name},fd={child_fd}")]);
            mappings.push(FdMapping {
                parent_fd,
                child_fd,
            });
        }
        command
            .fd_mappings(mappings)
            .context("descriptors for QEMU")?;
        Ok(())
    }
}

/// The process. It does not outlive this value.
struct Qemu(Child);

impl Qemu {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        // The command keeps QEMU's ends of the channels; dropping it here
        // closes them, or no channel would ever end.
        let child = command
            .spawn()
            .context("cannot run setpriv (Debian's package util-linux)")?;
        Ok(Self(child))
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.0.kill().context("cannot end QEMU")
    }

    fn wait(&mut self, limit: Duration) -> anyhow::Result<std::process::ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait().context("waiting for QEMU")? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill()?;
                anyhow::bail!("QEMU had not ended after {} s", limit.as_secs());
            }
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a thread for a channel; its end is told.
fn spawn(to: &Sender<Event>, read: impl FnOnce(&Sender<Event>) + Send + 'static) {
    let to = to.clone();
    thread::spawn(move || {
        read(&to);
        let _ = to.send(Event::Closed);
    });
}

/// Reads lines, each with its line feed, which only a last one may lack. An
/// error is the end: QEMU closed the channel.
fn read_lines(from: UnixStream, mut each: impl FnMut(String) -> bool) {
    let mut from = BufReader::new(from);
    let mut line = vec![];
    while let Ok(1..) = from.read_until(b'\n', &mut line) {
        if !each(String::from_utf8_lossy(&line).into_owned()) {
            return;
        }
        line.clear();
    }
}

fn read_console(from: UnixStream, mut log: File, to: &Sender<Event>) {
    read_lines(from, |line| {
        // Written at once: somebody may follow the file.
        log.write_all(line.as_bytes()).is_ok() && to.send(Event::Console(line)).is_ok()
    });
}

fn read_output(mut from: UnixStream, to: &Sender<Event>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.send(Event::Output(buffer[..n].to_vec())).is_err() {
            return;
        }
    }
}

fn copy(mut from: UnixStream, mut log: File) {
    // An error is the end: QEMU closed the channel.
    let _ = std::io::copy(&mut from, &mut log);
}

/// Writes what comes to a file, if something comes. What cannot be written is missed by who reads
/// the file.
fn keep(from: UnixStream, path: &Path) {
    let mut from = BufReader::new(from);
    if from.fill_buf().is_ok_and(|data| !data.is_empty()) {
        if let Ok(mut file) = File::create(path) {
            let _ = std::io::copy(&mut from, &mut file);
        }
    }
}

fn read_qmp(from: UnixStream, to: &Sender<Event>) {
    read_lines(from, |line| {
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            return true;
        };
        if message["event"] == "SHUTDOWN" {
            let reason = message["data"]["reason"].as_str().unwrap_or("not given");
            return to.send(Event::Shutdown(reason.to_owned())).is_ok();
        }
        true
    });
}
