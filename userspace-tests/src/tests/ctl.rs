// SPDX-License-Identifier: GPL-2.0-only

//! `ashmemctl`, run beside processes that hold regions.

use std::ffi::CStr;
use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use nix::mount::MsFlags;
use nix::mount::mount;
use nix::pty::openpty;
use nix::sched::CloneFlags;
use nix::sched::unshare;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::prctl::set_dumpable;
use nix::sys::prctl::set_name;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::unistd::Gid;
use nix::unistd::Uid;
use nix::unistd::dup;
use nix::unistd::setgid;
use nix::unistd::setuid;
use serde_json::Value;
use serde_json::json;

use crate::harness::tests;
use crate::region::Mapping;
use crate::region::NODE;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::Child;
use crate::tests::process::await_go;
use crate::tests::process::go;
use crate::tests::process::in_child;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::process::spawn;

tests! {
    region_is_listed_once_with_all_its_holders,
    what_is_only_mapped_has_no_counters,
    files_that_are_called_like_regions_are_none,
    never_mapped_ones_are_told_apart,
    other_users_see_their_own_and_are_told_of_the_rest,
    hostile_names_leave_no_line_and_lose_no_byte,
    hostile_numbers_hide_nothing @ 120,
    hostile_sizes_are_refused,
    all_states_are_shown_and_none_is_changed,
    large_regions_are_shown_by_groups,
    regions_are_named_in_three_ways,
    purge_says_what_it_took,
    what_is_missing_is_named_with_a_remedy,
    processes_that_end_meanwhile_are_no_error @ 120,
    output_that_nobody_wants_is_no_error,
    colours_are_for_terminals_that_want_them,
    readme_shows_what_it_prints,
}

/// Pages of a huge page.
const HUGE: usize = 512;

/// The tool with these words, its output to be kept.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new("/bin/ashmemctl");
    command.args(words).stdin(Stdio::inherit());
    command
}

/// What it prints. It must end well and have nothing else to say.
fn print(words: &[&str]) -> anyhow::Result<String> {
    let output = command(words).output().context("ashmemctl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && said.is_empty(),
        "{words:?}: {} {said}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// What it prints as JSON.
fn json(words: &[&str]) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&print(
        &[words, &["--json"]].concat(),
    )?)?)
}

/// The regions that it lists.
fn listed() -> anyhow::Result<Vec<Value>> {
    let mut list = json(&["list"])?;
    ensure!(
        list["page_size"] == PAGE && list["not_looked_at"] == json!([]),
        "{list}"
    );
    match list["regions"].take() {
        Value::Array(regions) => Ok(regions),
        other => anyhow::bail!("{other}"),
    }
}

/// The only region that it lists.
fn only() -> anyhow::Result<Value> {
    let mut regions = listed()?;
    ensure!(regions.len() == 1, "{regions:#?}");
    regions.pop().context("none")
}

/// That it fails with this code, prints nothing, and says all of this.
fn refused(output: &Output, code: i32, words: &[&str]) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(code),
        "{} {said}",
        output.status
    );
    ensure!(output.stdout.is_empty());
    ensure!(
        said.starts_with("ashmemctl: ") && said.lines().count() == 1,
        "{said}"
    );
    for word in words {
        ensure!(said.contains(word), "no `{word}` in: {said}");
    }
    Ok(())
}

/// A process that has something until it is told to end.
struct Party {
    process: Child,
    socket: OwnedFd,
}

impl Party {
    /// Starts one under this name. It has what `f` gives, which may use the socket to us.
    fn new<T>(name: &CStr, f: impl FnOnce(&OwnedFd) -> anyhow::Result<T>) -> anyhow::Result<Self> {
        let (here, there) = sockets()?;
        let process = spawn(|| {
            set_name(name)?;
            let _has = f(&there)?;
            go(&there)?;
            await_go(&there)
        })?;
        Ok(Self {
            process,
            socket: here,
        })
    }

    /// Waits until it has what it is to have.
    fn ready(self) -> anyhow::Result<Self> {
        await_go(&self.socket)?;
        Ok(self)
    }

    fn pid(&self) -> i32 {
        self.process.pid().as_raw()
    }

    /// What `/proc/PID/fdinfo` says of a descriptor.
    fn fdinfo(&self, fd: &Value) -> anyhow::Result<String> {
        let path = format!("/proc/{}/fdinfo/{fd}", self.pid());
        Ok(String::from_utf8_lossy(&fs::read(&path).context(path)?).into_owned())
    }

