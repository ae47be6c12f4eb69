//! A SHA-256 digest in the manifest's notation, `sha256:` and 64 hex digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::InvalidValue;

const PREFIX: &str = "sha256:";
const HEX_DIGITS: usize = 64;

/// The SHA-256 of a file's content: what a binary *is*, wherever it lies and whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// From the 32 bytes of a SHA-256.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `text` is meant to be a digest rather than a path.
    pub(crate) fn is_meant_by(text: &str) -> bool {
        text.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidValue;

    /// Hex digits may be upper or lower case; the prefix is lower case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |why: String| {
            InvalidValue::new(text, "64 hex digits after `sha256:`")
                .because(why)
                .hint("`enforcer hash FILE` prints the line to paste")
        };
        let Some(hex) = text.strip_prefix(PREFIX) else {
            return Err(if text.len() == HEX_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit()) {
                invalid("without `sha256:`".into()).hint(format!("write \"{PREFIX}{text}\""))
            } else {
                invalid("no `sha256:`".into())
            });
        };
        if let Some(wrong) = hex.chars().find(|c| !c.is_ascii_hexdigit()) {
            return Err(invalid(format!("{wrong:?} is no hex digit")));
        }
        if hex.len() != HEX_DIGITS {
            return Err(invalid(format!("{} hex digits", hex.len())));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Ok(Self(bytes))
    }
}

/// The value of a byte that is known to be a hex digit.
fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
