//! The daemon's service: the engine, the event stream and the control socket of one instance.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, mpsc::Receiver, oneshot},
    task::{AbortHandle, JoinHandle},
};

use crate::{
    checks,
    control::server,
    engine::{Closed, Directory, Engine, Origin, Site, Started},
    events::{
        Record,
        enrich::{self, Enricher},
        sinks::SinkState,
        stream::{self, Records, Stream},
    },
    ima,
    kernel::pins::Sets,
    manifest,
    names::{
        Addresses,
        service::{Names, Policy, Report},
        sources::Files,
        table::Limits,
    },
    own, watch,
};

/// How long a start or a reload waits for the addresses of its names. What comes later opens later.
const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// Where the daemon keeps its lock, and its socket unless it is told otherwise.
pub const RUNTIME_DIR: &str = "/run/enforcer";
/// The lock's name in [`RUNTIME_DIR`], whatever the instance's own directory is: one host has one set of programs, so one
/// instance.
const LOCK: &str = "daemon.lock";

/// The host's lock; it is given up when this is dropped or the process ends.
#[derive(Debug)]
pub struct InstanceLock(#[expect(dead_code, reason = "held for its lock")] File);

impl InstanceLock {
    /// Takes the lock: one for all runtime directories, because there is one set of programs.
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
        // For people only: a full `/run` keeps nobody from enforcing.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "process {}", std::process::id()));
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
    /// Told when an unload was answered: the process may end.
    pub answered: Notify,
    /// Ends the reader of the ring when it has read all, with a last record.
    finish: Mutex<Option<oneshot::Sender<Record>>>,
    names: Names,
    policy: Mutex<PathBuf>,
    runtime: PathBuf,
    /// The group whose members may use the control socket beside root.
    pub group: Option<u32>,
    sinks: OnceLock<Vec<Arc<SinkState>>>,
}

/// What the command line says beside the policy.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The group whose members may use the control socket beside root.
    pub group: Option<u32>,
    /// The files that events go to: no governed process may change them.
    pub files: Vec<PathBuf>,
    /// What the sinks are called that take what happens from the start on.
    pub sinks: Vec<String>,
    /// How long addresses of names hold.
    pub names: Limits,
}

/// A service with what keeps it going.
pub struct Running {
    /// The service.
    pub service: Arc<Service>,
    /// What the author of the manifest should know.
    pub warnings: Vec<String>,
    /// Where what is in force came from.
    pub origin: Origin,
    /// The records, from the first one on, for each sink, with the count of those that it has. None for a
    /// [`Lifetime::Private`] one.
    pub records: Vec<Records>,
    /// Reads the ring.
    pub pump: JoinHandle<std::io::Result<()>>,
    _private: Option<Private>,
    _control: JoinHandle<()>,
    _watcher: JoinHandle<()>,
    _closer: JoinHandle<()>,
    _lock: InstanceLock,
    _debug: Option<JoinHandle<()>>,
}

/// What becomes of enforcement when the service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It stays, until it is unloaded.
    Stays,
    /// It ends with the service: it is for one command.
    Private,
}

/// Takes everything out of force when it is dropped.
#[derive(Default)]
struct Private {
    /// What would look for the pins that go, and ask programs that answer no more.
    watcher: Option<AbortHandle>,
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        if let Err(e) = Sets::find().and_then(Sets::remove) {
            eprintln!("enforcer: {e}; `enforcer unload` ends enforcement");
        }
    }
}

impl Service {
    /// Puts a policy in force and listens on the control socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the manifest, the kernel, or another instance stands against it; then what was in force before still is, and
    /// nothing else.
    pub async fn start(
        policy: &Path,
        runtime: &Path,
        home: PathBuf,
        options: Options,
        lifetime: Lifetime,
    ) -> anyhow::Result<Running> {
        // The manifest first: its errors need no privilege and no kernel.
        let manifest = manifest::load(policy)?;
        if !rustix::process::geteuid().is_root() {
            bail!(
                "enforcement needs root: loading BPF LSM programs takes CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN; run it with sudo"
            );
        }
        // Without them the pins cannot be opened, which would look like damage.
        let lacking = checks::lacking_capabilities();
        if !lacking.is_empty() {
            bail!("this process lacks cap_{}: run it as root with all capabilities", lacking.join(", cap_"));
        }
        let lock = InstanceLock::take()?;
        let private = lifetime == Lifetime::Private;
        if private && Sets::find()?.in_force.is_some() {
            bail!("what an earlier daemon put in force still is: start a daemon, or end it with `enforcer unload`");
        }
        make_dir(runtime)?;
        let level = manifest.manifest().audit_level;
        // Before anything is put in force: a start that fails changes nothing.
        let socket = server::bind(runtime, options.group)?;
        let Started { engine, rings, debug, origin, mut ledger, known, closed } =
            Engine::start(manifest, policy, Site { home, own: own::paths(runtime, options.files) })?;
        let mut private = private.then(Private::default);
        let counts = ledger.sinks(&options.sinks).context("the counts of events")?;
        let stream = Stream::counted(ledger.taken);
        stream.set_level(level);
        let resolving = Resolving { engine: engine.clone(), stream: stream.clone() };
        let names = Names::start(engine.names(), resolving, options.names, Files::of_the_host(), known);
        let enricher = Enricher::new(engine.directory());
        stream.publish(enrich::own("start", format!("enforcing {}{origin}", policy.display())));
        // Before the reader begins, so that they have every record.
        let mut records: Vec<_> = options.sinks.iter().map(|_| stream.listen_watched()).collect();
        for (records, (given, ended)) in records.iter_mut().zip(counts) {
            records.recent.extend(ended.map(Arc::new));
            records.given = Some(given);
        }
        let (finish, finished) = oneshot::channel();
        let pump = tokio::spawn(stream::pump(rings, enricher, engine.clone(), stream.clone(), finished));
        let service = Arc::new(Self {
            engine,
            stream,
            names,
            answered: Notify::new(),
            finish: Mutex::new(Some(finish)),
            policy: Mutex::new(policy.to_owned()),
            runtime: runtime.to_owned(),
            group: options.group,
            sinks: OnceLock::new(),
        });
        let closer = tokio::spawn(tell_of_closed(closed, service.engine.directory(), service.stream.clone()));
        // Before the socket is served: who enters a skill finds its names open.
        let warnings = service.settled().await;
        let listener = socket.publish()?;
        let watcher = tokio::spawn(watch_paths(service.engine.clone()));
        if let Some(private) = &mut private {
            private.watcher = Some(watcher.abort_handle());
        }
        tokio::spawn(watch_ima(service.engine.clone()));
        let control = tokio::spawn(server::serve(listener, Arc::clone(&service)));
        let debug = debug.map(|logger| tokio::spawn(debug_messages(logger)));
        Ok(Running {
            service,
            warnings,
            origin,
            records,
            pump,
            _private: private,
            _control: control,
            _watcher: watcher,
            _closer: closer,
            _lock: lock,
            _debug: debug,
        })
    }

