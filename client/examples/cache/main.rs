// SPDX-License-Identifier: GPL-2.0-only

//! A cache that gives way: where memory is short its pictures are taken back, and nobody is killed.
//!
//! A picture that was decoded can be decoded again. So the cache leaves its pictures unpinned, and pins one
//! while it is looked at; that tells whether the kernel took it meanwhile: see `pictures.rs`. Memory is short
//! in the whole machine first, and then in a memory cgroup, as a container has one. Beside it is the same cache
//! in a memfd, of which nothing can be given back: there the kernel's out-of-memory killer ends a process. That
//! is done in the memory cgroup only, so that nobody else can be killed.
//!
//! This uses up the machine's memory, and is for a guest: `make run EXAMPLE=cache`. `cache keep KIND PICTURES`
//! is the cache, and `cache want BYTES` the other process.

use std::env;
use std::fs;
use std::hint::black_box;
use std::io::Read;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use nix::fcntl::FallocateFlags;
use nix::fcntl::fallocate;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::signal::Signal;
use pictures::Cache;
use pictures::PICTURE;

mod pictures;

const MIB: usize = 1 << 20;
/// What the machine has for all processes.
const ROOM: usize = 512 * MIB;
/// The cache.
const CACHE: usize = 300 * MIB;
/// What another process wants.
const WANTED: usize = 400 * MIB;
/// The variable that says which memory cgroup a process is to join.
const JOIN: &str = "CACHE_GROUP";

// The two processes. ----------------------------------------------------------

/// Decodes all pictures; when its standard input ends, looks at them again and says how many were there.
fn keep(kind: &str, pictures: usize) -> anyhow::Result<()> {
    let mut cache = Cache::new(kind, pictures)?;
    for number in 0..pictures {
        ensure!(!cache.look_at(number)?, "picture {number} is there already");
    }
    println!("full");
    std::io::stdin().read_to_end(&mut vec![])?;
    let mut there = 0;
    for number in 0..pictures {
        there += usize::from(cache.look_at(number)?);
    }
    println!("{there}");
    Ok(())
}

/// Writes to so much memory of its own, and says so after each MiB by a byte.
fn want(bytes: usize) -> anyhow::Result<()> {
    let mut memory = vec![0u8; bytes];
    let mut says = std::io::stdout();
    for part in memory.chunks_mut(MIB) {
        for page in part.chunks_mut(4096) {
            page[0] = 1;
        }
        says.write_all(b".")?;
        says.flush()?;
    }
    // It is had until here.
    black_box(&memory);
    Ok(())
}

// The show. --------------------------------------------------------------------

/// A number of /proc.
fn number(path: &str, key: &str) -> anyhow::Result<usize> {
    let text = fs::read_to_string(path)?;
    let mut words = text.split_whitespace().skip_while(|word| *word != key);
    let found = words
        .nth(1)
        .with_context(|| format!("{path} has no {key}"))?;
    Ok(found.parse()?)
}

/// What processes can have.
fn available() -> anyhow::Result<usize> {
    Ok(number("/proc/meminfo", "MemAvailable:")? * 1024)
}

/// Takes so much memory away from the machine that processes have `room`. It belongs to none of them, so that
/// none is killed for it, and without swap it stays until this is dropped.
fn leave(room: usize) -> anyhow::Result<OwnedFd> {
    let file = memfd_create(c"away", MFdFlags::MFD_CLOEXEC)?;
    let mut taken = 0;
    // What is found available is not exact.
    loop {
        let more = available()?.saturating_sub(room) / MIB * MIB;
        if more == 0 {
            return Ok(file);
        }
        fallocate(&file, FallocateFlags::empty(), taken, more as i64)?;
        taken += more as i64;
    }
}

/// A memory cgroup, removed when this is dropped.
struct Group(PathBuf);

impl Group {
    fn new(room: usize) -> anyhow::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        fs::write(root.join("cgroup.subtree_control"), "+memory")?;
        let group = Self(root.join(format!("cache-{}", std::process::id())));
        fs::create_dir(&group.0)?;
        fs::write(group.0.join("memory.max"), room.to_string())?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// This program once more; it joins the group, if there is one, before it does anything.
fn side(arguments: &[&str], group: Option<&Group>) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(arguments).stdout(Stdio::piped());
    if let Some(Group(path)) = group {
        command.env(JOIN, path);
    }
    Ok(command)
}

