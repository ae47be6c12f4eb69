//! Sockets in a container's network: its resolvers may be reachable, and be who they are, only there.

use std::{
    future::Future,
    io,
    net::{SocketAddr, UdpSocket as StdUdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    sync::Arc,
    thread,
    time::Duration,
};

use hickory_resolver::net::runtime::{
    RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime, iocompat::AsyncIoTokioAsStd,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    net::{TcpSocket, TcpStream, UdpSocket},
    sync::oneshot,
    time::timeout,
};

/// How long a connection to a resolver may take when nobody says otherwise.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

type Coming<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

/// A network namespace; the daemon's own when there is none.
#[derive(Clone, Default)]
pub struct Network {
    namespace: Option<Arc<OwnedFd>>,
    tokio: TokioRuntimeProvider,
}

impl Network {
    /// That of a container, which may be the host's.
    #[must_use]
    pub fn of(namespace: Arc<OwnedFd>) -> Self {
        let own = rustix::fs::stat("/proc/thread-self/ns/net").map(|stat| (stat.st_dev, stat.st_ino));
        let is_own = rustix::fs::fstat(&*namespace).is_ok_and(|stat| own == Ok((stat.st_dev, stat.st_ino)));
        Self { namespace: Some(namespace).filter(|_| !is_own), ..Self::default() }
    }

    /// Makes a socket there. A socket stays in the namespace in which it was made, so that no thread that does anything else ever
    /// leaves its own.
    fn make<T: Send + 'static>(&self, make: impl FnOnce() -> io::Result<T> + Send + 'static) -> Coming<T> {
        let (say, hear) = oneshot::channel();
        let namespace = self.namespace.clone();
        let work = move || {
            let entered =
                namespace.map_or(Ok(()), |fd| move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network)));
            // Who asked may not wait any more.
            let _ = say.send(entered.map_err(io::Error::from).and_then(|()| make()));
        };
        let started = thread::Builder::new().name("resolver".into()).spawn(work);
        Box::pin(async move {
            started?;
            hear.await.map_err(io::Error::other)?
        })
    }
}

impl RuntimeProvider for Network {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Self::Handle {
        self.tokio.create_handle()
    }

    fn connect_tcp(&self, server: SocketAddr, local: Option<SocketAddr>, limit: Option<Duration>) -> Coming<Self::Tcp> {
        if self.namespace.is_none() {
            return self.tokio.connect_tcp(server, local, limit);
        }
        let socket = self.make(move || {
            let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            local.map_or(Ok(()), |local| socket.bind(local))?;
            Ok(socket)
        });
        Box::pin(async move {
            let connected = async { socket.await?.connect(server).await };
            let late = |_| io::Error::from(io::ErrorKind::TimedOut);
            timeout(limit.unwrap_or(CONNECT_LIMIT), connected).await.map_err(late)?.map(AsyncIoTokioAsStd)
        })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Coming<Self::Udp> {
        if self.namespace.is_none() {
            return self.tokio.bind_udp(local, server);
        }
        let socket = self.make(move || {
            let socket = StdUdpSocket::bind(local)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Box::pin(async move { UdpSocket::from_std(socket.await?) })
    }
}
