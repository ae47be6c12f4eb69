//! The daemon's end of the control socket.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedWriteHalf, UCred},
    },
    sync::{Semaphore, mpsc::Receiver},
    time::timeout,
};

use super::{Answer, MAX_LINE, Request, SOCKET};
use crate::{events::Record, service::Service, workload::Selector};

/// How many connections of root's are served at once, and how many of the group's: neither takes the other's places.
const MAX_CONNECTIONS: usize = 64;
/// How many of each may follow the events, which has no end: there is always a place for who asks something.
const MAX_FOLLOWERS: usize = 48;
/// How long a request may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The same where there is no place for who asks.
const FULL_TIME: Duration = Duration::from_secs(1);
/// How long a listener may take for one line before it is let go.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// The name of a socket that is not open to anybody yet.
const NEXT_SOCKET: &str = "control.sock.next";

/// A socket that waits for the daemon to be ready.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    next: PathBuf,
    path: PathBuf,
}

/// Binds the socket in a runtime directory: root's alone, or also for the members of a group. Nobody finds it before it is
/// [published](Socket::publish).
///
/// # Errors
/// When it cannot be bound.
pub fn bind(runtime: &Path, group: Option<u32>) -> anyhow::Result<Socket> {
    let (next, path) = (runtime.join(NEXT_SOCKET), runtime.join(SOCKET));
    let failed = || format!("cannot listen at {}", path.display());
    // What lies there is from a daemon that has ended: the caller holds the instance's lock.
    match std::fs::remove_file(&next) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).with_context(failed),
        _ => {}
    }
    let listener = UnixListener::bind(&next).with_context(failed)?;
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600)).with_context(failed)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(&next, None, Some(group)).with_context(failed)?;
        std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o660)).with_context(failed)?;
    }
    Ok(Socket { listener, next, path })
}

impl Socket {
    /// Lets the socket be found, in place of that of a daemon that has ended.
    ///
    /// # Errors
    /// When it cannot be named.
    pub fn publish(self) -> anyhow::Result<UnixListener> {
        std::fs::rename(&self.next, &self.path).with_context(|| format!("cannot listen at {}", self.path.display()))?;
        Ok(self.listener)
    }
}

/// The places for root, or for the others.
#[derive(Clone)]
struct Places {
    connections: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    /// For those who find no other, to be told so: whoever opens connections by the thousand takes no descriptors from others.
    refused: Arc<Semaphore>,
}

impl Places {
    fn new() -> Self {
        let of = |count| Arc::new(Semaphore::new(count));
        Self { connections: of(MAX_CONNECTIONS), followers: of(MAX_FOLLOWERS), refused: of(MAX_CONNECTIONS) }
    }
}

/// Serves the socket until the task is ended.
pub async fn serve(listener: UnixListener, service: Arc<Service>) {
    let (roots, others) = (Places::new(), Places::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let is_root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
                let places = if is_root { roots.clone() } else { others.clone() };
                // Nobody waits for a place: who has none learns it.
                let Ok(place) = Arc::clone(&places.connections).try_acquire_owned() else {
                    if let Ok(place) = places.refused.try_acquire_owned() {
                        tokio::spawn(async move {
                            full(stream).await;
                            drop(place);
                        });
                    }
                    continue;
                };
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    if let Err(e) = connection(stream, &service, &places.followers).await {
                        tracing::debug!("control connection: {e}");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                // Out of descriptors, say: go on when there are some again.
                tracing::warn!("control socket: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Says that there is no place to who has asked within a second.
async fn full(stream: UnixStream) {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut lines = BufReader::new(read.take(MAX_LINE));
    // What was not read would make the peer lose the answer.
    if timeout(FULL_TIME, lines.read_until(b'\n', &mut line)).await.is_ok() {
        let error = format!("{MAX_CONNECTIONS} connections are open already: close one, or try again");
        let _ = answer(&mut write, Err(error)).await;
    }
}

async fn connection(stream: UnixStream, service: &Service, followers: &Semaphore) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut lines).take(MAX_LINE);
        let Ok(read) = timeout(REQUEST_TIME, bounded.read_until(b'\n', &mut line)).await else { return Ok(()) };
        if read? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return answer(&mut write, Err(format!("a request is one line of at most {MAX_LINE} bytes"))).await;
        }
        // Not before the request was read: closing a socket with unread bytes makes the peer lose the answer (ECONNRESET).
        // And for each request anew: the process may have entered a skill since the last one.
        let refused = match pid {
            _ if peer.uid() != 0 && !is_member(&peer, service.group) => {
                Some("only root, and the group that the daemon was given, may use the control socket")
            }
            None => Some("the peer's process is not known"),
            Some(pid) if pid != std::process::id() && service.engine.is_governed(pid).await => {
                Some("a governed process may not use the control socket")
            }
            Some(_) => None,
        };
        if let Some(error) = refused {
            return answer(&mut write, Err(error.into())).await;
        }
        match serde_json::from_slice(&line) {
            Err(e) => answer(&mut write, Err(format!("not a request: {e}"))).await?,
            Ok(Request::Events { follow: false }) => return events(&mut write, service).await.map(drop),
            Ok(Request::Events { follow: true }) => {
                let Ok(_place) = followers.try_acquire() else {
                    let error = format!("{MAX_FOLLOWERS} follow the events already: close one, or read a sink");
                    return answer(&mut write, Err(error)).await;
                };
                let mut records = events(&mut write, service).await?;
                return tokio::select! {
                    outcome = follow_on(&mut write, &mut records) => outcome,
                    // Who has gone is let go now, and not at the next event.
                    _ = lines.read_u8() => Ok(()),
                };
            }
            Ok(Request::Unload) => {
                let by = format!("`enforcer unload` (process {}, user {})", pid.unwrap_or(0), peer.uid());
                let outcome = service.unload(&by).await;
                let unloaded = outcome.is_ok();
                answer(&mut write, outcome).await?;
                if unloaded {
                    service.answered.notify_one();
                }
            }
            Ok(request) => answer(&mut write, carry_out(service, request, pid).await).await?,
        }
    }
}

