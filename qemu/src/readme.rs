// SPDX-License-Identifier: GPL-2.0-only

//! The blocks of the README that are written by programs.

use anyhow::Context;

/// The README with this text between the comments `NAME: begin` and `NAME: end`.
pub fn with_block(readme: &str, name: &str, text: &str) -> anyhow::Result<String> {
    let begin = format!("<!-- {name}: begin -->\n");
    let end = format!("<!-- {name}: end -->");
    let (before, rest) = readme
        .split_once(&begin)
        .with_context(|| format!("README.md has no `{name}: begin`"))?;
    let (_, after) = rest
        .split_once(&end)
        .with_context(|| format!("README.md has no `{name}: end`"))?;
    Ok(format!("{before}{begin}{text}{end}{after}"))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn recording_changes_the_block_and_nothing_else() {
        let readme = "a\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nb\n";
        let changed = with_block(readme, "bench", "new\n").expect("it has a block");
        assert_eq!(
            changed,
            "a\n<!-- bench: begin -->\nnew\n<!-- bench: end -->\nb\n"
        );
        assert!(with_block("a\n", "bench", "new\n").is_err());
        assert!(with_block(readme, "kernels", "new\n").is_err());
    }
}
