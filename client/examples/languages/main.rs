// SPDX-License-Identifier: GPL-2.0-only

//! One region in three languages: this program, one in C and one in Python write to it in turn.
//!
//! `region.c` is built as `region-c`, with libashmem; `region.py` needs Python's own modules only. Each is
//! started with two descriptors: of the region, and of a socket, by which it hands over a region that it has
//! made itself. What they say of what they find is compared with what is so.

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;
use anyhow::ensure;
use ashmem::MapOptions;
use ashmem::Mapping;
use ashmem::Protection;
use ashmem::Region;
use nix::errno::Errno;
use nix::unistd::dup;

#[expect(dead_code, reason = "sending is done in C and in Python")]
#[path = "../heap/socket.rs"]
mod socket;

/// What the region that all use is called.
const NAME: &CStr = c"three languages";
/// Its size in bytes: a page of lines, and one that is purged.
const SIZE: usize = 2 * PAGE;
/// In bytes.
const PAGE: usize = 4096;
/// The second page.
const SECOND: Range<u64> = PAGE as u64..SIZE as u64;
/// In bytes: a line, and the NULs that fill it up.
const LINE: usize = 64;

/// The program in C.
fn c() -> Command {
    Command::new("region-c")
}

/// The program in Python, which comes from here; neither the environment nor the machine's settings for
/// Python have a say in it, and no compiled files are left behind.
fn python() -> Command {
    let mut command = Command::new("python3");
    command.args(["-ISB", "-c", include_str!("region.py")]);
    command
}

/// The line at an offset.
fn line_at(map: &Mapping, offset: usize) -> String {
    let mut line = [0; LINE];
    map.read(offset, &mut line);
    let text = line.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// The lines that are there.
fn lines(map: &Mapping) -> Vec<String> {
    let lines = (0..PAGE).step_by(LINE).map(|offset| line_at(map, offset));
    lines.take_while(|line| !line.is_empty()).collect()
}

/// What a program should say that is given the region with these lines.
fn expected(lines: &[String], letter: char) -> String {
    let mut text = format!("is given {NAME:?}, {SIZE} bytes\n");
    for line in lines {
        text += &format!("reads {line:?}\n");
    }
    text += &format!("pins what was unpinned: 0, '{letter}' is there\n");
    text + "pins what was purged: 1, 0 is there\n"
}

/// Starts a program with the region. Gives what it says, and the region that it hands over.
fn run(mut program: Command, region: &Region) -> anyhow::Result<(String, Region)> {
    let (here, there) = UnixStream::pair()?;
    // The library's descriptors are closed by exec, as Rust's are: what dup(2) gives is not.
    let inherited = [dup(region)?, dup(&there)?];
    let output = program
        .args(inherited.each_ref().map(|fd| fd.as_raw_fd().to_string()))
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{:?}", program.get_program()))?;
    ensure!(output.status.success(), "{}", output.status);
    let made = Region::try_from(socket::receive(&here)?)?;
    Ok((String::from_utf8(output.stdout)?, made))
}

/// As the others do it. Gives what the pins tell, and what is there.
fn pin_and_purge(region: &Region, map: &Mapping) -> anyhow::Result<[(bool, u8); 2]> {
    let pin = || {
        let purged = !region.pin(SECOND)?.keep();
        let mut found = [0];
        map.read(PAGE, &mut found);
        anyhow::Ok((purged, found[0]))
    };
    map.write(PAGE, &[b'R'; PAGE]);
    region.unpin(SECOND)?;
    let unpinned = pin()?;
    region.unpin(SECOND)?;
    region.purge_all_caches()?;
    Ok([unpinned, pin()?])
}

/// What is seen of a region that came from another language.
fn look_at(made: &Region) -> anyhow::Result<String> {
    let map = made.map_with(MapOptions::new().protection(Protection::READ))?;
    let refused = made.map().err().context("it is mapped to be written")?;
    let (name, size, line) = (made.name()?, made.size()?, line_at(&map, 0));
    let errno = Errno::from_raw(refused.errno());
    Ok(format!(
        "{name:?}, {size} bytes: {line:?}; mapped to be written: {errno:?}"
    ))
}

fn main() -> anyhow::Result<()> {
    let region = Region::new(NAME, SIZE)?;
    let map = region.map()?;
    let mut written = vec!["a line written in Rust".to_owned()];
    map.write(0, written[0].as_bytes());
    println!("Rust makes {NAME:?}, {SIZE} bytes, and writes the first line");

    let mut made = vec![];
    for (language, program) in [("C", c()), ("Python", python())] {
        let (said, theirs) = run(program, &region).context(language)?;
        println!("\n{language}");
        for line in said.lines() {
            println!("  {line}");
        }
        let letter = language.chars().next().context("a letter")?;
        ensure!(said == expected(&written, letter), "that is not so");
        written.push(format!("a line written in {language}"));
        made.push((language, theirs));
    }

    println!("\nRust");
    let found = lines(&map);
    for line in &found {
        println!("  reads {line:?}");
    }
    ensure!(found == written);
    let [unpinned, purged] = pin_and_purge(&region, &map)?;
    let (result, letter) = (u8::from(unpinned.0), char::from(unpinned.1));
    println!("  pins what was unpinned: {result}, '{letter}' is there");
    let (result, found) = (u8::from(purged.0), purged.1);
    println!("  pins what was purged: {result}, {found} is there");
    ensure!((unpinned, purged) == ((false, b'R'), (true, 0)));

    println!("\nregions that were handed over, as Rust finds them");
    for (language, region) in made {
        let found = look_at(&region)?;
        println!("  {found}");
        let line = format!("what {language} has to say");
        let name = format!("made in {language}");
        let expected = format!("{name:?}, 5000 bytes: {line:?}; mapped to be written: EPERM");
        ensure!(found == expected, "it should be {expected}");
    }
    Ok(())
}