const ONE_TARGET: &str = "name one of a process, a cgroup, a container, a unit";

/// Whether the peer is in the group. The socket's permissions ask the same before it can connect.
fn is_member(peer: &UCred, group: Option<u32>) -> bool {
    let Some(group) = group else { return false };
    let supplementary = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", peer.pid()?)).ok()?;
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"))?;
        Some(groups.split_whitespace().any(|gid| gid.parse() == Ok(group)))
    };
    peer.gid() == group || supplementary().unwrap_or(false)
}

async fn carry_out(service: &Service, request: Request, peer: Option<u32>) -> Result<Value, String> {
    match request {
        Request::Status => service.status().await,
        Request::Enter { skill, pid } => {
            let pid = pid.or(peer).ok_or("no process was named")?;
            let threads = service.engine.enter(pid, skill).await.map_err(|e| e.to_string())?;
            Ok(json!({ "pid": pid, "threads": threads }))
        }
        Request::Attach { skill, pid: Some(pid), cgroup: None, container: None, unit: None } => {
            let threads = service.engine.enter(pid, skill).await.map_err(|e| e.to_string())?;
            Ok(json!({ "pid": pid, "threads": threads }))
        }
        Request::Attach { skill, pid: None, cgroup: Some(cgroup), container: None, unit: None } => {
            let cgroups = service.engine.attach_cgroup(cgroup.clone(), skill).await.map_err(|e| e.to_string())?;
            Ok(json!({ "cgroup": cgroup, "cgroups": cgroups }))
        }
        Request::Attach { skill, pid: None, cgroup: None, container, unit } => {
            let selector = match (container, unit) {
                (Some(text), None) => text.parse().map(Selector::Container),
                (None, Some(text)) => text.parse().map(Selector::Unit),
                _ => return Err(ONE_TARGET.into()),
            };
            let selector = selector.map_err(|e| e.to_string())?;
            let count = service.engine.attach_workloads(selector, skill).await.map_err(|e| e.to_string())?;
            Ok(json!({ "count": count }))
        }
        Request::Attach { .. } => Err(ONE_TARGET.into()),
        Request::Container { id, pid, bundle, skill } => {
            let skill = service.engine.container(id, pid, bundle, skill).await.map_err(|e| e.to_string())?;
            if skill.is_some() {
                // Its first program finds its names open, if its resolvers answer soon.
                service.settled().await;
            }
            Ok(json!({ "skill": skill }))
        }
        Request::Reload { policy } => service.reload(policy).await,
        Request::Events { .. } | Request::Unload => Err("it ends a connection".into()),
    }
}

async fn answer(write: &mut OwnedWriteHalf, outcome: Result<Value, String>) -> io::Result<()> {
    let answer = match outcome {
        Ok(ok) => Answer::Ok { ok },
        Err(error) => Answer::Error { error },
    };
    line(write, &serde_json::to_string(&answer)?).await
}

async fn line(write: &mut OwnedWriteHalf, text: &str) -> io::Result<()> {
    let write_all = async {
        write.write_all(text.as_bytes()).await?;
        write.write_all(b"\n").await
    };
    timeout(WRITE_TIME, write_all).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Sends the kept records; returns those to come.
async fn events(write: &mut OwnedWriteHalf, service: &Service) -> io::Result<Receiver<Arc<Record>>> {
    let (recent, records) = service.stream.listen();
    for record in recent {
        line(write, &serde_json::to_string(&*record)?).await?;
    }
    Ok(records)
}

/// Sends the records as they come.
async fn follow_on(write: &mut OwnedWriteHalf, records: &mut Receiver<Arc<Record>>) -> io::Result<()> {
    while let Some(record) = records.recv().await {
        line(write, &serde_json::to_string(&*record)?).await?;
    }
    Ok(())
}
