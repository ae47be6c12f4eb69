//! The daemon's end of the control socket.

use std::{io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::Semaphore,
    time::timeout,
};

use super::{Answer, MAX_LINE, Request};
use crate::{service::Service, workload::Selector};

/// How many connections are served at once; a further one waits.
const MAX_CONNECTIONS: usize = 64;
/// How long a request may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long a listener may take for one line before it is let go.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// Binds the socket: root's alone.
///
/// # Errors
/// When the path cannot be bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    // What lies there is from a daemon that has ended: the caller holds the instance's lock.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket until the task is ended.
pub async fn serve(listener: UnixListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    if let Err(e) = connection(stream, &service).await {
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

async fn connection(stream: UnixStream, service: &Service) -> io::Result<()> {
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
            _ if peer.uid() != 0 => Some("only root may use the control socket"),
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
            Ok(Request::Events { follow }) => return events(&mut write, service, follow).await,
            Ok(request) => answer(&mut write, carry_out(service, request, pid).await).await?,
        }
    }
}

const ONE_TARGET: &str = "name one of a process, a cgroup, a container, a unit";

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
            Ok(json!({ "skill": skill }))
        }
        Request::Reload { policy } => service.reload(policy).await,
        Request::Events { .. } => Err("events end a connection".into()),
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

/// Sends the kept records, then those to come.
async fn events(write: &mut OwnedWriteHalf, service: &Service, follow: bool) -> io::Result<()> {
    let (recent, mut records) = service.stream.listen();
    for record in recent {
        line(write, &serde_json::to_string(&*record)?).await?;
    }
    while follow && let Some(record) = records.recv().await {
        line(write, &serde_json::to_string(&*record)?).await?;
    }
    Ok(())
}