    /// All that its descriptors say, and what it maps.
    fn all(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let folder = format!("/proc/{}/fdinfo", self.pid());
        let mut found = vec![fs::read(format!("/proc/{}/maps", self.pid()))?];
        for entry in fs::read_dir(folder)? {
            found.push(fs::read(entry?.path())?);
        }
        Ok(found)
    }

    fn end(self) -> anyhow::Result<()> {
        go(&self.socket)?;
        self.process.join()
    }
}

/// A region of this name, and all of it mapped.
fn named(name: &CStr, pages: usize) -> anyhow::Result<(Region, Mapping)> {
    let region = Region::sized(pages)?;
    region.set_name(name)?;
    let map = region.map(pages)?;
    Ok((region, map))
}

fn region_is_listed_once_with_all_its_holders() -> anyhow::Result<()> {
    ensure!(print(&["list"])? == "No process has a region.\n");

    let keeper = Party::new(c"keeper", |socket| {
        let (region, map) = named(c"picture-cache", 64)?;
        map.write_pages(0..10);
        region.unpin(4..8)?;
        ensure!(region.purge_all()? == 4);
        send_fd(socket, region.as_fd())?;
        Ok((region, map))
    })?;
    let sent = receive_fd(&keeper.socket)?;
    let keeper = keeper.ready()?;
    let twice = Party::new(c"twice", |_| {
        let second = dup(&sent)?;
        Ok((sent.try_clone()?, second))
    })?
    .ready()?;
    let mapper = Party::new(c"mapper", |socket| {
        let region = Region::from_fd(receive_fd(socket)?);
        let (one, two) = (region.map(64)?, region.map(3)?);
        Ok((one, two))
    })?;
    send_fd(&mapper.socket, sent.as_fd())?;
    let mapper = mapper.ready()?;
    drop(sent);

    let region = only()?;
    let holders = region["holders"].as_array().context("no holders")?;
    let found: Vec<_> = holders
        .iter()
        .map(|holder| {
            let descriptors = holder["descriptors"].as_array().map_or(0, Vec::len);
            (
                &holder["pid"],
                &holder["command"],
                descriptors,
                &holder["mapped"],
            )
        })
        .collect();
    let numbers = [keeper.pid(), twice.pid(), mapper.pid()].map(Value::from);
    let names = ["keeper", "twice", "mapper"].map(Value::from);
    let mapped = [64 * PAGE, 0, 67 * PAGE].map(Value::from);
    // Each of them has the one that this process had when it started it, too.
    let expected: Vec<_> = [1, 3, 1]
        .iter()
        .enumerate()
        .map(|(at, fds)| (&numbers[at], &names[at], *fds, &mapped[at]))
        .collect();
    ensure!(found == expected, "{region:#}");

    // The same as in fdinfo, value by value.
    let fdinfo = keeper.fdinfo(&holders[0]["descriptors"][0])?;
    ensure!(
        region["purged"] == 4 && region["unpinned"] == 4,
        "{region:#}"
    );
    for key in [
        "inode",
        "size",
        "faults",
        "map_faults",
        "huge_faults",
        "allocated",
        "purged",
        "resident",
        "unpinned",
    ] {
        let line = format!("{key}:\t{}\n", region[key]);
        ensure!(fdinfo.contains(&line), "{line}{fdinfo}");
    }
    ensure!(region["name"] == "picture-cache" && region["name_hex"].is_null());

    let text = print(&["list"])?;
    ensure!(
        text.lines().count() == 5 && text.contains("  \"picture-cache\"\n"),
        "{text}"
    );
    ensure!(
        text.contains(&format!("held by {} mapper: fd ", mapper.pid())),
        "{text}"
    );
    ensure!(text.contains("; 268 KiB mapped\n"), "{text}");
    for party in [keeper, twice, mapper] {
        party.end()?;
    }
    ensure!(listed()?.is_empty());
    Ok(())
}

