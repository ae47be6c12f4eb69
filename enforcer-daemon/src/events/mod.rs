//! Events: ring buffer → [`decode`] → [`enrich`] → [`record`] → [`stream`] and sinks.

pub mod decode;
pub mod enrich;
pub mod ledger;
pub mod record;
pub mod stream;
pub mod text;

pub use record::Record;
