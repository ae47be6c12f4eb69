//! The command line: one module per subcommand.

pub mod hash;
pub mod policy;