fn what_is_only_mapped_has_no_counters() -> anyhow::Result<()> {
    for (name, shown) in [
        (c"left over", "left over"),
        // What maps alone does not tell apart.
        (c"a\nb", "a\\nb"),
        (c"a\\012b", "a\\\\012b"),
        (c"", "-"),
    ] {
        let party = Party::new(c"only-maps", |_| {
            let (region, map) = named(name, 4)?;
            map.write_pages(0..4);
            drop(region);
            Ok(map)
        })?
        .ready()?;
        let region = only()?;
        let expected = if name.is_empty() {
            Value::Null
        } else {
            name.to_str()?.into()
        };
        ensure!(region["name"] == expected, "{region:#}");
        for key in [
            "size",
            "faults",
            "allocated",
            "purged",
            "resident",
            "unpinned",
        ] {
            ensure!(region.get(key) == Some(&Value::Null), "{key}: {region:#}");
        }
        let holder = json!({
            "pid": party.pid(), "command": "only-maps", "descriptors": [], "mapped": 4 * PAGE
        });
        ensure!(region["holders"] == json!([holder]), "{region:#}");
        let text = print(&["list"])?;
        let line = text.lines().nth(1).context("no line")?;
        let cells: Vec<_> = line.split_whitespace().collect();
        ensure!(
            Some(cells[0].parse()?) == region["inode"].as_u64() && cells[1..8] == ["-"; 7],
            "{line}"
        );
        let shown = if name.is_empty() {
            shown.to_owned()
        } else {
            format!("\"{shown}\"")
        };
        ensure!(line.ends_with(&format!("  {shown}")), "{line}");

        let output = command(&["show", cells[0]]).output()?;
        refused(&output, 1, &["only mapped", "descriptor"])?;
        party.end()?;
    }
    Ok(())
}

/// From here on, this process has a /dev of its own, with nothing in it.
fn empty_dev() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::empty(), none)?;
    Ok(())
}

fn files_that_are_called_like_regions_are_none() -> anyhow::Result<()> {
    let forger = Party::new(c"forger", |_| {
        empty_dev()?;
        fs::create_dir(NODE)?;
        let path = format!("{NODE}/x");
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)?;
        file.set_len(PAGE as u64)?;
        let map = Mapping::new(&file, PAGE, RW, MapFlags::MAP_SHARED, 0)?;
        fs::remove_file(path)?;
        Ok((file, map))
    })?
    .ready()?;
    let maps = fs::read_to_string(format!("/proc/{}/maps", forger.pid()))?;
    ensure!(maps.contains(" /dev/ashmem/x (deleted)\n"), "{maps}");
    ensure!(listed()?.is_empty());
    forger.end()?;

    // Nor is a descriptor that stands for the node alone.
    let path = Party::new(c"path", |_| {
        use nix::fcntl::OFlag;
        Ok(nix::fcntl::open(
            NODE,
            OFlag::O_PATH,
            nix::sys::stat::Mode::empty(),
        )?)
    })?
    .ready()?;
    ensure!(listed()?.is_empty());
    path.end()
}

fn never_mapped_ones_are_told_apart() -> anyhow::Result<()> {
    let one = Party::new(c"one", |socket| {
        let (first, second) = (Region::sized(1)?, Region::sized(2)?);
        send_fd(socket, second.as_fd())?;
        let twin = dup(&second)?;
        Ok((first, second, twin))
    })?;
    let sent = receive_fd(&one.socket)?;
    let one = one.ready()?;
    let two = Party::new(c"two", |_| Ok(sent.try_clone()?))?.ready()?;
    drop(sent);

    let found: Vec<_> = listed()?
        .iter()
        .map(|region| {
            let holders = region["holders"].as_array().cloned().unwrap_or_default();
            let holders: Vec<_> = holders
                .iter()
                .map(|holder| {
                    let descriptors = holder["descriptors"].as_array().map_or(0, Vec::len);
                    (holder["pid"].clone(), descriptors)
                })
                .collect();
            ensure!(
                region["inode"].is_null() && region["name"].is_null(),
                "{region:#}"
            );
            Ok((region["size"].clone(), holders))
        })
        .collect::<anyhow::Result<_>>()?;
    let expected = [
        (PAGE.into(), vec![(one.pid().into(), 1)]),
        // The other's, and the one that this process had when it started it.
        (
            (2 * PAGE).into(),
            vec![(one.pid().into(), 2), (two.pid().into(), 2)],
        ),
    ];
    ensure!(found == expected, "{found:#?}");
    one.end()?;
    two.end()
}

/// A user who is not root.
const USER: u32 = 1000;

/// The tool run by that one.
fn as_user(words: &[&str]) -> anyhow::Result<Output> {
    command(words)
        .uid(USER)
        .gid(USER)
        .output()
        .context("ashmemctl")
}

