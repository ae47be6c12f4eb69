//! `cargo xtask`: build, guest and test commands.
fn main() {}
