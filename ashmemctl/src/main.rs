// SPDX-License-Identifier: GPL-2.0-only

//! `ashmemctl`: see its manual page, ashmemctl(8).

use std::ffi::OsString;
use std::io;
use std::io::Write;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use ashmemctl::error::Error;
use ashmemctl::error::Kind;
use ashmemctl::error::Result;
use ashmemctl::pages::Pages;
use ashmemctl::pages::Run;
use ashmemctl::process::Device;
use ashmemctl::snapshot;
use ashmemctl::snapshot::NotLookedAt;
use ashmemctl::snapshot::Snapshot;
use ashmemctl::text;
use clap::Parser;
use clap::Subcommand;
use serde::Serialize;

/// Look at the regions of /dev/ashmem
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// List the regions of all processes, and who holds them
    List,
    /// Show a region page by page
    Show {
        /// Its inode, its name, or PID:FD
        region: OsString,
        /// How many pages a letter stands for, if not as many as make 32 lines
        #[arg(long, value_name = "PAGES")]
        group: Option<NonZeroU64>,
    },
    /// Purge all that is unpinned, of every region of the machine
    Purge,
}

/// Bytes of a page.
fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(error.kind() as u8)
        }
    }
}

/// To standard error; where that is closed, nobody wants to know.
fn say(message: &str) {
    let _ = writeln!(io::stderr(), "ashmemctl: {message}");
}

/// To standard output. Who stopped reading has seen enough.
fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::answer("standard output", &error))
        }
        _ => Ok(()),
    }
}

/// Does it; gives what is to be printed.
fn run(cli: &Cli) -> Result<String> {
    let device = Device::find()?;
    match &cli.command {
        Command::List => list(device, cli.json),
        Command::Show { region, group } => {
            let snapshot = Snapshot::take(device)?;
            let region = snapshot.find(region.as_bytes())?;
            show(region, *group, cli.json)
        }
        Command::Purge => purge(device, cli.json),
    }
}

fn list(device: Device, as_json: bool) -> Result<String> {
    #[derive(Serialize)]
    struct List<'a> {
        page_size: u64,
        #[serde(flatten)]
        snapshot: &'a Snapshot,
    }
    let snapshot = Snapshot::take(device)?;
    if let Some(missing) = text::not_looked_at(&snapshot) {
        say(&missing);
    }
    if as_json {
        return json(&List {
            page_size: page_size(),
            snapshot: &snapshot,
        });
    }
    Ok(text::list(&snapshot, page_size()))
}

fn show(region: &snapshot::Region, group: Option<NonZeroU64>, as_json: bool) -> Result<String> {
    #[derive(Serialize)]
    struct Show<'a> {
        page_size: u64,
        #[serde(flatten)]
        region: &'a snapshot::Region,
        pages: u64,
        runs: &'a [Run],
    }
    let pages = Pages::of(region, page_size())?;
    if as_json {
        return json(&Show {
            page_size: page_size(),
            region,
            pages: pages.len(),
            runs: pages.runs(),
        });
    }
    Ok(text::show(region, &pages, group.map(NonZeroU64::get)))
}

fn purge(device: Device, as_json: bool) -> Result<String> {
    #[derive(Serialize)]
    struct Purge {
        page_size: u64,
        purged: usize,
        resident_before: u64,
        resident_after: u64,
        not_looked_at: Vec<NotLookedAt>,
    }
    let before = Snapshot::take(device)?;
    let purged = ashmem::Region::fresh()?.purge_all_caches()?;
    let after = Snapshot::take(device)?;
    if let Some(missing) = text::not_looked_at(&after) {
        say(&missing);
    }
    let purge = Purge {
        page_size: page_size(),
        purged,
        resident_before: before.resident(),
        resident_after: after.resident(),
        not_looked_at: after.not_looked_at,
    };
    if as_json {
        return json(&purge);
    }
    let bytes = |pages: u64| text::bytes(pages * page_size());
    Ok(format!(
        "{purged} unpinned pages were purged; all regions had {} of memory before, and have {} now.\n",
        bytes(purge.resident_before),
        bytes(purge.resident_after)
    ))
}

fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::new(Kind::Other, error.to_string()))?;
    Ok(text::ascii(&text) + "\n")
}