fn other_users_see_their_own_and_are_told_of_the_rest() -> anyhow::Result<()> {
    let mode = fs::metadata(NODE)?.permissions();
    fs::set_permissions(NODE, fs::Permissions::from_mode(0o666))?;
    let theirs = Party::new(c"theirs", |_| named(c"theirs", 8))?.ready()?;
    let mine = Party::new(c"mine", |_| {
        setgid(Gid::from_raw(USER))?;
        setuid(Uid::from_raw(USER))?;
        set_dumpable(true)?;
        let (region, map) = named(c"mine", 8)?;
        map.write_pages(0..3);
        let fresh = Region::sized(1)?;
        let twin = dup(&fresh)?;
        Ok((region, map, fresh, twin))
    })?
    .ready()?;
    let check = || -> anyhow::Result<()> {
        let output = as_user(&["list", "--json"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {said}", output.status);
        let list: Value = serde_json::from_slice(&output.stdout)?;
        let regions = list["regions"].as_array().context("none")?;
        ensure!(
            regions.len() == 2 && regions[0]["name"] == "mine" && regions[1]["inode"].is_null(),
            "{list:#}"
        );
        let twice = &regions[1]["holders"][0]["descriptors"];
        ensure!(twice.as_array().map(Vec::len) == Some(2), "{list:#}");
        ensure!(
            regions[0]["resident"] == 3 || regions[0]["resident"] == 4,
            "{list:#}"
        );
        ensure!(regions[0]["holders"][0]["pid"] == mine.pid(), "{list:#}");
        // This process, its parent, which runs the tests, and the other one.
        let missing = &list["not_looked_at"][0];
        ensure!(missing["reason"] == "EACCES", "{list:#}");
        let number = missing["processes"].as_u64().context("no number")?;
        ensure!((3..10).contains(&number), "{list:#}");
        ensure!(
            said.starts_with(&format!(
                "ashmemctl: {number} processes could not be looked at (EACCES: "
            )),
            "{said}"
        );
        Ok(())
    };
    check()?;
    let output = as_user(&["show", "mine"])?;
    ensure!(output.status.success() && output.stdout.starts_with(b"\"mine\" inode "));
    let output = as_user(&["show", "theirs"])?;
    refused(
        &output,
        3,
        &["no region is called \"theirs\"", "root sees all"],
    )?;
    refused(&as_user(&["purge"])?, 4, &["EPERM", "CAP_SYS_ADMIN"])?;

    // To list takes no descriptor of anybody's, as to get one takes more rights, and may hang.
    const SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";
    if let Ok(before) = fs::read(SCOPE) {
        fs::write(SCOPE, "2")?;
        let list = check();
        let output = as_user(&["show", "mine"]);
        fs::write(SCOPE, before)?;
        list?;
        refused(&output?, 4, &["pidfd_getfd", "EPERM", "ptrace"])?;
    }

    fs::set_permissions(NODE, fs::Permissions::from_mode(0o600))?;
    let output = as_user(&["list"])?;
    fs::set_permissions(NODE, mode)?;
    refused(&output, 4, &["/dev/ashmem", "EACCES", "udev"])?;
    theirs.end()?;
    mine.end()
}

fn hostile_names_leave_no_line_and_lose_no_byte() -> anyhow::Result<()> {
    let all: Vec<u8> = (1..=255).collect();
    let names: [&[u8]; 7] = [
        &all,
        b"\x1b]0;title\x07\x1b[2J",
        b"x\nsize:\t1\ninode:\t1",
        b"\\012 (deleted)",
        b"\xff\xfe",
        "\u{202e}txt.\u{2066}".as_bytes(),
        b"\n",
    ];
    for keep_descriptor in [true, false] {
        let party = Party::new(c"\x1b[31m\n\xff", |_| {
            let has = names.iter().map(|name| {
                let (region, map) = named(&CString::new(*name)?, 1)?;
                Ok((keep_descriptor.then_some(region), map))
            });
            has.collect::<anyhow::Result<Vec<_>>>()
        })?
        .ready()?;
        let before = party.all()?;
        let regions = listed()?;
        ensure!(regions.len() == names.len(), "{regions:#?}");
        for name in names {
            let text = str_of(name);
            let digits = name.iter().map(|byte| format!("{byte:02x}"));
            let hex = digits.collect::<Vec<_>>().concat();
            let has = |region: &&Value| match text {
                Some(text) => region["name"] == text && region["name_hex"].is_null(),
                None => region["name_hex"] == hex,
            };
            let found = regions.iter().filter(has).count();
            ensure!(found == 1, "{name:x?}: {found} of {regions:#?}");
        }
        let text = print(&["list"])?;
        ensure!(text.lines().count() == 1 + 2 * names.len(), "{text}");
        let bad = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2066}".contains(c);
        ensure!(!text.contains(bad), "{text:?}");
        if keep_descriptor {
            // As it is shown, it can be typed.
            let shown = print(&["show", "\\xff\\xfe"])?;
            ensure!(shown.starts_with("\"\\xff\\xfe\" inode "), "{shown}");
            for region in &regions {
                let inode = region["inode"].to_string();
                let text = print(&["show", &inode])? + &print(&["show", "--json", &inode])?;
                ensure!(!text.contains(bad), "{text:?}");
            }
        }
        let text = print(&["list", "--json"])?;
        ensure!(!text.contains(bad), "{text:?}");
        ensure!(party.all()? == before, "to look has changed something");
        party.end()?;
    }
    Ok(())
}

fn hostile_numbers_hide_nothing() -> anyhow::Result<()> {
    // More than this program may have open: each of them once more in the same process, and all
    // of them in another one, too.
    const MANY: usize = 1200;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(soft < MANY as u64, "{soft} are more");
    let most = (2 * MANY + 100) as u64;
    let many = Party::new(c"many", |socket| {
        setrlimit(Resource::RLIMIT_NOFILE, most, hard.max(most))?;
        let regions = (0..MANY)
            .map(|at| Region::sized(at + 1))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let twins = regions
            .iter()
            .map(|region| Ok(dup(region)?))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let heir = Party::new(c"heir", |_| Ok(()))?.ready()?;
        go(socket)?;
        await_go(socket)?;
        heir.end()?;
        Ok((regions, twins))
    })?
    .ready()?;
    let after = Party::new(c"after", |_| named(c"after", 1))?.ready()?;
    let regions = listed()?;
    ensure!(regions.len() == MANY + 1, "{} regions", regions.len());
    for (at, region) in regions[..MANY].iter().enumerate() {
        let numbers = |holder: usize| {
            let holder = &region["holders"][holder];
            holder["descriptors"].as_array().map_or(0, Vec::len)
        };
        ensure!(
            region["size"] == (at + 1) * PAGE && numbers(0) == 2 && numbers(1) == 2,
            "{region:#}"
        );
    }
    ensure!(regions[MANY]["name"] == "after", "{:#}", regions[MANY]);
    after.end()?;
    go(&many.socket)?;
    many.ready()?.end()
}

fn hostile_sizes_are_refused() -> anyhow::Result<()> {
    let region = Region::open()?;
    region.set_name(c"vast")?;
    region.set_size(1 << 62)?;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
    let _map = region.map_as(PAGE, RW, flags)?;
    let output = command(&["show", "vast"]).output()?;
    refused(&output, 1, &["4096 PiB", "1 TiB", "ashmemctl list"])?;
    let found = only()?;
    ensure!(found["size"] == 1u64 << 62, "{found:#}");
    Ok(())
}

fn str_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The letters of a picture, without the numbers of their lines.
fn letters(text: &str) -> String {
    let lines = text.lines().filter_map(|line| {
        let (number, letters) = line.trim_start().split_once("  ")?;
        number.parse::<u64>().ok()?;
        Some(letters)
    });
    lines.collect()
}

/// Three times 2 MiB, of which the first and the last are of huge pages: pinned, unpinned and
/// purged pages, each without memory, with some, and with a huge page's. Gives the picture.
fn all_states() -> anyhow::Result<(Region, Mapping, String)> {
    // So that there are huge pages.
    fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory")?;
    let (region, map) = named(c"all states", 3 * HUGE)?;
    let (middle, last) = (HUGE, 2 * HUGE);
    map.advise(0..middle, libc::MADV_HUGEPAGE)?;
    map.advise(middle..last, libc::MADV_RANDOM)?;
    map.advise(last..3 * HUGE, libc::MADV_HUGEPAGE)?;
    // Purged, which pages without memory are as well, and some of it written again.
    region.unpin(middle..middle + 100)?;
    region.unpin(last..3 * HUGE)?;
    ensure!(region.purge_all()? == 100 + HUGE);
    map.write_pages(middle + 50..middle + 100);
    map.write_pages(last..last + 1);
    // Pinned, and unpinned.
    map.write_pages(0..1);
    region.unpin(200..300)?;
    map.write_pages(middle + 110..middle + 150);
    region.unpin(middle + 130..middle + 200)?;
    ensure!(region.info()?.huge_faults == 2, "no huge pages");
    let runs = [
        ("O", 200),
        ("U", 100),
        ("O", 212),
        ("x", 50),
        ("p", 50),
        (".", 10),
        ("o", 20),
        ("u", 20),
        ("-", 50),
        (".", 312),
        ("P", 512),
    ];
    let picture: Vec<_> = runs
        .iter()
        .map(|(letter, pages)| letter.repeat(*pages))
        .collect();
    Ok((region, map, picture.concat()))
}

fn all_states_are_shown_and_none_is_changed() -> anyhow::Result<()> {
    let (region, map, picture) = all_states()?;
    let all = 0..3 * HUGE as u64;
    let look = || -> anyhow::Result<_> {
        Ok((
            region.fdinfo()?,
            region.statuses(all.clone())?,
            map.entries()?,
        ))
    };
    let before = look()?;
    let text = print(&["show", "all states"])?;
    let found = letters(&text);
    ensure!(found == picture, "{text}");
    let counts = [
        "    pinned  .          322  o           20  O          412\n",
        "  unpinned  -           50  u           20  U          100\n",
        "    purged  x           50  p           50  P          512\n",
    ];
    ensure!(text.ends_with(&counts.concat()), "{text}");

    let shown = json(&["show", "all states"])?;
    ensure!(
        shown["pages"] == 3 * HUGE && shown["page_size"] == PAGE,
        "{shown:#}"
    );
    ensure!(
        shown["holders"][0]["descriptors"] == json!([region.as_fd().as_raw_fd()]),
        "{shown:#}"
    );
    let mut drawn = String::new();
    for run in shown["runs"].as_array().context("no runs")? {
        ensure!(run["first"] == drawn.len(), "{run}");
        let letter = match (run["state"].as_str(), run["memory"].as_str()) {
            (Some("pinned"), Some("none")) => ".",
            (Some("pinned"), Some("page")) => "o",
            (Some("pinned"), Some("huge")) => "O",
            (Some("unpinned"), Some("none")) => "-",
            (Some("unpinned"), Some("page")) => "u",
            (Some("unpinned"), Some("huge")) => "U",
            (Some("purged"), Some("none")) => "x",
            (Some("purged"), Some("page")) => "p",
            (Some("purged"), Some("huge")) => "P",
            other => anyhow::bail!("{other:?}"),
        };
        drawn += &letter.repeat(run["pages"].as_u64().context("no pages")? as usize);
    }
    ensure!(drawn == picture, "{drawn}");
    print(&["list"])?;
    ensure!(look()? == before, "to look has changed something");

    // A huge page that nobody maps as one any more has memory all the same.
    map.advise(0..HUGE, libc::MADV_DONTNEED)?;
    let found = letters(&print(&["show", "all states"])?);
    let (first, rest) = picture.split_at(HUGE);
    ensure!(found == first.to_lowercase() + rest, "{found}");
    Ok(())
}

fn large_regions_are_shown_by_groups() -> anyhow::Result<()> {
    // 2 GiB, of which little is there.
    let pages = 1 << 19;
    let region = Region::sized(pages)?;
    region.set_name(c"large")?;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
    let map = region
        .map_as(pages * PAGE, ProtFlags::PROT_READ | RW, flags)?
        .single()?;
    region.unpin(pages / 2..pages)?;
    map.write_pages(1000..2000);
    let text = print(&["show", "large"])?;
    ensure!(
        text.contains("\nEach letter is what most of 256 pages are.\n"),
        "{text}"
    );
    let found = letters(&text);
    // Of pages 768 to 1024 24 have memory, of 1792 to 2048 208.
    let expected = ".".repeat(4) + "oooo" + &".".repeat(1024 - 8) + &"-".repeat(1024);
    ensure!(found == expected, "{found}");
    ensure!(
        text.contains("  pinned  .       261144  o         1000  O            0\n"),
        "{text}"
    );

    let found = letters(&print(&["show", "--group", "1000", "large"])?);
    let expected = ".o".to_owned() + &".".repeat(260) + &"-".repeat(263);
    ensure!(found == expected, "{found}");
    let output = command(&["show", "--group", "0", "large"]).output()?;
    ensure!(output.status.code() == Some(2));
    Ok(())
}

fn regions_are_named_in_three_ways() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    region.set_name(c"twin")?;
    let me = std::process::id();
    let by_descriptor = format!("{me}:{}", region.as_fd().as_raw_fd());
    let fresh = print(&["show", &by_descriptor])?;
    ensure!(
        fresh.starts_with("\"twin\" inode -, 8 KiB, 0 pages\n"),
        "{fresh}"
    );
    ensure!(
        fresh.ends_with("\nIt was never mapped, and has no pages yet.\n"),
        "{fresh}"
    );
    ensure!(json(&["show", &by_descriptor])?["runs"] == json!([]));

    let map = region.map(2)?.single()?;
    map.write_pages(1..2);
    let by_inode = region.file_id()?.to_string();
    let text = print(&["show", &by_inode])?;
    ensure!(letters(&text) == ".o", "{text}");
    ensure!(print(&["show", &by_descriptor])? == text && print(&["show", "twin"])? == text);

    let (other, _map) = named(c"twin", 1)?;
    let output = command(&["show", "twin"]).output()?;
    let both = format!("{by_inode}, {}", other.file_id()?);
    refused(&output, 3, &["2 regions are called \"twin\"", &both])?;
    for (word, why) in [
        ("no such", "no region is called"),
        ("1", "no region has the inode"),
        ("1:0", "no process has a region as descriptor"),
    ] {
        refused(
            &command(&["show", word]).output()?,
            3,
            &[why, "ashmemctl list"],
        )?;
    }
    Ok(())
}

