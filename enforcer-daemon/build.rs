//! Embeds the kernel object, which `cargo xtask build-ebpf` makes with another compiler, compressed: `src/kernel/object.rs`.

use std::{env, fs, path::PathBuf};

use miniz_oxide::deflate::compress_to_vec_zlib;
use sha2::{Digest as _, Sha256};

const OBJECTS: [&str; 3] = ["enforcer.bpf.o", "enforcer-log.bpf.o", "enforcer-elder.bpf.o"];
/// How hard to compress, of 10. Higher ones take several times as long for a few percent.
const LEVEL: u8 = 6;

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=ENFORCER_BPF_DIR");
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let manifest = variable("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let out = variable("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    let dir = variable("ENFORCER_BPF_DIR").unwrap_or_else(|| manifest.join("../target"));
    for object in OBJECTS {
        let from = dir.join(object);
        println!("cargo::rerun-if-changed={}", from.display());
        let bytes = fs::read(&from)
            .map_err(|e| format!("{}: {e}; `cargo xtask build-ebpf` makes the kernel object", from.display()))?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        // Numbers as bytes: the lints want others written as one writes them.
        let len = u64::try_from(bytes.len()).map_err(|e| e.to_string())?.to_le_bytes();
        let packed = format!(
            "Packed {{ len: usize::from_le_bytes({len:?}), digest: {digest:?}, zlib: include_bytes!(\"{object}.zlib\") }}\n"
        );
        for (extension, content) in [("zlib", compress_to_vec_zlib(&bytes, LEVEL)), ("rs", packed.into_bytes())] {
            let to = out.join(format!("{object}.{extension}"));
            fs::write(&to, content).map_err(|e| format!("{}: {e}", to.display()))?;
        }
    }
    Ok(())
}
