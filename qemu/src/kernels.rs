// SPDX-License-Identifier: GPL-2.0-only

//! The matrix: what became of the module in each of Debian's kernels, as a file keeps it and as the
//! README shows it.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::bail;
use serde::Deserialize;
use serde::Serialize;

use crate::readme::with_block;
use crate::tap;
use crate::verdict::Judgement;

/// Where a work tree keeps the rows that the README shows.
const RECORDED: &str = "docs/kernels.json";

/// One kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// As `KERNEL=` names it: `stock:SUITE:SERIES`.
    pub kernel: String,
    /// What `uname -r` prints there.
    pub release: String,
    /// The C compiler, as the configuration has it: of the tree that the module was built in, or
    /// where there is none of the kernel itself.
    pub cc: String,
    /// The same of the Rust compiler.
    pub rustc: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// For this reason no module can be built for it, whatever the driver is like.
    Refused(String),
    /// The module does not build, with this error.
    Broken(String),
    /// The module was built, and tested.
    Tested {
        /// How many tests passed.
        passed: usize,
        /// How many were not run.
        skipped: usize,
        /// The tests that failed, and whatever else was wrong with the run.
        failed: Vec<String>,
    },
}

impl Row {
    /// Whether this is as it should be. What cannot be built for a reason that lies elsewhere is.
    fn good(&self) -> bool {
        match &self.outcome {
            Outcome::Refused(_) => true,
            Outcome::Broken(_) => false,
            Outcome::Tested { passed, failed, .. } => *passed > 0 && failed.is_empty(),
        }
    }

    fn tested(&self) -> bool {
        matches!(self.outcome, Outcome::Tested { .. })
    }

    fn suite(&self) -> &str {
        self.kernel.split(':').nth(1).unwrap_or("trixie-backports")
    }
}

/// Whether all rows are as they should be, and one at least was tested.
pub fn good(rows: &[Row]) -> bool {
    rows.iter().all(Row::good) && rows.iter().any(Row::tested)
}

impl Outcome {
    /// That of a run.
    pub fn of(judgement: &Judgement) -> Self {
        let failed = judgement
            .results
            .iter()
            .filter(|r| r.outcome == tap::Outcome::Failed);
        let faults = judgement.faults.iter().map(ToString::to_string);
        let counts = judgement.counts();
        Self::Tested {
            passed: counts.passed,
            skipped: counts.skipped,
            failed: failed.map(|r| r.name.clone()).chain(faults).collect(),
        }
    }
}

/// A row before anything is tested.
#[derive(Clone, Debug)]
pub struct Planned {
    /// As in [`Row`].
    pub kernel: String,
    release: String,
    config: PathBuf,
    /// The kernel and the module; or what became of it already.
    pub built: Result<(PathBuf, PathBuf), Outcome>,
}

/// Reads `KERNEL|RELEASE|CONFIG|built|KIMG|KO`, or `…|refused|REASON`, or `…|broken|ERROR`.
pub fn planned(text: &str) -> anyhow::Result<Planned> {
    let parts: Vec<_> = text.splitn(5, '|').collect();
    let [kernel, release, config, how, rest] = parts[..] else {
        bail!("expected KERNEL|RELEASE|CONFIG|HOW|…");
    };
    Ok(Planned {
        kernel: kernel.into(),
        release: release.into(),
        config: config.into(),
        built: match how {
            "built" => {
                let (image, module) = rest.split_once('|').context("expected KIMG|KO")?;
                Ok((image.into(), module.into()))
            }
            "refused" => Err(Outcome::Refused(rest.into())),
            "broken" => Err(Outcome::Broken(rest.into())),
            _ => bail!("built, refused or broken, not {how}"),
        },
    })
}

impl Planned {
    /// What logs and displays call it.
    pub fn name(&self) -> String {
        self.kernel.replace(':', "-")
    }

    /// The row, once it is known what became of it.
    pub fn row(&self, outcome: Outcome) -> anyhow::Result<Row> {
        let config =
            fs::read_to_string(&self.config).with_context(|| self.config.display().to_string())?;
        let value = |name: &str| {
            config
                .lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .strip_prefix("=\"")?
                        .strip_suffix('"')
                })
                .with_context(|| format!("{} has no {name}", self.config.display()))
        };
        Ok(Row {
            kernel: self.kernel.clone(),
            release: self.release.clone(),
            cc: value("CONFIG_CC_VERSION_TEXT")?.into(),
            rustc: value("CONFIG_RUSTC_VERSION_TEXT")?.into(),
            outcome,
        })
    }
}

/// Puts rows into a file.
pub fn write(rows: &[Row], path: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Puts rows into a work tree, and into its README.
pub fn record(results: &Path, tree: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(results).with_context(|| results.display().to_string())?;
    let rows: Vec<Row> =
        serde_json::from_str(&text).with_context(|| format!("{}: no rows", results.display()))?;
    let path = tree.join("README.md");
    let readme = fs::read_to_string(&path).context("README.md")?;
    let readme = with_block(&readme, "kernels", &markdown(&rows))?;
    write(&rows, &tree.join(RECORDED))?;
    fs::write(&path, readme).context("cannot write README.md")
}

/// The table, and below it what failed.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| kernel | of Debian's | C | Rust | the module | passed | failed | skipped |\n\
         |---|---|---|---|---|--:|--:|--:|\n",
    );
    let mut wrong = String::new();
    for row in rows {
        let (module, numbers) = match &row.outcome {
            Outcome::Refused(reason) => (format!("cannot be built: {reason}"), None),
            Outcome::Broken(error) => (format!("**does not build**: `{error}`"), None),
            Outcome::Tested {
                passed,
                skipped,
                failed,
            } => ("built".into(), Some([*passed, failed.len(), *skipped])),
        };
        let numbers = match numbers {
            Some(numbers) => numbers.map(|n| n.to_string()),
            None => ["-"; 3].map(String::from),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {module} | {} |",
            row.release,
            row.suite(),
            c_version(&row.cc),
            rust_version(&row.rustc),
            numbers.join(" | "),
        );
        if let Outcome::Tested { failed, .. } = &row.outcome {
            for what in failed {
                let _ = writeln!(
                    wrong,
                    "- {}, {}: **failed**: {what}",
                    row.release,
                    row.suite()
                );
            }
        }
    }
    if !wrong.is_empty() {
        let _ = write!(text, "\n{wrong}");
    }
    text
}

