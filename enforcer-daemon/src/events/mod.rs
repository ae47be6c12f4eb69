//! Events: ring buffer → [`decode`] → [`enrich`] → [`record`] → [`stream`] → [`sinks`].

pub mod decode;
pub mod enrich;
pub mod ledger;
pub mod record;
pub mod sinks;
pub mod stream;
pub mod text;

pub use record::Record;
