//! Manifests that no daemon may take.

use std::{fs, path::Path};

use anyhow::ensure;

/// One of them.
pub(super) struct Case {
    /// What is wrong.
    pub(super) name: &'static str,
    /// Its file.
    pub(super) file: String,
    /// A word of the error; the file is in it always.
    pub(super) word: &'static str,
}

impl Case {
    /// The error names the file and says what is wrong, within reason.
    pub(super) fn explained(&self, error: &str) -> anyhow::Result<()> {
        ensure!(error.contains(&self.file), "{}: the file is not named in {error:?}", self.name);
        ensure!(error.contains(self.word), "{}: {:?} is not in {error:?}", self.name, self.word);
        ensure!(error.len() < 16 << 10, "{}: the error has {} bytes", self.name, error.len());
        Ok(())
    }
}

/// Each nests ten of the one before: 10^9 in the end.
const BOMB: &str = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                    d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                    g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g,*g]\nskills: *h\n";

/// All of them, as files below `dir`.
pub(super) fn cases(dir: &Path) -> anyhow::Result<Vec<Case>> {
    let dir = dir.join("bad");
    fs::create_dir_all(dir.join("directory"))?;
    let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let mut cases = vec![
        Case { name: "missing", file: file("missing"), word: "No such file" },
        Case { name: "directory", file: file("directory"), word: "regular file" },
    ];
    let digits = "a".repeat(63);
    let skill = |text: &str| format!("skills:\n  s:\n    {text}\n").into_bytes();
    let mut deep = b"skills: ".to_vec();
    deep.extend(std::iter::repeat_n(b'[', 100_000));
    let texts: [(&'static str, Vec<u8>, &'static str); 13] = [
        ("empty", vec![], "empty"),
        ("large", vec![b'#'; 17 << 20], "at most"),
        ("not-utf-8", b"skills:\n  s\xff: {}\n".to_vec(), "UTF-8"),
        ("nul", b"skills:\n  s\0: {}\n".to_vec(), "\\0"),
        ("bomb", BOMB.as_bytes().to_vec(), ""),
        ("deep", deep, ""),
        ("wrong-type", skill("allow_delete: 7"), "allow_delete"),
        ("duplicate-key", skill("allow_delete: []\n    allow_delete: []"), "allow_delete"),
        ("unknown-key", skill("allow_deletes: []"), "allow_deletes"),
        ("digest-of-63-digits", skill(&format!("allow_binaries: [\"sha256:{digits}\"]")), "63"),
        ("prefix", skill("network_scope: [10.0.0.0/33]"), "10.0.0.0/33"),
        ("port", skill("network_scope: [10.0.0.1:70000]"), "70000"),
        ("two-documents", b"skills: {}\n---\nskills: {}\n".to_vec(), ""),
    ];
    for (name, text, word) in texts {
        fs::write(file(name), text)?;
        cases.push(Case { name, file: file(name), word });
    }
    Ok(cases)
}