fn purge_says_what_it_took() -> anyhow::Result<()> {
    let (region, map) = named(c"to be purged", 64)?;
    let map = map.single()?;
    map.write_pages(0..20);
    // Twelve pages with memory, and four without.
    region.unpin(8..24)?;
    let found = json(&["purge"])?;
    let expected = json!({
        "page_size": PAGE, "purged": 16, "resident_before": 20, "resident_after": 8,
        "not_looked_at": []
    });
    ensure!(found == expected, "{found:#}");
    ensure!(region.status_picture(0..26)? == "::::::::pppppppppppppppp..");
    let text = print(&["purge"])?;
    let expected = "0 unpinned pages were purged; all regions had 32 KiB of memory before, and have 32 KiB now.\n";
    ensure!(text == expected, "{text}");
    Ok(())
}

fn what_is_missing_is_named_with_a_remedy() -> anyhow::Result<()> {
    in_child(|| {
        empty_dev()?;
        for words in [&["list"][..], &["show", "x"], &["purge"]] {
            let output = command(words).output()?;
            refused(&output, 1, &["/dev/ashmem", "ENOENT", "modprobe ashmem"])?;
        }
        Ok(())
    })?;
    for words in [&[][..], &["shew"], &["show"], &["list", "x"]] {
        let output = command(words).output()?;
        ensure!(
            output.status.code() == Some(2) && output.stdout.is_empty(),
            "{words:?}"
        );
        ensure!(String::from_utf8_lossy(&output.stderr).contains("Usage: ashmemctl"));
    }
    Ok(())
}

