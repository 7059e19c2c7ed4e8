// SPDX-License-Identifier: GPL-2.0-only

//! A string that one run leaves for the next one.
//!
//! Memory of a region lives as long as somebody has it open or mapped, and it has no name by which it
//! could be opened again. So a process that outlives both runs, the keeper, holds the descriptor.

use std::env;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::process::Stdio;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use ashmem::Region;

use crate::program;
use crate::socket;

/// What the region is called; `/proc/PID/maps` shows it.
const NAME: &std::ffi::CStr = c"for-the-next-run";

/// The keeper. Who connects is told whether something is kept, and is sent it, or sends it.
pub fn keep(at: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(at)?;
    println!("listening");
    let mut kept = None;
    for visitor in listener.incoming() {
        // Whoever goes in the middle of it harms nobody else.
        visit(&visitor?, &mut kept).unwrap_or_else(|e| eprintln!("keeper: {e:#}"));
    }
    Ok(())
}

/// One who connected.
fn visit(mut visitor: &UnixStream, kept: &mut Option<Region>) -> anyhow::Result<()> {
    if let Some(region) = kept {
        visitor.write_all(b"y")?;
        socket::send(visitor, region)?;
    } else {
        visitor.write_all(b"n")?;
        *kept = Some(Region::try_from(socket::receive(visitor)?)?);
        visitor.write_all(b"k")?;
    }
    Ok(())
}

/// The program: reads what the last run has left, or leaves something itself.
pub fn run(at: &Path, leaves: &str) -> anyhow::Result<()> {
    let mut keeper = UnixStream::connect(at).context("no keeper")?;
    let mut answer = [0];
    keeper.read_exact(&mut answer)?;
    match &answer {
        b"n" => {
            let region = Region::new(NAME, leaves.len())?;
            region.map()?.write(0, leaves.as_bytes());
            socket::send(&keeper, &region)?;
            keeper.read_exact(&mut answer).context("it is not kept")?;
            println!("finds nothing, and leaves {leaves:?}");
        }
        b"y" => {
            let region = Region::try_from(socket::receive(&keeper)?)?;
            let mut found = vec![0; region.size()?.try_into()?];
            region.map()?.read(0, &mut found);
            println!("finds {:?}", String::from_utf8(found)?);
        }
        _ => bail!("the keeper's answer is none"),
    }
    Ok(())
}

/// A process that does not outlive this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // If it has ended by itself, that is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A keeper that listens already.
fn start(at: &str) -> anyhow::Result<Ended> {
    let mut keeper = Ended(program(&["keeper", at])?.stdout(Stdio::piped()).spawn()?);
    let out = keeper.0.stdout.as_mut().context("its output")?;
    out.read_exact(&mut [0; 10]).context("the keeper")?;
    Ok(keeper)
}

/// Runs the program twice, and looks at the keeper meanwhile.
pub fn show() -> anyhow::Result<()> {
    let folder = env::temp_dir().join(format!("textbook-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let shown = show_in(&folder.join("socket"));
    fs::remove_dir_all(&folder)?;
    shown
}

fn show_in(at: &Path) -> anyhow::Result<()> {
    let at = at.to_str().context("a path that is no text")?;
    let keeper = start(at)?;
    let run = |leaves| -> anyhow::Result<String> {
        let output = program(&["run", at, leaves])?
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "run: {}", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };

    println!("a string for the next run");
    let first = run("written by the first run")?;
    println!("  the first run {first}");
    ensure!(first == "finds nothing, and leaves \"written by the first run\"");

    let proc = Path::new("/proc").join(keeper.0.id().to_string());
    let mut descriptors = 0;
    for entry in fs::read_dir(proc.join("fd"))? {
        let what = fs::read_link(entry?.path())?;
        descriptors += usize::from(what.to_string_lossy().contains("ashmem"));
    }
    let maps = fs::read_to_string(proc.join("maps"))?;
    let mapped = maps.lines().filter(|line| line.contains("ashmem")).count();
    println!(
        "  it has ended; the keeper has {descriptors} descriptor of a region, and {mapped} mappings"
    );
    ensure!(descriptors == 1 && mapped == 0);

    let second = run("written by the second run")?;
    println!("  the second run {second}");
    ensure!(second == "finds \"written by the first run\"");
    Ok(())
}