    /// Waits for the names of the policy in force, within bounds; returns what its author should know.
    pub async fn settled(&self) -> Vec<String> {
        let serial = self.engine.names().borrow().serial;
        self.names.settle(serial, NAMES_PATIENCE).await;
        let mut warnings = self.engine.status().await.map(|status| status.warnings).unwrap_or_default();
        warnings.extend(self.names.report().await.iter().flat_map(Report::warnings));
        warnings
    }

    /// What is in force, and who enforces it.
    ///
    /// # Errors
    /// When the engine has ended.
    pub async fn status(&self) -> Result<Value, String> {
        let mut status = self.engine.status().await.ok_or("the engine has ended")?;
        let names = self.names.report().await;
        match &names {
            Some(names) => status.warnings.extend(names.warnings()),
            None => status.warnings.push("names are not resolved any more: their addresses stay as they are".into()),
        }
        let mut value = serde_json::to_value(status).map_err(|e| e.to_string())?;
        if let Some(map) = value.as_object_mut() {
            map.insert(
                "names".into(),
                names.as_ref().map_or_else(Vec::new, |names| names.lines(Instant::now())).into(),
            );
            map.insert("resolvers".into(), json!(names.map(|names| names.resolvers)));
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

    /// Takes everything out of force, for good. Whoever asked for it stands in the event, which is the last one.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub async fn unload(&self, by: &str) -> Result<Value, String> {
        self.engine.unload().await.ok_or("the engine has ended")?.map_err(|e| e.to_string())?;
        let record = enrich::own("unload", format!("enforcement was ended by {by}"));
        if let Some(finish) = self.finish.lock().map_err(|e| e.to_string())?.take() {
            // A reader that has ended has nothing more to say.
            let _ = finish.send(record);
        }
        Ok(json!({ "unloaded": true }))
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
        let (generation, _) = outcome.map_err(|e| format!("{e}\nthe policy in force stays in force"))?;
        self.stream.set_level(level);
        if let Ok(mut policy) = self.policy.lock() {
            policy.clone_from(&file);
        }
        let warnings = self.settled().await;
        Ok(json!({ "policy": file, "generation": generation.0, "warnings": warnings }))
    }
}

/// Makes an event of each socket that the engine closed.
async fn tell_of_closed(mut closed: Receiver<Closed>, directory: Arc<RwLock<Directory>>, stream: Stream) {
    while let Some(closed) = closed.recv().await {
        stream.publish(enrich::closed(&closed, &directory));
    }
}

/// Hands the names' addresses to the engine, and their changes to whoever listens.
struct Resolving {
    engine: Engine,
    stream: Stream,
}

impl Policy for Resolving {
    async fn put(&self, addresses: Addresses) -> bool {
        match self.engine.resolve(addresses).await {
            None => return false,
            Some(Ok(_)) => {}
            Some(Err(e)) => tracing::error!("the names' addresses are not in force: {e}"),
        }
        true
    }

    fn tell(&self, text: String) {
        self.stream.publish(enrich::own("names", text));
    }
}

/// Follows changes at the policy's paths.
async fn watch_paths(engine: Engine) {
    if let Err(e) = watch::run(engine).await {
        tracing::error!("changes at the policy's paths are not noticed any more: {e}; reload after them");
    }
}

/// Has looked who measures files when somebody has written a policy for IMA.
async fn watch_ima(engine: Engine) {
    if let Err(e) = ima::watch(engine).await {
        tracing::warn!("a policy that IMA gets is noticed late: {e}");
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
