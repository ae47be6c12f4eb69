//! Loads the kernel object and attaches its programs.

use std::{fs::File, io, path::Path};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, ProgramError},
};
use enforcer_common::names;

use super::{
    offsets::{self, BTF_PATH, Layout, OffsetsError},
    programs::{Loaded, PROGRAMS, Program},
};

/// The kernel object of this build.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer.bpf.o"));
/// The same with debug messages, loaded when `ENFORCER_BPF_LOG` is set.
static OBJECT_WITH_LOG: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-log.bpf.o"));

/// The environment variable that asks for the programs' debug messages.
pub const LOG_VARIABLE: &str = "ENFORCER_BPF_LOG";

/// The environment variable that makes maps smaller, such as `TASKS=1000,CGROUPS=64`: to see what a full one does.
pub const SIZES_VARIABLE: &str = "ENFORCER_MAP_SIZES";

/// Where cgroup v2 is mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Why enforcement could not be put in force. Nothing stays attached after it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The kernel's layout could not be learnt.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// aya could not read the kernel's types.
    #[error("cannot read the kernel's type information: {0}")]
    Btf(#[from] aya::BtfError),
    /// The object or its maps were refused.
    #[error("the kernel refused the maps: {0}")]
    Object(#[source] Box<aya::EbpfError>),
    /// A program was refused.
    #[error("the kernel refused program `{program}` ({purpose}): {cause}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it is for.
        purpose: &'static str,
        /// The kernel's words.
        cause: String,
    },
    /// cgroup v2 is not where it is expected.
    #[error("cannot open the root of cgroup v2 at {CGROUP_ROOT}: {0}")]
    Cgroup(#[source] io::Error),
    /// A map is missing or of another type.
    #[error("map `{map}`: {cause}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What is wrong.
        cause: String,
    },
}

/// The loaded object. The programs are detached when it is dropped.
pub struct Kernel {
    ebpf: Ebpf,
    btf: Btf,
    layout: Layout,
}

impl Kernel {
    /// Creates the maps and loads every program. Nothing is attached yet.
    ///
    /// # Errors
    /// When this kernel refuses any of it; the error names the program or the field and keeps the kernel's words.
    pub fn load() -> Result<Self, LoadError> {
        let layout = offsets::read(Path::new(BTF_PATH))?;
        let offsets = layout.offsets.to_bytes();
        let btf = Btf::from_sys_fs()?;
        let object = if std::env::var_os(LOG_VARIABLE).is_some() { OBJECT_WITH_LOG } else { OBJECT };
        let sizes = std::env::var(SIZES_VARIABLE).unwrap_or_default();
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).override_global(names::OFFSETS, offsets.as_slice(), true);
        // Socket storage, which only the programs use.
        loader.allow_unsupported_maps();
        for (map, size) in sizes.split(',').filter_map(|size| size.split_once('=')) {
            if let Ok(size) = size.parse() {
                loader.map_max_entries(map, size);
            }
        }
        let ebpf = loader.load(object).map_err(|e| LoadError::Object(Box::new(e)))?;
        let mut kernel = Self { ebpf, btf, layout };
        for program in PROGRAMS {
            if !kernel.layout.wants(program) {
                continue;
            }
            kernel.load_program(program)?;
        }
        Ok(kernel)
    }

    fn load_program(&mut self, program: &Program) -> Result<(), LoadError> {
        let Self { ebpf, btf, .. } = self;
        let failed = |cause| LoadError::Program { program: program.name, purpose: program.purpose, cause };
        match program.find(ebpf).map_err(failed)? {
            Loaded::Lsm(lsm, hook) => lsm.load(hook, btf),
            Loaded::Tracepoint(tracepoint, name) => tracepoint.load(name, btf),
            Loaded::Function(function, name) => function.load(name, btf),
            Loaded::CgroupSockAddr(sock_addr) => sock_addr.load(),
            Loaded::Iterator(iter, over) => iter.load(over, btf),
        }
        .map_err(|e| failed(explain(&e)))?;
        if let Some(Ok(info)) = self.ebpf.program(program.name).map(aya::programs::Program::info) {
            tracing::debug!(program = program.name, verified = ?info.verified_instruction_count(), "loaded");
        }
        Ok(())
    }

    /// Attaches every program. From here on the policy in the maps is enforced.
    ///
    /// # Errors
    /// When the kernel refuses a program its hook. Those attached so far are detached when `self` is dropped.
    pub fn attach(&mut self) -> Result<(), LoadError> {
        let cgroup = File::open(CGROUP_ROOT).map_err(LoadError::Cgroup)?;
        for program in PROGRAMS.iter().filter(|p| self.layout.wants(p)) {
            let failed = |cause| LoadError::Program { program: program.name, purpose: program.purpose, cause };
            match program.find(&mut self.ebpf).map_err(failed)? {
                Loaded::Lsm(lsm, _) => lsm.attach().map(drop),
                Loaded::Tracepoint(tracepoint, _) => tracepoint.attach().map(drop),
                Loaded::Function(function, _) => function.attach().map(drop),
                // Links always stack, whatever the mode; the kernel refuses the flags of the other modes for links.
                Loaded::CgroupSockAddr(sock_addr) => sock_addr.attach(&cgroup, CgroupAttachMode::Single).map(drop),
                Loaded::Iterator(..) => Ok(()),
            }
            .map_err(|e| failed(explain(&e)))?;
        }
        Ok(())
    }

    /// The object, for the other modules of this folder.
    pub(super) fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Takes a map out of the object, as the type that it must have.
    ///
    /// # Errors
    /// When the object has no such map, or one of another type: a build whose two halves do not fit.
    pub fn map<M>(&mut self, name: &'static str) -> Result<M, LoadError>
    where
        M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
    {
        let failed = |cause| LoadError::Map { map: name, cause };
        let map = self.ebpf.take_map(name).ok_or_else(|| failed("is not in the kernel object".into()))?;
        map.try_into().map_err(|e: aya::maps::MapError| failed(e.to_string()))
    }

    /// Streams the programs' debug messages into the daemon's log, when [`LOG_VARIABLE`] asked for them.
    pub fn debug_messages(&mut self) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
        std::env::var_os(LOG_VARIABLE)?;
        match aya_log::EbpfLogger::init(&mut self.ebpf) {
            Ok(logger) => Some(logger),
            Err(e) => {
                tracing::warn!("no debug messages from the kernel programs: {e}");
                None
            }
        }
    }
}

/// The kernel's refusal in one line, then the end of the verifier's log, which says what it did not accept.
fn explain(error: &ProgramError) -> String {
    const TAIL_LINES: usize = 12;
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n    ");
    if tail.is_empty() {
        format!("BPF_PROG_LOAD: {io_error}")
    } else {
        format!("BPF_PROG_LOAD: {io_error}\n    {tail}")
    }
}

/// An error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