fn processes_that_end_meanwhile_are_no_error() -> anyhow::Result<()> {
    let (here, there) = sockets()?;
    let churn = |name: &'static CStr| {
        let stop = here.as_fd();
        spawn(move || {
            set_name(name)?;
            let mut fds = [nix::poll::PollFd::new(stop, nix::poll::PollFlags::POLLIN)];
            // However long it takes to look at all processes, some end meanwhile.
            for time in (0..8).map(|n| Duration::from_millis(5 << n)).cycle() {
                if nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO)? != 0 {
                    break;
                }
                in_child(|| {
                    let (region, map) = named(c"short-lived", 16)?;
                    map.write_pages(0..16);
                    sleep(time);
                    let twin = dup(&region)?;
                    drop((region, map));
                    sleep(time);
                    drop(twin);
                    Ok(())
                })?;
            }
            Ok(())
        })
    };
    let churners = [c"churn-1", c"churn-2", c"churn-3", c"churn-4"].map(churn);
    let stays = Party::new(c"stays", |_| named(c"stays", 16))?.ready()?;
    let mut seen = 0;
    let start = Instant::now();
    // Often where that is fast, and where it is slow until one was seen before it ended.
    while start.elapsed() < Duration::from_secs(if seen == 0 { 80 } else { 4 }) {
        let regions = listed()?;
        let named = |name: &str| {
            regions
                .iter()
                .filter(|region| region["name"] == name)
                .count()
        };
        ensure!(named("stays") == 1, "{regions:#?}");
        seen += named("short-lived");
        let shown = json(&["show", "stays"])?;
        ensure!(shown["pages"] == 16, "{shown:#}");
    }
    ensure!(seen > 0, "nothing short-lived was ever seen");
    // All see it, as none reads it.
    go(&there)?;
    for churner in churners {
        churner?.join()?;
    }
    stays.end()
}

