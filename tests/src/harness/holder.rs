//! Programs that got a socket before something happened, and use it afterwards; and the server at the other end.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use super::{ENFORCER, SELF, exit_status};

/// How long bytes may take, and how long a connection is held open for them.
const PATIENCE: Duration = Duration::from_mins(1);

/// A program with a socket; it is ended when this is dropped.
pub(crate) struct Holder {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Holder {
    /// Starts one outside every skill. It has its socket when this returns.
    pub(crate) fn outside(kind: &str, address: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(SELF);
        command.args(["act", "hold", kind, address]);
        Self::start(command)
    }

    /// Starts one in a skill.
    pub(crate) fn inside(skill: &str, kind: &str, address: &str) -> anyhow::Result<Self> {
        Self::inside_by(&[], skill, kind, address)
    }

    /// Starts one in a skill that gets its socket in this way.
    pub(crate) fn inside_by(way: &[&str], skill: &str, kind: &str, address: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(ENFORCER);
        command.args(["run", "--skill", skill, "--", SELF, "act"]).args(way).args(["hold", kind, address]);
        Self::start(command)
    }

    fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a holder")?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let holder = Self { child, output };
        ensure!(line.trim() == "ready", "the holder said {line:?}");
        Ok(holder)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it send; returns the errno.
    pub(crate) fn send(mut self) -> anyhow::Result<i32> {
        let mut input = self.child.stdin.take().context("no input")?;
        writeln!(input, "go")?;
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        Ok(exit_status(self.child.wait()?))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server for one connection, which it keeps until the client ends it.
pub(crate) struct Patient {
    address: SocketAddr,
    received: mpsc::Receiver<Vec<u8>>,
}

impl Patient {
    /// Starts one.
    pub(crate) fn start(address: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
        let address = listener.local_addr()?;
        let (sender, received) = mpsc::channel();
        thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut bytes = vec![];
            let _ = stream.set_read_timeout(Some(PATIENCE));
            // A reset ends it, too; what came before counts.
            let _ = stream.read_to_end(&mut bytes);
            let _ = sender.send(bytes);
        });
        Ok(Self { address, received })
    }

    /// Where it listens.
    pub(crate) fn at(&self) -> String {
        self.address.to_string()
    }

    /// What came until the connection ended.
    pub(crate) fn received(&self) -> anyhow::Result<String> {
        let bytes = self.received.recv_timeout(PATIENCE).context("the connection does not end")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
