// SPDX-License-Identifier: GPL-2.0-only

//! What is printed. Colours are for who prints it to take away where they are not wanted.

use std::fmt::Write;

use anstyle::AnsiColor;
use anstyle::Style;

use crate::pages::Kind;
use crate::pages::Memory;
use crate::pages::Pages;
use crate::pages::State;
use crate::snapshot::Holder;
use crate::snapshot::Region;
use crate::snapshot::Snapshot;

/// Letters in a line of a picture.
const COLUMNS: u64 = 64;
/// Lines of a picture, unless it is said how many pages a letter stands for.
const LINES: u64 = 32;

/// Bytes, in the largest unit of which there are any.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && n >> (10 * (unit + 1)) != 0 {
        unit += 1;
    }
    let one = 1u64 << (10 * unit);
    match n % one {
        0 => format!("{} {}", n / one, UNITS[unit]),
        // Cut, not rounded: what has less than a unit never seems to have one.
        rest => format!("{}.{} {}", n / one, rest * 10 / one, UNITS[unit]),
    }
}

/// JSON of ASCII alone, since to some terminals U+009B is what an escape is. In JSON other letters
/// stand in strings only, where `\u` and four digits mean the same.
pub fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || (' '..='~').contains(&c) {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

/// A table of regions; `page` is a page's size in bytes.
pub fn list(snapshot: &Snapshot, page: u64) -> String {
    if snapshot.regions.is_empty() {
        return "No process has a region.\n".into();
    }
    let mut text = line(&[
        "INODE", "SIZE", "RESIDENT", "UNPINNED", "PURGED", "FAULTS", "MAP", "HUGE",
    ]);
    text += "  NAME\n";
    for region in &snapshot.regions {
        let number = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
        let counter = |get: fn(&_) -> u64| region.told.as_ref().map(|(_, all)| get(all));
        let pages = |value: Option<u64>| {
            value.map_or("-".into(), |value| bytes(value.saturating_mul(page)))
        };
        let size = region.told.map_or("-".into(), |(size, _)| bytes(size));
        text += &line(&[
            &number(region.inode),
            &size,
            &pages(counter(|all| all.resident)),
            &pages(counter(|all| all.unpinned)),
            &pages(counter(|all| all.purged)),
            &number(counter(|all| all.faults)),
            &number(counter(|all| all.map_faults)),
            &number(counter(|all| all.huge_faults)),
        ]);
        let _ = writeln!(text, "  {}", name(region));
        for holder in &region.holders {
            let _ = writeln!(text, "{:9}held by {}", "", held_by(holder));
        }
    }
    text
}

/// A line of the table, but for its last cell.
fn line(cells: &[&str; 8]) -> String {
    let mut line = format!("{:>7}", cells[0]);
    for cell in &cells[1..5] {
        let _ = write!(line, " {cell:>10}");
    }
    for cell in &cells[5..] {
        let _ = write!(line, " {cell:>7}");
    }
    line
}

/// Its name, so that none is no name.
fn name(region: &Region) -> String {
    match &region.name {
        Some(name) => format!("\"{name}\""),
        None => "-".into(),
    }
}

/// By which process, and how.
fn held_by(holder: &Holder) -> String {
    let mut ways = vec![];
    if !holder.descriptors.is_empty() {
        let numbers: Vec<_> = holder.descriptors.iter().map(i32::to_string).collect();
        ways.push(format!("fd {}", numbers.join(", ")));
    }
    if !holder.mappings.is_empty() {
        ways.push(format!("{} mapped", bytes(holder.mapped())));
    }
    format!("{} {}: {}", holder.pid, holder.command, ways.join("; "))
}

/// A region, a picture of its pages, and how many there are of each kind. A letter stands for
/// `group` pages, or for as many as make it short enough.
pub fn show(region: &Region, pages: &Pages, group: Option<u64>) -> String {
    let mut text = String::new();
    let inode = region.inode.map_or("-".into(), |inode| inode.to_string());
    let size = region.told.map_or(0, |(size, _)| size);
    let _ = writeln!(
        text,
        "{} inode {inode}, {}, {} pages",
        name(region),
        bytes(size),
        pages.len()
    );
    for holder in &region.holders {
        let _ = writeln!(text, "  held by {}", held_by(holder));
    }
    if pages.is_empty() {
        text += "\nIt was never mapped, and has no pages yet.\n";
        return text;
    }
    let group = group.unwrap_or_else(|| pages.len().div_ceil(COLUMNS * LINES).next_power_of_two());
    text += "\n";
    if group != 1 {
        let _ = writeln!(text, "Each letter is what most of {group} pages are.");
    }
    for (first, kinds) in (0..)
        .step_by((COLUMNS * group) as usize)
        .zip(pages.groups(group).chunks(COLUMNS as usize))
    {
        let first: u64 = first;
        let _ = write!(text, "{first:>10}  ");
        for part in kinds.chunk_by(|one, other| one == other) {
            let style = style(part[0]);
            let letters: String = part.iter().copied().map(Kind::letter).collect();
            let _ = write!(text, "{style}{letters}{style:#}");
        }
        text += "\n";
    }
    text += "\n";
    text += &legend(pages);
    text
}

/// What the letters say, and how many pages there are of each.
fn legend(pages: &Pages) -> String {
    let counts = pages.counts();
    let mut text = format!(
        "{:>10}  {:>14}  {:>14}  {:>14}\n",
        "", "no memory", "memory", "in huge page"
    );
    for row in Kind::ALL.chunks(3) {
        let state = match row[0].state {
            State::Pinned => "pinned",
            State::Unpinned => "unpinned",
            State::Purged => "purged",
        };
        let _ = write!(text, "{state:>10}");
        for kind in row {
            let (style, letter, count) = (style(*kind), kind.letter(), counts[kind.number()]);
            let _ = write!(text, "  {style}{letter}{style:#} {count:>12}");
        }
        text += "\n";
    }
    text
}

/// Green must stay, yellow may go, red has gone; bright with memory, bold in a huge page.
fn style(kind: Kind) -> Style {
    let color = match kind.state {
        State::Pinned => AnsiColor::Green,
        State::Unpinned => AnsiColor::Yellow,
        State::Purged => AnsiColor::Red,
    };
    let style = color.on_default();
    match kind.memory {
        Memory::None => style.dimmed(),
        Memory::Page => style,
        Memory::Huge => style.bold(),
    }
}

/// What is missing in what was printed; nothing if nothing is.
pub fn not_looked_at(snapshot: &Snapshot) -> Option<String> {
    let reasons: Vec<_> = snapshot
        .not_looked_at
        .iter()
        .map(|some| some.reason.to_string())
        .collect();
    let refused = match snapshot.refused() {
        0 => return None,
        1 => "1 process".into(),
        n => format!("{n} processes"),
    };
    Some(format!(
        "{refused} could not be looked at ({}), and what they hold is missing here; root sees all",
        reasons.join(", ")
    ))
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::pages::unit::drawn;
    use crate::snapshot::unit::example;

    #[test]
    fn bytes_have_the_unit_that_fits() {
        for (n, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (96 << 20, "96 MiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(bytes(n), shown);
        }
    }

    /// Without colours, as it is printed where they are not wanted.
    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn legend_counts_each_kind_beside_its_letter() {
        let text = plain(&legend(&drawn(".oooOO--uUxppp")));
        let expected = [
            "                 no memory          memory    in huge page",
            "    pinned  .            1  o            3  O            2",
            "  unpinned  -            2  u            1  U            1",
            "    purged  x            1  p            3  P            0",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn json_is_ascii_and_means_the_same() {
        let value =
            serde_json::json!({"gr\u{f6}\u{df}e": "\u{1b}\u{7f}\u{9b}2J\u{202e}\u{1f600}\n"});
        let text = ascii(&serde_json::to_string_pretty(&value).expect("JSON"));
        let plain = |c: char| c == '\n' || (' '..='~').contains(&c);
        assert!(text.chars().all(plain), "{text:?}");
        let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(found, value);
    }

    #[test]
    fn a_list_has_a_line_for_each_region_and_each_holder() {
        let expected =
            "  INODE       SIZE   RESIDENT   UNPINNED     PURGED  FAULTS     MAP    HUGE  NAME
    353    256 KiB    192 KiB    128 KiB     64 KiB       8       5       1  \"picture-cache\"
         held by 7 program-7: fd 3, 4; 256 KiB mapped
         held by 412 program-412: 512 KiB mapped
    354          -          -          -          -       -       -       -  -
         held by 412 program-412: 256 KiB mapped
    355        1 B        0 B        0 B        0 B       0       0       0  \"picture-cache\"
         held by 9 program-9: fd 5
      -        0 B        0 B        0 B        0 B       0       0       0  \"\\u{1b}[2J\\xff\"
         held by 412 program-412: fd 11
";
        assert_eq!(list(&example(), 4096), expected);
        assert_eq!(
            list(&Snapshot::default(), 4096),
            "No process has a region.\n"
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(not_looked_at(&Snapshot::default()), None);
        let said = not_looked_at(&example()).expect("something is missing");
        assert!(
            said.starts_with("12 processes could not be looked at (EACCES: "),
            "{said}"
        );
    }

    #[test]
    fn a_picture_has_64_letters_a_line_and_32_lines_at_most() {
        let region = &example().regions[0];
        let show = |picture: &str, group| plain(&show(region, &drawn(picture), group));
        let text = show(&("o".repeat(60) + "uuuuxx"), None);
        let head = format!(
            "\"picture-cache\" inode 353, 256 KiB, 66 pages\n  held by 7 program-7: fd 3, 4; 256 KiB \
             mapped\n  held by 412 program-412: 512 KiB mapped\n\n         0  {}uuuu\n        64  xx\n\n",
            "o".repeat(60)
        );
        assert!(text.starts_with(&head), "{text}");

        let lines = |text: &str| text.lines().filter(|line| line.ends_with('o')).count();
        assert_eq!(lines(&show(&"o".repeat(2048), None)), 32);
        let text = show(&"o".repeat(2049), None);
        assert_eq!(lines(&text), 17);
        assert!(
            text.contains("\nEach letter is what most of 2 pages are.\n"),
            "{text}"
        );
        assert!(text.contains("\n      2048  o\n"), "{text}");
        assert_eq!(lines(&show(&"o".repeat(2049), Some(1))), 33);
        assert!(show("", None).contains("never mapped"));
    }

    #[test]
    fn colours_change_no_letter() {
        let region = &example().regions[0];
        let colored = show(region, &drawn("..ooOO--uuUUxxppPP"), None);
        assert!(colored.contains("\x1b["), "{colored}");
        assert!(plain(&colored).contains("  ..ooOO--uuUUxxppPP\n"));
    }
}