fn output_that_nobody_wants_is_no_error() -> anyhow::Result<()> {
    let (_region, _map) = named(c"x", 1)?;
    for words in [&["list"][..], &["list", "--json"], &["show", "x"]] {
        let (reader, writer) = nix::unistd::pipe()?;
        drop(reader);
        let output = command(words).stdout(writer).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && said.is_empty(),
            "{words:?}: {said}"
        );
        let full = File::options().write(true).open("/dev/full")?;
        let output = command(words).stdout(full).output()?;
        refused(&output, 1, &["standard output", "ENOSPC"])?;
    }
    Ok(())
}

/// What it writes to a terminal.
fn on_a_terminal(change: impl FnOnce(&mut Command) -> &mut Command) -> anyhow::Result<String> {
    let pty = openpty(None, None)?;
    let mut command = command(&["show", "x"]);
    command.env("TERM", "linux").env_remove("NO_COLOR");
    change(&mut command).stdout(pty.slave);
    let status = command.status()?;
    // The terminal's last user is gone with it.
    drop(command);
    ensure!(status.success());
    let mut text = vec![];
    // It ends with EIO.
    let _ = File::from(pty.master).read_to_end(&mut text);
    Ok(String::from_utf8(text)?)
}

fn colours_are_for_terminals_that_want_them() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    fs::create_dir_all("/dev/pts")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(
        Some("devpts"),
        "/dev/pts",
        Some("devpts"),
        MsFlags::empty(),
        none,
    )?;
    let (_region, _map) = named(c"x", 1)?;
    let colored = on_a_terminal(|command| command)?;
    ensure!(colored.contains("\x1b["), "{colored:?}");
    let plain = on_a_terminal(|command| command.env("NO_COLOR", "1"))?;
    ensure!(
        !plain.contains('\x1b') && plain.contains("  .\r\n"),
        "{plain:?}"
    );
    ensure!(!print(&["show", "x"])?.contains('\x1b'));
    Ok(())
}

