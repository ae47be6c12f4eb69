//! The running kernel's release.

/// As `uname -r` says it.
#[must_use]
pub fn here() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Major and minor of a release such as `6.1.0-31-cloud-amd64`.
#[must_use]
pub fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']).map_while(|n| n.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_and_minor() {
        assert_eq!(parse("6.1.0-31-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse("7.2.13+deb14-cloud-amd64"), Some((7, 2)));
        assert_eq!(parse("5.10"), Some((5, 10)));
        assert_eq!(parse("next"), None);
    }
}
