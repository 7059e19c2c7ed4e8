// SPDX-License-Identifier: GPL-2.0-only

//! The textbook programs of mmap: cat, a string for the next run, parent and child that count, and all edges.
//!
//! Without arguments it shows all of them. The programs themselves are `textbook cat`, which copies its
//! standard input, `textbook keeper SOCKET` and `textbook run SOCKET STRING`, and `textbook count KIND`.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::bail;

mod cat;
mod count;
mod edges;
mod keeper;
#[path = "../heap/socket.rs"]
mod socket;

/// Bytes of a page.
const PAGE: usize = 4096;

/// This program once more, as one of the textbook's.
fn program(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(arguments);
    Ok(command)
}

/// Shows each of them.
fn show() -> anyhow::Result<()> {
    cat::show()?;
    println!();
    keeper::show()?;
    println!();
    count::show()?;
    println!();
    edges::show()
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => show(),
        ["cat"] => cat::run(),
        ["keeper", at] => keeper::keep(Path::new(at)),
        ["run", at, leaves] => keeper::run(Path::new(at), leaves),
        ["count", kind] => count::run(kind),
        _ => bail!("usage: textbook [cat | keeper SOCKET | run SOCKET STRING | count KIND]"),
    }
}
