//! Counting test results: cargo's on the host, the guest suite's in a guest.
//!
//! What is not plainly a pass is a failure: a suite that stops short, says nothing, or miscounts.

use std::ops::AddAssign;

/// How much of a failure is shown again at the end.
const FAILURE_LINES: usize = 12;

/// Passed and failed tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl Tally {
    /// One failure that no test reported.
    pub(crate) const BROKEN: Self = Self { passed: 0, failed: 1 };

    /// Adds cargo's summary of one test binary: `test result: ok. 3 passed; 0 failed; …`.
    pub(crate) fn cargo_line(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for count in counts.split(';') {
            match words(count) {
                Some((number, "passed")) => self.passed += number,
                Some((number, "failed")) => self.failed += number,
                _ => {}
            }
        }
    }
}

/// What one guest's suite printed so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Suite {
    seen: Tally,
    summary: Option<Tally>,
    failures: Vec<Failure>,
}

/// A test that failed, and the first lines of what it says.
#[derive(Debug, Clone)]
struct Failure {
    lines: Vec<String>,
    ended: bool,
}

impl Suite {
    /// Takes notice of one line.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(failure) = self.failures.last_mut().filter(|failure| !failure.ended) {
            failure.ended = !line.starts_with("    ") || failure.lines.len() > FAILURE_LINES;
            if !failure.ended {
                failure.lines.push(line.to_owned());
            }
        }
        if line.starts_with("test ") && line.contains(" ... ") {
            if line.ends_with("... ok") {
                self.seen.passed += 1;
            } else if line.ends_with("... FAILED") {
                self.seen.failed += 1;
                self.failures.push(Failure { lines: vec![line.to_owned()], ended: false });
            }
        } else if let Some(summary) = parse_summary(line) {
            self.summary = Some(summary);
        }
    }

    /// The tests that failed, each with what it says.
    pub(crate) fn failures(&self) -> impl Iterator<Item = String> {
        self.failures.iter().map(|failure| failure.lines.join("\n"))
    }

    /// The result, given the suite's exit status, and what is wrong with it beyond failed tests.
    pub(crate) fn end(&self, status: u8) -> (Tally, Option<String>) {
        let wrong = match self.summary {
            None => Some(format!("the suite ended without a summary, with status {status}")),
            Some(summary) if summary != self.seen => Some(format!(
                "the suite counts {} passed, {} failed, but its lines say {} and {}",
                summary.passed, summary.failed, self.seen.passed, self.seen.failed
            )),
            Some(Tally { passed: 0, failed: 0 }) => Some("the suite ran no test".to_owned()),
            Some(Tally { failed: 0, .. }) if status != 0 => {
                Some(format!("no test failed, and yet the suite's status is {status}"))
            }
            Some(Tally { failed: 1.., .. }) if status == 0 => {
                Some("tests failed, and yet the suite's status is 0".to_owned())
            }
            Some(_) => None,
        };
        let mut tally = self.seen;
        if wrong.is_some() {
            tally += Tally::BROKEN;
        }
        (tally, wrong)
    }

    /// The result when the guest died: what was seen, and one failure more.
    pub(crate) fn died(&self) -> Tally {
        let mut tally = self.seen;
        tally += Tally::BROKEN;
        tally
    }
}

/// Reads `N passed, N failed`.
fn parse_summary(line: &str) -> Option<Tally> {
    let (passed, failed) = line.trim().split_once(", ")?;
    match (words(passed)?, words(failed)?) {
        ((passed, "passed"), (failed, "failed")) => Some(Tally { passed, failed }),
        _ => None,
    }
}

/// A number and the word behind it.
fn words(text: &str) -> Option<(u64, &str)> {
    let (number, word) = text.trim().split_once(' ')?;
    Some((number.parse().ok()?, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(lines: &[&str]) -> Suite {
        let mut suite = Suite::default();
        for line in lines {
            suite.line(line);
        }
        suite
    }

    #[test]
    fn cargo_is_added_up() {
        let mut tally = Tally::default();
        tally.cargo_line("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0s");
        tally.cargo_line("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.cargo_line("test a::b ... ok");
        assert_eq!(tally, Tally { passed: 5, failed: 4 });
    }

    #[test]
    fn a_good_suite_is_what_it_says() {
        let good = suite(&["test a ... ok", "noise", "test b ... ok", "2 passed, 0 failed"]);
        assert_eq!(good.end(0), (Tally { passed: 2, failed: 0 }, None));
        let bad = suite(&["test a ... ok", "test b ... FAILED", "1 passed, 1 failed"]);
        assert_eq!(bad.end(1), (Tally { passed: 1, failed: 1 }, None));
    }

    #[test]
    fn failures_are_told_again() {
        let lines = [
            "test a ... FAILED",
            "    why",
            "      of b",
            "test b ... ok",
            "    more",
            "test c ... FAILED",
            "",
            "    d",
        ];
        let told: Vec<_> = suite(&lines).failures().collect();
        assert_eq!(told, ["test a ... FAILED\n    why\n      of b", "test c ... FAILED"]);
        let many: Vec<_> = ["test a ... FAILED"].into_iter().chain(["    line"; 100]).collect();
        assert_eq!(suite(&many).failures().next().map(|text| text.lines().count()), Some(FAILURE_LINES + 1));
    }

    #[test]
    fn what_is_not_plainly_a_pass_fails() {
        for (lines, status) in [
            // No summary, although all is well so far.
            (&["test a ... ok"][..], 0),
            // Nothing at all, or no test.
            (&[][..], 0),
            (&["0 passed, 0 failed"][..], 0),
            // A line missing.
            (&["test a ... ok", "2 passed, 0 failed"][..], 0),
            // Status and summary at odds, either way.
            (&["test a ... ok", "1 passed, 0 failed"][..], 1),
            (&["test a ... FAILED", "0 passed, 1 failed"][..], 0),
        ] {
            let (tally, wrong) = suite(lines).end(status);
            assert!(tally.failed > 0 && wrong.is_some(), "{lines:?}");
        }
    }

    #[test]
    fn a_dead_guest_is_a_failure_even_after_its_summary() {
        let done = suite(&["test a ... ok", "1 passed, 0 failed"]);
        assert_eq!(done.died(), Tally { passed: 1, failed: 1 });
        assert_eq!(suite(&[]).died(), Tally::BROKEN);
    }

    #[test]
    fn summaries_are_read() {
        assert_eq!(parse_summary("12 passed, 3 failed"), Some(Tally { passed: 12, failed: 3 }));
        for wrong in ["12 passed", "a passed, 3 failed", "1 failed, 2 passed", ""] {
            assert_eq!(parse_summary(wrong), None, "{wrong}");
        }
    }
}
