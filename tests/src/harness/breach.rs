//! What shows that an attack got through, to be told from a test that failed for another reason.

use std::fmt;

/// The denied act was done, or the object is not what it was.
#[derive(Debug)]
pub(crate) struct Breach(pub(crate) String);

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Breach {}

/// Why a test failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// In words.
    pub(crate) why: String,
    /// Whether it shows that the attack got through.
    pub(crate) breach: bool,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { why: format!("{error:#}"), breach: error.downcast_ref::<Breach>().is_some() }
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self { why, breach: false }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn is_known_below_what_was_said_of_it() {
        let told: anyhow::Result<()> = Err(Breach("/f is gone".into()).into());
        let told = told.context("the denied one").context("unlink");
        let failure = Failure::from(told.expect_err("an error"));
        assert!(failure.breach && failure.why == "unlink: the denied one: /f is gone", "{failure:?}");
        assert!(!Failure::from(anyhow::anyhow!("no python")).breach);
    }
}
