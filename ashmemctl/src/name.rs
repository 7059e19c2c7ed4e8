// SPDX-License-Identifier: GPL-2.0-only

//! Names, which may have any bytes but NUL.

use std::fmt;
use std::str;

/// A name as it was set. Printed, it is in one line and moves no cursor: a
/// backslash is `\\`, bytes that are not UTF-8 are `\xff`, and what is not
/// printable is as in Rust, `\n` or `\u{1b}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(Vec<u8>);

impl Name {
    /// These bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its text, what is not UTF-8 replaced by U+FFFD.
    pub fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// Its bytes as hexadecimal digits, where its text is not all.
    pub fn hex(&self) -> Option<String> {
        str::from_utf8(&self.0).is_err().then(|| {
            let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
            digits.collect()
        })
    }

    /// Whether somebody who types this means it: the name itself, or how it is printed.
    pub fn is(&self, typed: &[u8]) -> bool {
        self.0 == typed || self.to_string().as_bytes() == typed
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' | '\'' => write!(f, "{c}")?,
                    _ => write!(f, "{}", c.escape_debug())?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn no_name_leaves_its_line_or_reaches_the_terminal() {
        for (bytes, shown) in [
            (&b"plain name/x"[..], "plain name/x"),
            (b"it's \"one\"", "it's \"one\""),
            (b"a\nb\tc\r", "a\\nb\\tc\\r"),
            (b"\x1b[2J\x07", "\\u{1b}[2J\\u{7}"),
            (b"back\\slash", "back\\\\slash"),
            (b"\xff\xc3(", "\\xff\\xc3("),
            ("größe".as_bytes(), "größe"),
            // From right to left; C1's CSI; a mark that joins the letter before it.
            (
                "\u{202e}x\u{9b}e\u{301}".as_bytes(),
                "\\u{202e}x\\u{9b}e\\u{301}",
            ),
        ] {
            let name = Name::new(bytes);
            assert_eq!(name.to_string(), shown);
            assert!(name.is(bytes) && name.is(shown.as_bytes()));
            assert!(!name.is(b"another"));
        }
        // Whatever they are.
        let all: Vec<u8> = (1..=255).collect();
        let text = Name::new(all).to_string();
        assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
    }

    #[test]
    fn different_names_look_different() {
        let names: [&[u8]; 6] = [b"\n", b"\\n", b"\xff", b"\\xff", b"\\", b"\\\\"];
        for (at, one) in names.iter().enumerate() {
            for other in &names[..at] {
                let (one, other) = (Name::new(*one), Name::new(*other));
                assert_ne!(one.to_string(), other.to_string());
            }
        }
    }

    #[test]
    fn json_loses_no_byte() {
        let name = Name::new("größe\n");
        assert_eq!((name.lossy().as_str(), name.hex()), ("größe\n", None));
        let name = Name::new(b"a\xff");
        assert_eq!(name.lossy(), "a\u{fffd}");
        assert_eq!(name.hex().as_deref(), Some("61ff"));
    }
}
