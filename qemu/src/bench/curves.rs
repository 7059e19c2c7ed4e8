// SPDX-License-Identifier: GPL-2.0-only

//! When mapping wins, as a picture: instructions for a byte, by size, a panel for each thing that is done.

use ashmem_figures::Results;
use ashmem_figures::Sweep;
use svg::Document;
use svg::node::element::Group;
use svg::node::element::Line;
use svg::node::element::Polyline;
use svg::node::element::Rectangle;
use svg::node::element::Text;

/// Of the ways, in their order: Okabe and Ito's, which nearly all can tell apart.
const COLOURS: [&str; 4] = ["#d55e00", "#e69f00", "#0072b2", "#56b4e9"];
const INK: &str = "#1f2328";
const FAINT: &str = "#d0d7de";

const WIDTH: f64 = 760.0;
/// Of a panel, and where its lines are in it.
const PANEL: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 470.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 256.0;

fn text(content: impl Into<String>, x: f64, y: f64, size: usize) -> Text {
    Text::new(content)
        .set("x", format!("{x:.1}"))
        .set("y", format!("{y:.1}"))
        .set("font-size", size)
        .set("fill", INK)
}

fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) -> Line {
    Line::new()
        .set("x1", format!("{x1:.1}"))
        .set("y1", format!("{y1:.1}"))
        .set("x2", format!("{x2:.1}"))
        .set("y2", format!("{y2:.1}"))
        .set("stroke", colour)
}

/// A number of bytes as people write it.
pub fn bytes(size: u64) -> String {
    match size.trailing_zeros() {
        30.. => format!("{} GiB", size >> 30),
        20.. => format!("{} MiB", size >> 20),
        10.. => format!("{} KiB", size >> 10),
        _ => format!("{size} B"),
    }
}

/// Where values lie on an axis whose steps are factors.
struct Axis {
    /// Logarithms of its ends.
    ends: (f64, f64),
    /// Where these are.
    at: (f64, f64),
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, base: f64, at: (f64, f64)) -> Self {
        let logs = values.map(|value| value.log(base));
        let (low, high) = logs.fold((f64::MAX, f64::MIN), |(low, high), log| {
            (low.min(log), high.max(log))
        });
        Self {
            ends: (low.floor(), high.ceil()),
            at,
        }
    }

    fn place(&self, log: f64) -> f64 {
        let (low, high) = self.ends;
        self.at.0 + (log - low) / (high - low) * (self.at.1 - self.at.0)
    }

    fn steps(&self) -> impl Iterator<Item = i32> + use<> {
        self.ends.0 as i32..=self.ends.1 as i32
    }
}

fn panel(sweep: &Sweep) -> Group {
    let points = || sweep.ways.iter().flat_map(|way| &way.points);
    let x = Axis::of(points().map(|(size, _)| *size as f64), 4.0, (LEFT, RIGHT));
    let y = Axis::of(points().map(|(_, cost)| *cost), 10.0, (BOTTOM, TOP));
    let mut group = Group::new().add(text(&sweep.name, LEFT, 20.0, 13).set("font-weight", "bold"));
    for step in y.steps() {
        let at = y.place(f64::from(step));
        let label = match step {
            0.. => format!("{}", 10f64.powi(step)),
            _ => format!("{:.*}", -step as usize, 10f64.powi(step)),
        };
        group = group
            .add(line((LEFT, at), (RIGHT, at), FAINT))
            .add(text(label, LEFT - 6.0, at + 4.0, 10).set("text-anchor", "end"));
    }
    for step in x.steps() {
        let at = x.place(f64::from(step));
        group = group.add(line((at, BOTTOM), (at, BOTTOM + 4.0), INK));
        if step % 2 == 1 {
            let label = bytes(4u64.pow(step as u32));
            group = group.add(text(label, at, BOTTOM + 16.0, 10).set("text-anchor", "middle"));
        }
    }
    group = group.add(text(&sweep.size, RIGHT, BOTTOM + 32.0, 11).set("text-anchor", "end"));
    for (row, (way, colour)) in sweep.ways.iter().zip(COLOURS).enumerate() {
        let places: Vec<String> = way
            .points
            .iter()
            .map(|(size, cost)| {
                let at = (x.place((*size as f64).log(4.0)), y.place(cost.log10()));
                format!("{:.1},{:.1}", at.0, at.1)
            })
            .collect();
        let legend = TOP + 20.0 + 22.0 * row as f64;
        group = group
            .add(
                Polyline::new()
                    .set("points", places.join(" "))
                    .set("fill", "none")
                    .set("stroke", colour)
                    .set("stroke-width", 2),
            )
            .add(
                line(
                    (RIGHT + 14.0, legend - 4.0),
                    (RIGHT + 34.0, legend - 4.0),
                    colour,
                )
                .set("stroke-width", 2),
            )
            .add(text(&way.name, RIGHT + 40.0, legend, 11));
    }
    // Where the first way begins to win.
    if let [first, others @ ..] = &sweep.ways[..] {
        let mut below = TOP + 20.0 + 22.0 * sweep.ways.len() as f64 + 10.0;
        for other in others {
            if let Some(size) = first.cheaper_from(other) {
                let at = x.place((size as f64).log(4.0));
                group = group
                    .add(line((at, TOP), (at, BOTTOM), INK).set("stroke-dasharray", "3 3"))
                    .add(text(
                        format!("cheaper from {} on than", rounded(size)),
                        RIGHT + 14.0,
                        below,
                        11,
                    ))
                    .add(text(&other.name, RIGHT + 14.0, below + 14.0, 11).set("fill", "#6e7781"));
                below += 36.0;
            }
        }
    }
    group
}

/// With two digits.
fn rounded(size: u64) -> String {
    match size {
        ..0x400 => format!("{size} B"),
        0x400..0x10_0000 => format!("{:.0} KiB", size as f64 / 1024.0),
        _ => format!("{:.0} MiB", size as f64 / (1 << 20) as f64),
    }
}

/// The picture.
pub fn svg(results: &Results) -> String {
    let height = 36.0 + PANEL * results.sweeps.len() as f64;
    let title = format!(
        "Instructions for a byte, by size (Linux {})",
        results.kernel
    );
    let mut document = Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, height))
        .set("font-family", "sans-serif")
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("rx", 6)
                .set("fill", "#ffffff"),
        )
        .add(text(title, 16.0, 22.0, 14));
    for (row, sweep) in results.sweeps.iter().enumerate() {
        let down = format!("translate(0 {:.0})", 32.0 + PANEL * row as f64);
        document = document.add(panel(sweep).set("transform", down));
    }
    format!("{document}\n")
}

#[cfg(test)]
mod unit_tests {
    use super::super::unit::small;
    use super::*;

    #[test]
    fn sizes_are_written_as_people_do() {
        assert_eq!(
            [64, 4096, 1 << 20, 1 << 30].map(bytes),
            ["64 B", "4 KiB", "1 MiB", "1 GiB"]
        );
    }

    #[test]
    fn each_way_has_a_line_and_each_crossing_a_mark() {
        let picture = svg(&small());
        assert_eq!(picture.matches("<polyline").count(), 2, "{picture}");
        assert!(picture.contains("cheaper from 406 B on than"), "{picture}");
        assert_eq!(picture.matches("stroke-dasharray").count(), 1, "{picture}");
    }
}
