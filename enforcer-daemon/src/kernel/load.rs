//! Loads the kernel object, attaches its programs and pins them; or takes over what an earlier daemon pinned.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
};

use anyhow::Context as _;
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{MapData, MapInfo},
    programs::{
        CgroupAttachMode, ProgramError,
        links::{FdLink, LinkError},
    },
};
use enforcer_common::{LAYOUT_VERSION, content::Content, names, net::SocketLabel};
use miniz_oxide::inflate::TINFLStatus;

use super::{
    contents::{self, Contents, Mark},
    elder, object,
    offsets::{self, BTF_PATH, Layout, OffsetsError},
    pins::{PinError, Set, Sets},
    programs::{Loaded, PROGRAMS, Program},
};

/// The environment variable that asks for the programs' debug messages.
pub const LOG_VARIABLE: &str = "ENFORCER_BPF_LOG";

/// The environment variable that makes maps smaller, such as `TASKS=1000,CGROUPS=64`: to see what a full one does.
pub const SIZES_VARIABLE: &str = "ENFORCER_MAP_SIZES";

/// Where cgroup v2 is mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Why enforcement could not be put in force. What was in force before still is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The kernel's layout could not be learnt.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// aya could not read the kernel's types.
    #[error("cannot read the kernel's type information: {0}")]
    Btf(#[from] aya::BtfError),
    /// The object is not as it was built.
    #[error("this program's file is damaged: its kernel object cannot be unpacked ({0:?})")]
    Packed(TINFLStatus),
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
    /// The kernel would pass programs over.
    #[error(
        "this kernel is preemptible and older than 6.2: it passes a program over while another task is in it on the same CPU; boot one that is not (`uname -v` says no PREEMPT), or one from 6.2 on"
    )]
    Preemptible,
    /// A hook has a shape that no program is written for.
    #[error(
        "this kernel's LSM hook `{hook}` takes {count} arguments, for which this build has no program: what it decides would not be enforced; a newer build of Enforcer may know it"
    )]
    Shape {
        /// The hook.
        hook: &'static str,
        /// How many arguments it takes.
        count: usize,
    },
    /// The set in force keeps something else of files.
    #[error(
        "what the programs in force know of files that are mapped cannot be carried over: they keep {size} bytes of each, and this build {}; `enforcer unload` ends what is in force, and then this version can start", size_of::<Content>()
    )]
    Contents {
        /// The size of a value of its map.
        size: u32,
    },
    /// cgroup v2 is not where it is expected.
    #[error("cannot open the root of cgroup v2 at {CGROUP_ROOT}: {0}")]
    Cgroup(#[source] io::Error),
    /// bpffs did not take or give something.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A map is missing or of another type.
    #[error("map `{map}`: {cause}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What is wrong.
        cause: String,
    },
}

/// The object, with every program accepted by the kernel. Nothing is attached yet.
struct Object {
    ebpf: Ebpf,
    btf: Btf,
    layout: Layout,
}

/// The programs' debug messages.
pub type Debug = aya_log::EbpfLogger<&'static dyn log::Log>;

/// Looks whether this kernel accepts every program. Nothing is attached.
///
/// # Errors
/// When this kernel refuses any of it; the error names the program or the field and keeps the kernel's words.
pub fn check() -> Result<(), LoadError> {
    Object::load(None).map(drop)
}

impl Object {
    /// Creates the maps and loads every program; nothing is attached. `before` is the set that this one will replace: its labels are carried over.
    fn load(before: Option<&Set>) -> Result<Self, LoadError> {
        let mut object = Self::create(before)?;
        for program in PROGRAMS {
            if object.layout.wants(program) {
                object.load_program(program)?;
            }
        }
        Ok(object)
    }

    /// Creates the maps alone.
    fn create(before: Option<&Set>) -> Result<Self, LoadError> {
        let layout = offsets::read(Path::new(BTF_PATH))?;
        if elder::passes_over_here() && elder::is_preemptible() {
            return Err(LoadError::Preemptible);
        }
        if let Some((hook, count)) = layout.unfit(PROGRAMS) {
            return Err(LoadError::Shape { hook, count });
        }
        let offsets = layout.offsets.to_bytes();
        let btf = Btf::from_sys_fs()?;
        let sizes = sizes();
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).override_global(names::OFFSETS, offsets.as_slice(), true);
        // Socket storage, which only the programs use.
        loader.allow_unsupported_maps();
        for (map, size) in sizes.split(',').filter_map(|size| size.split_once('=')) {
            if let Ok(size) = size.parse() {
                loader.map_max_entries(map, size);
            }
        }
        if let Some(set) = before {
            loader.map_pin_path(names::map::TASKS_BEFORE, set.map(names::map::TASKS));
            // Both write the same. Where they would not, each socket counts as made elsewhere, so that rules decide about it.
            let sockets = set.map(names::map::SOCKETS);
            if MapInfo::from_pin(&sockets).is_ok_and(|map| map.value_size() as usize == size_of::<SocketLabel>()) {
                loader.map_pin_path(names::map::SOCKETS, sockets);
            }
            // Files that were mapped stay mapped. The marks lie with the inodes, which nobody can list.
            let contents = set.map(names::map::CONTENTS);
            let size = MapInfo::from_pin(&contents).map_err(|e| PinError::io(&contents, &e))?.value_size();
            if size as usize != size_of::<Content>() {
                return Err(LoadError::Contents { size });
            }
            loader.map_pin_path(names::map::CONTENTS, contents);
            loader.map_pin_path(names::map::LAST_VERSION, set.map(names::map::LAST_VERSION));
        }
        let file = object::wanted(elder::is_elder_here()?).unpack().map_err(LoadError::Packed)?;
        let ebpf = loader.load(file.bytes()).map_err(|e| LoadError::Object(Box::new(e)))?;
        Ok(Self { ebpf, btf, layout })
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

