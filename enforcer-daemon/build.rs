//! Embeds the kernel object, which `cargo xtask build-ebpf` makes with another compiler.

use std::{env, fs, path::PathBuf};

const OBJECTS: [&str; 3] = ["enforcer.bpf.o", "enforcer-log.bpf.o", "enforcer-elder.bpf.o"];

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=ENFORCER_BPF_DIR");
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let manifest = variable("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let out = variable("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    let dir = variable("ENFORCER_BPF_DIR").unwrap_or_else(|| manifest.join("../target"));
    for object in OBJECTS {
        let from = dir.join(object);
        println!("cargo::rerun-if-changed={}", from.display());
        fs::copy(&from, out.join(object))
            .map_err(|e| format!("{}: {e}; `cargo xtask build-ebpf` makes the kernel object", from.display()))?;
    }
    Ok(())
}
