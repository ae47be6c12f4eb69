//! What a text may ask of the YAML scanner, checked before the scanner sees it.
//!
//! `serde_yaml` limits nesting, but only after its scanner has been through the whole text, and the scanner's time is
//! quadratic in the depth of `[` and `{` and in the number of `%TAG` lines, and its memory is about 150 bytes per
//! token. The limits here keep a 16 MiB text to about a second and 400 MB, and are far beyond what a policy needs.

/// How many tokens a text may have, by an upper estimate.
const MAX_TOKENS: usize = 2_000_000;
/// How deep `[` and `{` may be nested, by an upper estimate. `serde_yaml`'s own limit is 128.
const MAX_DEPTH: usize = 256;
/// How many lines may start with `%`.
const MAX_DIRECTIVES: usize = 16;

/// Where the scan is inside brackets.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// A token may start here.
    Start,
    /// In a plain scalar, where quotes are characters like any other.
    Plain,
    /// In an anchor or a tag.
    Property,
    /// In a scalar in double quotes.
    Double,
    /// In a scalar in single quotes.
    Single,
    /// In a comment.
    Comment,
}

/// The limit that `text` exceeds, if it does.
pub(crate) fn exceeded(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    let (mut tokens, mut directives) = (0, usize::from(bytes.first() == Some(&b'%')));
    for pair in bytes.windows(2) {
        let blank = pair[1].is_ascii_whitespace();
        tokens += match pair[0] {
            b'[' | b'{' => 2,
            b'-' | b'?' if blank => 2,
            b'\n' | b',' => 1,
            b':' if blank => 1,
            _ => 0,
        };
        directives += usize::from(pair == b"\n%");
    }
    if tokens > MAX_TOKENS {
        Some("2,000,000 YAML tokens")
    } else if directives > MAX_DIRECTIVES {
        Some("16 YAML directives")
    } else if depth(bytes) > MAX_DEPTH {
        Some("256 levels of lists and mappings")
    } else {
        None
    }
}

/// An upper estimate of how deep brackets are nested, in one pass.
///
/// An opening bracket is taken back when it is closed, and only then. Between a bracket that really opens and the one
/// that closes it, the rules of flow style apply, which the scan follows; so no bracket that really opens is taken back
/// by one that merely stands in a string. Brackets in strings and comments are counted and never taken back, and those
/// of block style's texts may be: the result can only be too high.
fn depth(bytes: &[u8]) -> usize {
    let (mut open, mut stray, mut most) = (0_usize, 0, 0);
    let mut state = State::Start;
    let mut previous = b'\n';
    let mut bytes = bytes.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let next_blank = bytes.peek().is_none_or(|b| b.is_ascii_whitespace() || b"[]{},".contains(b));
        let opens = matches!(byte, b'[' | b'{');
        state = match (state, byte) {
            (State::Double, b'\\') => {
                stray += usize::from(bytes.next_if(|b| matches!(b, b'[' | b'{')).is_some());
                // Whatever is escaped is no quote that closes.
                bytes.next_if(|b| matches!(b, b'"' | b'\\'));
                State::Double
            }
            (State::Double, b'"') | (State::Single, b'\'') | (State::Comment, b'\n') => State::Start,
            (State::Double | State::Single | State::Comment, _) => {
                stray += usize::from(opens);
                state
            }
            (State::Start | State::Plain | State::Property, _) if opens => {
                open += 1;
                State::Start
            }
            (State::Start | State::Plain | State::Property, b']' | b'}') => {
                open = open.saturating_sub(1);
                State::Start
            }
            (State::Start | State::Plain | State::Property, b',') | (State::Start, b':') => State::Start,
            (State::Start | State::Plain | State::Property, b'#') if previous.is_ascii_whitespace() => State::Comment,
            (State::Start, b'"') => State::Double,
            (State::Start, b'\'') => State::Single,
            (State::Start, b'&' | b'!') => State::Property,
            (State::Plain, b':') if next_blank => State::Start,
            (State::Property | State::Start, _) if byte.is_ascii_whitespace() => State::Start,
            (State::Start | State::Plain, _) => State::Plain,
            (State::Property, _) => State::Property,
        };
        previous = byte;
        most = most.max(open + stray);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_counted_where_they_may_be_open() {
        for (text, expected) in [
            ("", 0),
            ("a: [b, c]\nd: [e, {f: g}]\n", 2),
            ("a: [\"b\", 'c'] # [d\n", 1),
            ("[[[[", 4),
            ("[\"]\", [\"]\", [\"]\"", 3),
            ("['it''s ]', ['it''s ]'", 2),
            ("[\"\\\"]\", [", 2),
            ("[a\"b, [c\"]", 2),
            ("[a # ]\n, [ # ]\n", 2),
            ("# [\"\n[[[", 4),
            ("[&a \"]\", [!t ']', [", 3),
            ("{\"a\":\"}\", \"b\":{\"c\":'}'", 2),
        ] {
            assert_eq!(depth(text.as_bytes()), expected, "{text:?}");
        }
        let many = "skill: {allow: [\"a\", 'b', c], reason: \"don't\"}\n".repeat(1000);
        assert_eq!(depth(many.as_bytes()), 2);
    }

    #[test]
    fn limits() {
        assert_eq!(exceeded(&"- \"sha256:0\"\n".repeat(200_000)), None);
        assert_eq!(exceeded(&"[".repeat(300)), Some("256 levels of lists and mappings"));
        assert_eq!(exceeded(&"- ".repeat(1_000_001)), Some("2,000,000 YAML tokens"));
        assert_eq!(exceeded(&"%TAG !a b:\n".repeat(17)), Some("16 YAML directives"));
    }
}