    /// Pins the maps, then attaches and pins every program. From here on the policy in the maps is enforced.
    fn attach(&mut self, set: &Set) -> Result<Contents, LoadError> {
        let mut contents = Contents {
            version: env!("CARGO_PKG_VERSION").into(),
            layout: LAYOUT_VERSION,
            object: object::wanted(elder::is_elder_here()?).digest().to_string(),
            sizes: sizes(),
            ..Contents::default()
        };
        contents.maps = self.pin_maps(set)?;
        let cgroup = File::open(CGROUP_ROOT).map_err(LoadError::Cgroup)?;
        for program in PROGRAMS {
            if !self.layout.wants(program) {
                continue;
            }
            let failed = |cause| LoadError::Program { program: program.name, purpose: program.purpose, cause };
            let link = attach(program.find(&mut self.ebpf).map_err(failed)?, &cgroup).map_err(failed)?;
            let record = self.pin(program, link, set).map_err(|e| failed(format!("it could not be pinned: {e:#}")))?;
            contents.programs.insert(program.name.into(), record);
        }
        Ok(contents)
    }

    fn pin_maps(&self, set: &Set) -> Result<BTreeMap<String, u32>, PinError> {
        let mut ids = BTreeMap::new();
        for (name, map) in self.ebpf.maps().filter(|(name, _)| is_shared(name)) {
            let failed = |cause: &dyn std::fmt::Display| PinError::io(&set.map(name), cause);
            map.pin(set.map(name)).map_err(|e| failed(&e))?;
            ids.insert(name.to_owned(), MapInfo::from_pin(set.map(name)).map_err(|e| failed(&e))?.id());
        }
        Ok(ids)
    }

    fn pin(&mut self, program: &Program, link: FdLink, set: &Set) -> anyhow::Result<contents::Program> {
        let number = link.info()?.id();
        link.pin(set.link(program.name))?;
        let loaded = self.ebpf.program_mut(program.name).context("it is not there")?;
        loaded.pin(set.program(program.name))?;
        let info = loaded.info()?;
        Ok(contents::Program { id: info.id(), tag: format!("{:016x}", info.tag()), link: number })
    }
}

/// Attaches a program to its hook.
fn attach(program: Loaded<'_>, cgroup: &File) -> Result<FdLink, String> {
    let refused = |e: ProgramError| explain(&e);
    let no_descriptor = |e: LinkError| chain(&e);
    match program {
        Loaded::Lsm(lsm, _) => lsm.attach().and_then(|id| lsm.take_link(id)).map(Into::into).map_err(refused),
        Loaded::Function(function, _) => {
            function.attach().and_then(|id| function.take_link(id)).map(Into::into).map_err(refused)
        }
        Loaded::Tracepoint(tp, _) => tp.attach().and_then(|id| tp.take_link(id)).map(Into::into).map_err(refused),
        Loaded::CgroupSockAddr(sock_addr) => {
            // Links always stack, whatever the mode; the kernel refuses the flags of the other modes for links.
            let link = sock_addr.attach(cgroup, CgroupAttachMode::Single).and_then(|id| sock_addr.take_link(id));
            link.map_err(refused)?.try_into().map_err(no_descriptor)
        }
        Loaded::Iterator(iter, _) => {
            iter.attach().and_then(|id| iter.take_link(id)).map_err(refused)?.try_into().map_err(no_descriptor)
        }
    }
}

/// Whether a map of the object is the daemon's business, too: not the compiler's own, and not the log's.
fn is_shared(name: &str) -> bool {
    !name.contains('.') && !name.starts_with("AYA_LOG") && name != names::map::TASKS_BEFORE
}

/// The sizes of maps that are asked for.
fn sizes() -> String {
    std::env::var(SIZES_VARIABLE).unwrap_or_default()
}

/// The programs and maps that this daemon works with: a set of pins. One that was not [committed](Kernel::commit) is removed
/// when this is dropped.
pub struct Kernel {
    set: Set,
    is_committed: bool,
}

