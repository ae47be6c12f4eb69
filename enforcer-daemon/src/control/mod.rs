//! The control socket: one JSON object a line, each answered by one, or by a stream of events.
//!
//! Only root and the members of the daemon's `--control-group` may connect, and never a process that a skill governs: an agent
//! that runs as root cannot ask the daemon to let it out.

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

/// The socket's name in the runtime directory.
pub const SOCKET: &str = "control.sock";
/// The longest request or answer, in bytes.
pub const MAX_LINE: u64 = 1 << 20;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What is in force.
    Status,
    /// Put a process into a skill.
    Enter {
        /// The skill's name.
        skill: String,
        /// The process; absent: the one that asks.
        pid: Option<u32>,
    },
    /// Put a running process, or what is and will be in a cgroup, into a skill.
    Attach {
        /// The skill's name.
        skill: String,
        /// The process.
        pid: Option<u32>,
        /// The cgroup, as a path below the mount of cgroup v2.
        cgroup: Option<String>,
        /// The containers: a name, a prefix of an id, `image=…`, `label=KEY=VALUE`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<String>,
        /// The units; `*` and `?` are wildcards.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<String>,
    },
    /// A container is about to start: govern it if it belongs to a skill.
    Container {
        /// Its id.
        id: String,
        /// Its first process.
        pid: u32,
        /// Its bundle's directory.
        bundle: std::path::PathBuf,
        /// The skill, whatever the policy's selectors say.
        skill: Option<String>,
    },
    /// Read the manifest again and put it in force.
    Reload {
        /// Another file than before.
        policy: Option<std::path::PathBuf>,
    },
    /// Take everything out of force, and end the daemon.
    Unload,
    /// The last events, and with `follow` those to come.
    Events {
        /// Go on until the connection ends.
        follow: bool,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// It was not done.
    Error {
        /// Why.
        error: String,
    },
    /// It was done.
    Ok {
        /// What came of it.
        ok: serde_json::Value,
    },
}
