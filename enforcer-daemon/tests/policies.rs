//! The example manifests are manifests: each passes what `enforcer policy check` looks at.

use std::{fs, path::Path};

use enforcer_daemon::manifest;

#[test]
fn every_example_is_valid() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut files: Vec<_> = fs::read_dir(&dir)
        .expect("the examples' directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"))
        .collect();
    files.sort();
    for expected in ["coding-agent.yaml", "demo.yaml", "file-manager.yaml", "fleet.yaml"] {
        assert!(files.iter().any(|file| file.ends_with(expected)), "{expected} is not in {}", dir.display());
    }
    let refused: Vec<_> = files.iter().filter_map(|file| manifest::load(file).err()).map(|e| e.to_string()).collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
