//! Tests of the manifest as a whole, from text to [`ValidManifest`].

mod accepted;
mod edit;
mod hostile;
mod network;
mod properties;
mod refused;
mod stages;

use super::*;

/// The digest of the community example.
const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// The form that the community writes; valid as it stands.
const COMMUNITY: &str = r#"# claw.policy.yaml
skills:
  file_manager:
    allow_binaries: ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    network_scope: ["api.github.com"]
    require_2fa: true
audit_level: strict
"#;

/// Every key of the schema; `DIGEST` stands for a digest.
const FULL: &str = r#"version: 1
mode: enforce
audit_level: standard
skills:
  file_manager:
    mode: audit
    match:
      cgroup: /agents.slice/file_manager.scope
      unit: openclaw@*.service
      container: openclaw
      entrypoint: "DIGEST"
    allow_binaries:
      - "DIGEST"
      - path: /usr/bin/git
        sha256: "DIGEST"
        parents: [/usr/bin/bash, "DIGEST"]
    allow_libraries: [/usr, /lib, "DIGEST"]
    allow_jit: false
    allow_write: [/srv/agent]
    allow_delete: [/srv/agent/tmp, /srv/agent/build]
    protect: [/srv/agent/.git, ~/.openclaw/credentials]
    delete_budget: 50/min
    network_scope:
      - api.github.com
      - "*.githubusercontent.com:443/tcp"
      - 10.0.0.0/8:5432
      - "[2001:db8::/32]:443"
      - unix:/run/agent/control.sock
    listen: ["127.0.0.1:8080"]
    via: 127.0.0.1:3128
    require_2fa: true
    approval: {timeout: 5m, grant: once}
    reason: "deletes outside /srv/agent/tmp need a human; ask in #ops"
"#;

fn full() -> String {
    FULL.replace("DIGEST", DIGEST)
}

fn parsed(text: &str) -> Result<Manifest, ManifestErrors> {
    parse(&Source::from_bytes("claw.policy.yaml", text.as_bytes().to_vec())?)
}

fn validated(text: &str) -> Result<ValidManifest, ManifestErrors> {
    parsed(text)?.validate()
}

/// A manifest with one skill, `a`, and `body` as its keys, which start in line 3, column 5.
fn skill(body: &str) -> String {
    let body: Vec<_> = body.lines().map(|line| format!("    {line}")).collect();
    format!("skills:\n  a:\n{}\n", body.join("\n"))
}

/// What stands wrong where: `line:column path message`.
fn faults(errors: &ManifestErrors) -> Vec<String> {
    let place = |error: &ManifestError| error.position.map_or("-".to_owned(), |at| at.to_string());
    errors.iter().map(|error| format!("{} {} {}", place(error), error.path, error.message())).collect()
}
