//! `aya::Pod` for what the daemon reads and writes in maps.

use crate::{content, event, host, ids, net, rules, task, unit};

/// # Safety
/// Every type in the list is `repr(C)` or `repr(transparent)`, `Copy`, made of integers alone, and has no padding: the
/// size assertions beside the types count every field.
macro_rules! pod {
    ($($ty:ty,)+) => { $(
        // SAFETY: see the macro: plain integers without padding, so every byte is initialised and every value valid.
        unsafe impl aya::Pod for $ty {}
    )+ };
}

pod! {
    content::Measurement,
    host::HostFacts,
    ids::Digest,
    ids::ObjectId,
    ids::SkillId,
    net::AbstractKey,
    net::NetKey,
    rules::BinaryKey,
    rules::Budget,
    rules::ObjectKey,
    rules::PolicyState,
    rules::Versioned<rules::BinaryRule>,
    rules::Versioned<rules::EntrypointRule>,
    rules::Versioned<rules::ObjectRule>,
    rules::Versioned<rules::SkillConf>,
    rules::Versioned<net::AbstractRule>,
    rules::Versioned<net::PortSet>,
    task::CgroupLabel,
    task::CgroupName,
    task::Enrolment,
    task::Label,
    unit::UnitRule,
    event::Event,
}