/// What the README shows.
fn printed() -> anyhow::Result<&'static str> {
    let text = include_str!("../../../README.md");
    let (_, text) = text
        .split_once("<!-- ctl: begin -->\n```text\n")
        .context("README.md has no `ctl: begin`")?;
    let (text, _) = text
        .split_once("```\n<!-- ctl: end -->")
        .context("README.md has no `ctl: end`")?;
    Ok(text)
}

/// A text without what differs from run to run, which is the inode or the process that a line is
/// about, and the blanks that make columns.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut before = "";
        for word in line.split_whitespace() {
            let is_number = word
                .trim_end_matches(',')
                .bytes()
                .all(|c| c.is_ascii_digit());
            let varies = is_number && ["", "inode", "by"].contains(&before);
            out += if varies { "#" } else { word };
            out.push(' ');
            before = word;
        }
        out.push('\n');
    }
    out
}

fn readme_shows_what_it_prints() -> anyhow::Result<()> {
    fs::write("/proc/sys/vm/compact_memory", "1").context("compact_memory")?;
    let gallery = Party::new(c"gallery", |socket| {
        let (region, map) = named(c"thumbnails", 2 * HUGE)?;
        send_fd(socket, region.as_fd())?;
        map.advise(0..HUGE, libc::MADV_HUGEPAGE)?;
        map.advise(HUGE..2 * HUGE, libc::MADV_RANDOM)?;
        map.write_pages(0..HUGE + 300);
        region.unpin(HUGE + 100..HUGE + 250)?;
        ensure!(region.purge_all()? == 150);
        map.write_pages(HUGE + 200..HUGE + 210);
        region.unpin(256..HUGE)?;
        region.unpin(HUGE + 260..HUGE + 320)?;
        Ok((region, map))
    })?;
    let sent = receive_fd(&gallery.socket)?;
    let gallery = gallery.ready()?;
    let printer = Party::new(c"printer", |socket| {
        let region = Region::from_fd(receive_fd(socket)?);
        let map = region.map(2 * HUGE)?;
        Ok((region, map))
    })?;
    send_fd(&printer.socket, sent.as_fd())?;
    drop(sent);
    let printer = printer.ready()?;
    let clock = Party::new(c"clock", |_| {
        let (region, map) = named(c"left over", 4)?;
        drop(region);
        Ok(map)
    })?
    .ready()?;
    let mut found = String::new();
    for words in [&["list"][..], &["show", "thumbnails"]] {
        found += &format!("# ashmemctl {}\n{}", words.join(" "), print(words)?);
    }
    for party in [gallery, printer, clock] {
        party.end()?;
    }
    ensure!(
        without_numbers(&found) == without_numbers(printed()?),
        "README.md shows something else than this:\n{found}"
    );
    Ok(())
}
