//! The daemon's service: the engine, the event stream and the control socket of one instance.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

use crate::{
    compile::Remark,
    control::{self, server},
    engine::{Engine, Site, Started},
    events::{
        enrich::{self, Enricher},
        sinks::SinkState,
        stream::{self, Stream},
    },
    manifest, own, watch,
};

/// Where the daemon keeps its socket and lock.
pub const RUNTIME_DIR: &str = "/run/enforcer";
/// The lock's name in [`RUNTIME_DIR`], whatever the instance's own directory is: one host has one set of programs, so one
/// instance.
const LOCK: &str = "daemon.lock";

/// The instance's lock; it is given up when this is dropped or the process ends.
#[derive(Debug)]
pub struct InstanceLock(#[expect(dead_code, reason = "held for its lock")] File);

impl InstanceLock {
    /// Takes the host's lock.
    ///
    /// # Errors
    /// When another daemon holds it, which is named.
    pub fn take() -> anyhow::Result<Self> {
        let path = make_dir(Path::new(RUNTIME_DIR))?.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            bail!(
                "another daemon is enforcing: {}; stop it first, or talk to it with `enforcer status`",
                if holder.trim().is_empty() { "its process is not known" } else { holder.trim() }
            );
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "process {}", std::process::id())?;
        Ok(Self(file))
    }
}

/// Makes a runtime directory if it is not there.
fn make_dir(dir: &Path) -> anyhow::Result<&Path> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// One running instance.
pub struct Service {
    /// What carries out requests.
    pub engine: Engine,
    /// The events.
    pub stream: Stream,
    policy: Mutex<PathBuf>,
    runtime: PathBuf,
    /// The group whose members may use the control socket beside root.
    pub group: Option<u32>,
    sinks: OnceLock<Vec<Arc<SinkState>>>,
}

/// Who may talk to the daemon, and what it writes.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The group whose members may use the control socket beside root.
    pub group: Option<u32>,
    /// The files that events go to: no governed process may change them.
    pub files: Vec<PathBuf>,
}

/// A service with what keeps it going.
pub struct Running {
    /// The service.
    pub service: Arc<Service>,
    /// What the compiler warned of.
    pub warnings: Vec<Remark>,
    /// Reads the ring.
    pub pump: JoinHandle<std::io::Result<()>>,
    _control: JoinHandle<()>,
    _watcher: JoinHandle<()>,
    _lock: InstanceLock,
    _debug: Option<JoinHandle<()>>,
}

impl Service {
    /// Puts a policy in force and listens on the control socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the manifest, the kernel, or another instance stands against it; then nothing is attached.
    pub fn start(policy: &Path, runtime: &Path, home: PathBuf, access: Access) -> anyhow::Result<Running> {
        // The manifest first: its errors need no privilege and no kernel.
        let manifest = manifest::load(policy)?;
        if !rustix::process::geteuid().is_root() {
            bail!(
                "enforcement needs root: loading BPF LSM programs takes CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN; run it with sudo"
            );
        }
        let lock = InstanceLock::take()?;
        make_dir(runtime)?;
        let level = manifest.manifest().audit_level;
        let Started { engine, ring, debug, warnings } =
            Engine::start(manifest, policy, Site { home, own: own::paths(runtime, access.files) })?;
        let socket = runtime.join(control::SOCKET);
        let listener =
            server::bind(&socket, access.group).with_context(|| format!("cannot listen at {}", socket.display()))?;
        let stream = Stream::default();
        stream.set_level(level);
        let enricher = Enricher::new(engine.directory());
        stream.publish(enrich::own("start", format!("enforcing {}", policy.display())));
        let pump = tokio::spawn(stream::pump(ring, enricher, engine.clone(), stream.clone()));
        let service = Arc::new(Self {
            engine,
            stream,
            policy: Mutex::new(policy.to_owned()),
            runtime: runtime.to_owned(),
            group: access.group,
            sinks: OnceLock::new(),
        });
        let watcher = tokio::spawn(watch_paths(service.engine.clone()));
        let control = tokio::spawn(server::serve(listener, Arc::clone(&service)));
        let debug = debug.map(|logger| tokio::spawn(debug_messages(logger)));
        Ok(Running { service, warnings, pump, _control: control, _watcher: watcher, _lock: lock, _debug: debug })
    }

    /// What is in force, and who enforces it.
    ///
    /// # Errors
    /// When the engine has ended.
    pub async fn status(&self) -> Result<Value, String> {
        let status = self.engine.status().await.ok_or("the engine has ended")?;
        let mut value = serde_json::to_value(status).map_err(|e| e.to_string())?;
        if let Some(map) = value.as_object_mut() {
            map.insert("pid".into(), json!(std::process::id()));
            map.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
            map.insert("kernel".into(), json!(rustix::system::uname().release().to_string_lossy()));
            let sinks: Vec<_> = self.sinks.get().into_iter().flatten().map(|state| state.status()).collect();
            map.insert("sinks".into(), json!(sinks));
            map.insert("runtime".into(), json!(self.runtime));
        }
        Ok(value)
    }

    /// Shows in the status what becomes of these sinks' records.
    pub fn watch_sinks(&self, sinks: Vec<Arc<SinkState>>) {
        // There is one set of sinks in the daemon's life.
        let _ = self.sinks.set(sinks);
    }

    /// Reads the manifest again, or another one, and puts it in force.
    ///
    /// # Errors
    /// When it is not taken: the policy in force stays in force.
    pub async fn reload(&self, file: Option<PathBuf>) -> Result<Value, String> {
        let file = match file {
            Some(file) => file,
            None => self.policy.lock().map_err(|e| e.to_string())?.clone(),
        };
        let manifest = manifest::load(&file).map_err(|e| format!("{e}\nthe policy in force stays in force"))?;
        let level = manifest.manifest().audit_level;
        let outcome = self.engine.apply(manifest, file.clone()).await.ok_or("the engine has ended")?;
        let (generation, warnings) = outcome.map_err(|e| format!("{e}\nthe policy in force stays in force"))?;
        self.stream.set_level(level);
        if let Ok(mut policy) = self.policy.lock() {
            policy.clone_from(&file);
        }
        let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        Ok(json!({ "policy": file, "generation": generation.0, "warnings": warnings }))
    }
}

/// Follows changes at the policy's paths.
async fn watch_paths(engine: Engine) {
    if let Err(e) = watch::run(engine).await {
        tracing::error!("changes at the policy's paths are not noticed any more: {e}; reload after them");
    }
}

/// Writes the kernel programs' debug messages to the daemon's log.
async fn debug_messages(logger: aya_log::EbpfLogger<&'static dyn log::Log>) {
    // SAFETY: the logger owns its ring's descriptor, which stays the same and open as long as it lives.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let Ok(mut logger) = logger else { return };
    while let Ok(mut guard) = logger.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}