/// `x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0`: `gcc 14.2.0`.
fn c_version(text: &str) -> String {
    let version = text.rsplit(' ').next().unwrap_or(text);
    let command = text.split(' ').next().unwrap_or(text);
    let name = if command.contains("clang") {
        "clang"
    } else {
        "gcc"
    };
    format!("{name} {version}")
}

/// `rustc 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)`: `1.85.1`.
fn rust_version(text: &str) -> &str {
    text.split(' ').nth(1).unwrap_or(text)
}

#[cfg(test)]
mod unit {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tap::Outcome as Result;
    use crate::verdict::Fault;
    use crate::verdict::Reported;

    const README: &str = include_str!("../../README.md");
    const COMMITTED: &str = include_str!("../../docs/kernels.json");

    fn row(outcome: Outcome) -> Row {
        Row {
            kernel: "stock:forky:7.2".into(),
            release: "7.2.12+deb14-amd64".into(),
            cc: "x86_64-linux-gnu-gcc-16 (Debian 16.2.0-3) 16.2.0".into(),
            rustc: "rustc 1.97.1 (abc 2026-07-01) (built from a source tarball)".into(),
            outcome,
        }
    }

    fn tested(passed: usize, failed: &[&str]) -> Row {
        row(Outcome::Tested {
            passed,
            skipped: 2,
            failed: failed.iter().map(ToString::to_string).collect(),
        })
    }

    #[test]
    fn one_failure_in_one_row_fails_the_matrix() {
        assert!(good(&[tested(9, &[]), tested(9, &[])]));
        assert!(!good(&[tested(9, &[]), tested(9, &["pin::works"])]));
        assert!(!good(&[
            tested(9, &[]),
            row(Outcome::Broken("E0425".into()))
        ]));
        assert!(!good(&[tested(9, &[]), tested(0, &[])]));
    }

    #[test]
    fn refused_kernels_are_no_failure_and_no_success() {
        let refused = row(Outcome::Refused("no compiler".into()));
        assert!(good(&[refused.clone(), tested(9, &[])]));
        assert!(!good(&[refused]));
        assert!(!good(&[]));
    }

    #[test]
    fn faults_of_a_run_count_as_failed() {
        let of = |outcome| Reported {
            name: "pin::works".into(),
            outcome,
            diagnostics: vec![],
        };
        let mut judgement = Judgement {
            results: vec![of(Result::Passed), of(Result::Skipped("why".into()))],
            faults: vec![],
        };
        let all_is_well = Outcome::Tested {
            passed: 1,
            skipped: 1,
            failed: vec![],
        };
        assert_eq!(Outcome::of(&judgement), all_is_well);
        judgement.results.push(of(Result::Failed));
        judgement.faults.push(Fault::NoVerdict);
        let failed = vec!["pin::works".into(), Fault::NoVerdict.to_string()];
        let expected = Outcome::Tested {
            passed: 1,
            skipped: 1,
            failed,
        };
        assert_eq!(Outcome::of(&judgement), expected);
    }

    #[test]
    fn the_table_shows_each_kind_of_row() {
        let table = markdown(&[
            tested(9, &["pin::works"]),
            row(Outcome::Refused("it has no gcc-15".into())),
        ]);
        let lines: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| 7.2.12+deb14-amd64 | forky | gcc 16.2.0 | 1.97.1 | built | 9 | 1 | 2 |",
                "| 7.2.12+deb14-amd64 | forky | gcc 16.2.0 | 1.97.1 | cannot be built: it has no gcc-15 | - | - | - |",
                "",
                "- 7.2.12+deb14-amd64, forky: **failed**: pin::works",
            ]
        );
    }

    #[test]
    fn rows_are_planned_as_the_script_says() {
        let of = |text| planned(text).map(|p| (p.name(), p.built));
        let (name, built) = of("stock:forky:7.2|7.2.12|/c|built|/vmlinuz|/a.ko").expect("a row");
        assert_eq!(name, "stock-forky-7.2");
        assert_eq!(built, Ok(("/vmlinuz".into(), "/a.ko".into())));
        let (_, refused) = of("stock:sid|7.2|/c|refused|a | b").expect("a row");
        assert_eq!(refused, Err(Outcome::Refused("a | b".into())));
        let (_, broken) = of("stock:sid|7.2|/c|broken|error").expect("a row");
        assert_eq!(broken, Err(Outcome::Broken("error".into())));
        for wrong in ["stock", "stock|7|/c|fine|x", "stock|7|/c|built|/vmlinuz"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_readme_shows_what_is_recorded() {
        let rows: Vec<Row> = serde_json::from_str(COMMITTED).expect("rows");
        let again = with_block(README, "kernels", &markdown(&rows)).expect("a block");
        assert!(
            again == README,
            "something changed since `make matrix RECORD=1`, by hand or in what it writes"
        );
        let kernels: BTreeSet<_> = rows.iter().map(|row| &row.kernel).collect();
        assert!(kernels.len() == rows.len() && rows.len() > 1, "{kernels:?}");
    }
}
