//! A daemon that was there before: the suites' skills are put in force beside its own, and taken away again.

use std::{fs, io, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use serde_yaml::{Mapping, Value};
use sha2::{Digest as _, Sha256};

use super::daemon::ask;

/// The levels of audit, each of which includes those before it.
const LEVELS: [&str; 3] = ["basic", "standard", "strict"];

/// Where the daemon reads both: in its runtime directory, which is Enforcer's own. Elsewhere a governed process could write its own words
/// between ours and the reload.
pub(crate) const BESIDE: &str = "/run/enforcer/attacks.yaml";

/// A running daemon and its policy.
pub(crate) struct Lent {
    /// Its process.
    pub(crate) pid: u32,
    /// Its manifest.
    file: PathBuf,
    manifest: Mapping,
}

impl Lent {
    /// The daemon that answers, if one does.
    ///
    /// # Errors
    /// When the manifest in force is not the one that lies at its path: it could not be put back.
    pub(crate) fn find() -> anyhow::Result<Option<Self>> {
        let Ok(status) = ask(&json!({"op": "status"})) else { return Ok(None) };
        let pid =
            status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("the daemon names no process")?;
        let file = PathBuf::from(status["policy"].as_str().context("the daemon names no manifest")?);
        let text = fs::read_to_string(&file).with_context(|| format!("the manifest in force, {}", file.display()))?;
        let digest = format!("{:x}", Sha256::digest(&text));
        let in_force = status["manifest"].as_str().unwrap_or_default();
        ensure!(
            in_force.trim_start_matches("sha256:") == digest,
            "{} is not what is in force: put it in force with `enforcer reload`, or undo the change",
            file.display()
        );
        let manifest = serde_yaml::from_str(&text).with_context(|| file.display().to_string())?;
        Ok(Some(Self { pid, file, manifest }))
    }

    /// The policy in force with the skills of a suite beside it. A skill that does not say whether it blocks does: the
    /// manifest in force may only watch.
    ///
    /// # Errors
    /// When a skill has the name of one that is in force.
    pub(crate) fn beside(&self, manifest: &str) -> anyhow::Result<String> {
        let suite: Mapping = serde_yaml::from_str(manifest).context("the suite's manifest")?;
        let mut whole = self.manifest.clone();
        let level = |manifest: &Mapping| {
            let word = manifest.get("audit_level").and_then(Value::as_str).unwrap_or("standard");
            LEVELS.iter().position(|level| *level == word).unwrap_or_default()
        };
        // Nobody gets fewer events than he asked for.
        whole.insert("audit_level".into(), LEVELS[level(&whole).max(level(&suite))].into());
        let skills = whole.entry("skills".into()).or_insert_with(|| Mapping::new().into());
        if skills.is_null() {
            *skills = Mapping::new().into();
        }
        let skills = skills.as_mapping_mut().context("`skills` is no mapping")?;
        for (name, skill) in suite.get("skills").and_then(Value::as_mapping).into_iter().flatten() {
            let mut skill = skill.as_mapping().cloned().unwrap_or_default();
            skill.entry("mode".into()).or_insert_with(|| "enforce".into());
            if skills.insert(name.clone(), skill.into()).is_some() {
                bail!("the policy in force has a skill {name:?}, too");
            }
        }
        Ok(serde_yaml::to_string(&whole)?)
    }

    /// Puts its policy in force as it was.
    pub(crate) fn give_back(&self) -> anyhow::Result<()> {
        ask(&json!({"op": "reload", "policy": self.file})).context("the policy as it was")?;
        fs::remove_file(BESIDE).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lent(text: &str) -> Lent {
        Lent { pid: 1, file: "/etc/enforcer/policy.yaml".into(), manifest: serde_yaml::from_str(text).expect("YAML") }
    }

    #[test]
    fn both_are_in_force() {
        let lent = lent("version: 1\nmode: audit\nskills:\n  own:\n    allow_binaries: [/usr/bin/wc]\n");
        let suite =
            "version: 1\naudit_level: strict\nskills:\n  a:\n    allow_delete: [/x]\n  b:\n    mode: audit\n  c: {}\n";
        let whole: Value = serde_yaml::from_str(&lent.beside(suite).expect("a manifest")).expect("YAML");
        assert_eq!(whole["mode"], "audit");
        assert_eq!(whole["audit_level"], "strict");
        assert_eq!(whole["skills"]["own"]["allow_binaries"][0], "/usr/bin/wc");
        assert!(whole["skills"]["own"].get("mode").is_none());
        assert_eq!(whole["skills"]["a"]["allow_delete"][0], "/x");
        for (skill, mode) in [("a", "enforce"), ("b", "audit"), ("c", "enforce")] {
            assert_eq!(whole["skills"][skill]["mode"], mode);
        }
    }

    #[test]
    fn a_skill_of_the_same_name_is_not_replaced() {
        let lent = lent("version: 1\nskills:\n  a:\n    mode: audit\n");
        let error = lent.beside("version: 1\nskills:\n  a: {}\n").expect_err("refused");
        assert!(error.to_string().contains('a'), "{error}");
    }

    #[test]
    fn a_policy_without_skills_takes_some() {
        let whole = lent("version: 1\nskills:\n").beside("version: 1\nskills:\n  a: {}\n").expect("a manifest");
        assert!(whole.contains("a:"), "{whole}");
    }
}
