//! The decision core against a naive model of the manifest.
//!
//! The model knows path strings and lists of rules and takes its semantics from the manifest's text; the core knows
//! objects, maps and generations. A million random cases per run ask both the same questions. Some properties need no
//! model: what must hold between two policies, or before and after a link or a rename.
//!
//! `PROPTEST_RNG_SEED=N` repeats a run, `PROPTEST_CASES=N` sets the number of cases of each property. Failures are
//! shrunk and kept in `proptest-regressions/`.

mod exec;
mod files;
mod generations;
mod harness;
mod links;
mod metamorphic;
mod naive;
mod net;
mod objects;
mod own;
mod policy;
mod store;
mod world;