/// What is to be shown.
struct Load {
    pictures: usize,
    /// MiB that the other process wants.
    wanted: usize,
}

/// What came of a cache.
struct End {
    /// How many pictures were there, if it lived to tell.
    there: Option<usize>,
    /// The signal by which it died.
    signal: Option<i32>,
    /// MiB that the other process got.
    got: usize,
    /// Processes that were killed for want of memory.
    kills: usize,
}

impl Load {
    /// Fills a cache, has another process want memory, and looks at the cache.
    fn run(&self, kind: &str, group: Option<&Group>) -> anyhow::Result<End> {
        let kills = number("/proc/vmstat", "oom_kill")?;
        let pictures = self.pictures.to_string();
        let mut cache = side(&["keep", kind, &pictures], group)?
            .stdin(Stdio::piped())
            .spawn()?;
        let says = cache.stdout.as_mut().context("its output")?;
        says.read_exact(&mut [0; 5]).context("no cache")?;
        // Nobody says whom to kill: all processes have the same oom_score_adj.
        let wanted = (self.wanted * MIB).to_string();
        let other = side(&["want", &wanted], group)?.spawn()?;
        let other = other.wait_with_output()?;
        ensure!(other.status.success() || other.status.signal().is_some());
        // Its standard input ends by this.
        let cache = cache.wait_with_output()?;
        ensure!(cache.status.success() || cache.status.signal().is_some());
        let end = End {
            there: String::from_utf8(cache.stdout)?.trim().parse().ok(),
            signal: cache.status.signal(),
            got: other.stdout.len(),
            kills: number("/proc/vmstat", "oom_kill")? - kills,
        };
        println!("  the other process gets ~{} MiB", end.got);
        Ok(end)
    }

    /// In a region: nobody is killed.
    fn run_in_a_region(&self, group: Option<&Group>) -> anyhow::Result<()> {
        let end = self.run("region", group)?;
        let there = end.there.context("the cache is gone")?;
        let again = self.pictures - there;
        println!("  ~{there} pictures are there still, ~{again} are decoded again");
        println!("  processes killed: {}", end.kills);
        ensure!(end.got == self.wanted && end.signal.is_none() && end.kills == 0);
        ensure!(there > 0 && again > 0);
        Ok(())
    }

    /// In a memfd: the cache's process is killed, which has the most memory.
    fn run_in_a_memfd(&self, group: &Group) -> anyhow::Result<()> {
        let end = self.run("memfd", Some(group))?;
        let signal = Signal::try_from(end.signal.context("the cache lives")?)?;
        println!("  the cache's process ends by {signal}");
        // What it shared is free a while later only, and until then another one may be killed.
        println!("  processes killed: ~{}", end.kills);
        ensure!(end.there.is_none() && signal == Signal::SIGKILL && end.kills > 0);
        Ok(())
    }
}

fn show() -> anyhow::Result<()> {
    ensure!(
        number("/proc/meminfo", "MemTotal:")? < 2 << 20,
        "it uses up the machine's memory, and this is no small guest: make run EXAMPLE=cache"
    );
    // Where there is less than that, all is less in proportion.
    let room = available()?.min(ROOM);
    let share = |of: usize| (of as u64 * room as u64 / ROOM as u64) as usize / MIB;
    let load = Load {
        pictures: share(CACHE) * MIB / PICTURE,
        wanted: share(WANTED),
    };
    println!(
        "a cache has ~{} pictures of 1 MiB, and another process wants ~{} MiB",
        load.pictures, load.wanted
    );
    let away = leave(room)?;
    println!("\nin a region; the machine has ~{} MiB", available()? / MIB);
    load.run_in_a_region(None)?;
    drop(away);

    let group = Group::new(room)?;
    println!("\nin a region; a memory cgroup has ~{} MiB", room / MIB);
    load.run_in_a_region(Some(&group))?;
    println!("\nin a memfd; the memory cgroup has ~{} MiB", room / MIB);
    load.run_in_a_memfd(&group)
}

fn main() -> anyhow::Result<()> {
    if let Some(group) = env::var_os(JOIN) {
        fs::write(Path::new(&group).join("cgroup.procs"), "0")?;
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => show(),
        ["keep", kind, pictures] => keep(kind, pictures.parse()?),
        ["want", bytes] => want(bytes.parse()?),
        _ => bail!("usage: cache [keep region|memfd PICTURES | want BYTES]"),
    }
}
