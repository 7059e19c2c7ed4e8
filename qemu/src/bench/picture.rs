// SPDX-License-Identifier: GPL-2.0-only

//! The results as a picture: what is done to each page, where a memfd costs 1.

use ashmem_figures::Operation;
use ashmem_figures::Per;
use ashmem_figures::Results;
use ashmem_figures::Target;
use svg::Document;
use svg::node::element::Group;
use svg::node::element::Line;
use svg::node::element::Rectangle;
use svg::node::element::Text;

use super::name;
use super::ratio;

/// Whose bars there are, and their colours: those of Okabe and Ito, which nearly all can tell
/// apart.
const SHOWN: [(Target, &str); 5] = [
    (Target::Ashmem, "#d55e00"),
    (Target::AshmemHuge, "#e69f00"),
    (Target::MemfdHuge, "#0072b2"),
    (Target::Shared, "#999999"),
    (Target::PrivateHuge, "#56b4e9"),
];

/// Where the bars begin, and how long one is for a ratio of 1.
const LEFT: f64 = 270.0;
const ONE: f64 = 240.0;
/// The longest bar's ratio; what is beyond is cut, and its number tells.
const LONGEST: f64 = 1.75;
const WIDTH: f64 = LEFT + LONGEST * ONE + 60.0;
/// Above the first bar.
const TOP: f64 = 56.0;
const BAR: f64 = 11.0;
const GAP: f64 = 10.0;

const INK: &str = "#1f2328";
const FAINT: &str = "#d0d7de";

fn text(content: impl Into<String>, x: f64, y: f64, size: usize) -> Text {
    Text::new(content)
        .set("x", x)
        .set("y", y)
        .set("font-size", size)
        .set("fill", INK)
}

fn bar(x: f64, y: f64, width: f64, colour: &str) -> Rectangle {
    Rectangle::new()
        .set("x", x)
        .set("y", y)
        .set("width", format!("{width:.1}"))
        .set("height", BAR - 1.0)
        .set("fill", colour)
}

/// What is done, and the bars of those who have it.
fn group(results: &Results, operation: &Operation, top: f64) -> Group {
    let middle = top + (SHOWN.len() as f64 * BAR) / 2.0 + 4.0;
    let what = text(&operation.name, LEFT - 8.0, middle, 12).set("text-anchor", "end");
    let mut group = Group::new().add(what);
    for (row, (target, colour)) in SHOWN.into_iter().enumerate() {
        let y = top + row as f64 * BAR;
        let Some(ratio) = ratio(results, operation, target) else {
            group = group.add(text("has none", LEFT + 4.0, y + 8.5, 9).set("fill", "#6e7781"));
            continue;
        };
        let width = ratio.clamp(0.0, LONGEST) * ONE;
        let number = format!("{ratio:.2}");
        group = group.add(bar(LEFT, y, width, colour)).add(text(
            number,
            LEFT + width + 4.0,
            y + 8.5,
            9,
        ));
    }
    group
}

/// The legend, in a line.
fn legend() -> Group {
    let mut x = 16.0;
    let mut group = Group::new();
    for (target, colour) in SHOWN {
        let label = name(target);
        group = group
            .add(bar(x, 32.0, 10.0, colour))
            .add(text(label, x + 14.0, 41.0, 11));
        x += 34.0 + 6.0 * label.len() as f64;
    }
    group
}

/// The picture. Its background is its own, so that it can be read on any page.
pub fn svg(results: &Results) -> String {
    let shown: Vec<_> = results
        .operations
        .iter()
        .filter(|operation| operation.per == Per::Page)
        .collect();
    let step = SHOWN.len() as f64 * BAR + GAP;
    let bottom = TOP + shown.len() as f64 * step;
    let title = format!(
        "Instructions for a page, without clearing it; a memfd takes 1 (Linux {})",
        results.kernel
    );
    let mut document = Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, bottom + 24.0))
        .set("font-family", "sans-serif")
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("rx", 6)
                .set("fill", "#ffffff"),
        )
        .add(text(title, 16.0, 22.0, 14))
        .add(legend());
    for (mark, colour) in [(0.0, INK), (0.5, FAINT), (1.0, INK), (1.5, FAINT)] {
        let x = LEFT + mark * ONE;
        document = document
            .add(
                Line::new()
                    .set("x1", x)
                    .set("x2", x)
                    .set("y1", TOP - 4.0)
                    .set("y2", bottom)
                    .set("stroke", colour),
            )
            .add(text(format!("{mark:.1}"), x, bottom + 14.0, 10).set("text-anchor", "middle"));
    }
    for (row, operation) in shown.into_iter().enumerate() {
        document = document.add(group(results, operation, TOP + row as f64 * step));
    }
    format!("{document}\n")
}

#[cfg(test)]
mod unit_tests {
    use super::super::unit::small;
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_ratio() {
        let picture = svg(&small());
        let bar = format!("width=\"{:.1}\"", 1.5 * ONE);
        assert!(picture.contains(&bar), "{picture}");
        assert!(picture.contains("1.50"), "{picture}");
        let absent = picture.matches("has none").count();
        assert_eq!(absent, SHOWN.len() - 1, "{picture}");
    }

    #[test]
    fn what_is_beyond_is_cut_and_its_number_tells() {
        let mut results = small();
        let touch = results.operations[0].costs.get_mut(&Target::Ashmem);
        touch.expect("it is there").cost = 4096.0 + 9000.0;
        let picture = svg(&results);
        let bar = format!("width=\"{:.1}\"", LONGEST * ONE);
        assert!(picture.contains(&bar), "{picture}");
        assert!(picture.contains("9.00"), "{picture}");
    }
}