impl Kernel {
    /// Loads and attaches the programs as a set of its own. Until it is [committed](Self::commit) it is not in force for the
    /// daemons to come.
    ///
    /// # Errors
    /// When this kernel refuses any of it. Those attached so far are detached.
    pub fn attach(sets: &Sets) -> Result<(Self, Option<Debug>), LoadError> {
        let mut object = Object::load(sets.in_force.as_ref())?;
        let debug = object.debug_messages();
        let kernel = Self { set: Set::make(sets)?, is_committed: false };
        object.attach(&kernel.set)?.write(&kernel.set)?;
        Ok((kernel, debug))
    }

    /// Whether it was in force already, so that something may lie in its maps.
    #[must_use]
    pub const fn is_committed(&self) -> bool {
        self.is_committed
    }

    /// Creates and pins the maps without any program, to see what a policy costs where the kernel refuses the programs. It
    /// enforces nothing and cannot be put in force.
    ///
    /// # Errors
    /// When this kernel or bpffs refuses them.
    pub fn maps_alone(sets: &Sets) -> Result<Self, LoadError> {
        let object = Object::create(None)?;
        let kernel = Self { set: Set::make(sets)?, is_committed: false };
        object.pin_maps(&kernel.set)?;
        Ok(kernel)
    }

    /// Takes over a set that is in force, if it is of this very build.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn adopt(set: &Set) -> Result<Option<Self>, LoadError> {
        Mark::get(set)?;
        let contents = Contents::read(set)?;
        // Debug messages come to the daemon alone that loaded the programs.
        let wanted = contents.layout == LAYOUT_VERSION
            && contents.object == object::wanted(elder::is_elder_here()?).digest().to_string()
            && contents.sizes == sizes()
            && std::env::var_os(LOG_VARIABLE).is_none();
        Ok(wanted.then(|| Self { set: set.clone(), is_committed: true }))
    }

    /// Opens a set of any build, to ask it something.
    ///
    /// # Errors
    /// When it has no mark.
    pub fn open(set: &Set) -> Result<Self, LoadError> {
        Mark::get(set)?;
        Ok(Self { set: set.clone(), is_committed: true })
    }

    /// The daemons to come find this set in force, with the counts of the one that it replaces.
    ///
    /// # Errors
    /// When bpffs does not take the mark.
    pub fn commit(&mut self, before: Option<&Set>) -> Result<(), PinError> {
        if !self.is_committed {
            let before = before.map(Mark::get).transpose()?;
            Mark::set(&self.set, before.as_ref())?;
            self.is_committed = true;
        }
        Ok(())
    }

    /// Its pins.
    #[must_use]
    pub fn set(&self) -> &Set {
        &self.set
    }

    /// Opens a map, as the type that it must have.
    ///
    /// # Errors
    /// When there is no such map, or one of another type: a build whose two halves do not fit.
    pub fn map<M>(&self, name: &'static str) -> Result<M, LoadError>
    where
        M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
    {
        open_map(&self.set, name)
    }

    /// Runs an iterator over all kernel objects of its kind; returns what it wrote.
    ///
    /// # Errors
    /// When the set has no such program, or it cannot be run.
    pub fn iterate(&self, program: &str) -> io::Result<Vec<u8>> {
        // Reading to the end runs it for every object.
        fs::read(self.set.link(program))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if !self.is_committed
            && let Err(e) = self.set.remove()
        {
            tracing::error!("what was attached is left behind: {e}");
        }
    }
}

/// Opens a map of a set, as the type that it must have.
///
/// # Errors
/// When there is no such map, or one of another type.
pub fn open_map<M>(set: &Set, name: &'static str) -> Result<M, LoadError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    MapData::from_pin(set.map(name))
        .and_then(aya::maps::Map::from_map_data)
        .and_then(TryInto::try_into)
        .map_err(|e| LoadError::Map { map: name, cause: chain(&e) })
}

impl Object {
    /// Streams the programs' debug messages into the daemon's log, when [`LOG_VARIABLE`] asked for them.
    fn debug_messages(&mut self) -> Option<Debug> {
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

/// The cgroup programs hang at the root of cgroup v2, which a hierarchy of v1 has not; and a policy that finds no cgroup there
/// governs none.
///
/// # Errors
/// When it is not cgroup v2.
pub fn check_cgroup_root() -> Result<(), LoadError> {
    /// `include/uapi/linux/magic.h: CGROUP2_SUPER_MAGIC`.
    const CGROUP2_MAGIC: i64 = 0x6367_7270;
    match rustix::fs::statfs(CGROUP_ROOT) {
        Ok(fs) if fs.f_type == CGROUP2_MAGIC => Ok(()),
        Ok(_) => Err(LoadError::Cgroup(io::Error::other("it is not cgroup v2; `enforcer doctor` says what to type"))),
        Err(e) => Err(LoadError::Cgroup(e.into())),
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
