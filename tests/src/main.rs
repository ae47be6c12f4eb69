//! The guest suite.
fn main() {}
