//! Containers whose skill lists names: they ask the resolvers of their own resolv.conf, in their own network, and nothing that their
//! processes do makes the daemon ask anybody else.

use std::{
    fs,
    os::fd::AsRawFd as _,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};

use super::workloads::{HOOKS, IMAGE, hooks, image};
use crate::{
    act::TOKEN,
    harness::{
        ENFORCER, Output, command,
        dns::Dns,
        eventually,
        listener::Server,
        runner::Suite,
        scene::{Scene, holds},
        succeed,
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "resolving",
    policy: Some(policy),
    tests: &[
        ("a_container_asks_its_own_resolver", own_resolver),
        ("a_container_cannot_choose_who_is_asked", not_to_be_chosen),
        ("the_status_says_whose_resolvers_are_not_asked", unasked),
    ],
};

const NETWORK: &str = "/run/netns/box";
const NAME: &str = "api.inside.example";
const PORT: u16 = 18_095;
/// What the name means, and what it shall never mean.
const MEANT: &str = "10.78.0.1";
const OTHER: &str = "10.78.0.2";
/// The resolver that the engine chose, and the agent's own.
const RESOLVER: &str = "10.78.0.53";
const FALSE_RESOLVER: &str = "10.78.0.66";
const BOX: &str = "resolving";
const OTHER_BOX: &str = "beside";
/// How long the daemon may take to notice, under emulation.
const SOON: Duration = Duration::from_secs(30);

/// What is in the container's network.
struct Network {
    resolver: Dns,
    false_resolver: Dns,
    meant: Server,
    other: Server,
}

/// It outlives the suite: the daemon goes on asking.
static NET: Mutex<Option<Network>> = Mutex::new(None);

fn net() -> MutexGuard<'static, Option<Network>> {
    NET.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_net<T>(ask: impl FnOnce(&Network) -> anyhow::Result<T>) -> anyhow::Result<T> {
    ask(net().as_ref().context("no network")?)
}

impl Network {
    fn make() -> anyhow::Result<Self> {
        succeed(&["ip", "netns", "add", "box"])?;
        let ip = |args: &[&str]| succeed(&[&["ip", "-n", "box"], args].concat());
        for address in [MEANT, OTHER, RESOLVER, FALSE_RESOLVER] {
            ip(&["address", "add", &format!("{address}/32"), "dev", "lo"])?;
        }
        ip(&["link", "set", "lo", "up"])?;
        // A thread of its own, whose sockets are made there.
        let made = thread::spawn(|| {
            let network = fs::File::open(NETWORK)?;
            // SAFETY: an open namespace; only this thread enters it.
            ensure!(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) } == 0, "setns");
            let (resolver, false_resolver) = (Dns::start(RESOLVER)?, Dns::start(FALSE_RESOLVER)?);
            resolver.set(NAME, &[MEANT])?;
            false_resolver.set(NAME, &[OTHER])?;
            let (meant, other) = (Server::start(MEANT, PORT)?, Server::start(OTHER, PORT)?);
            Ok(Self { resolver, false_resolver, meant, other })
        });
        made.join().map_err(|_| anyhow!("the thread died"))?
    }
}

fn policy(scene: &Scene) -> anyhow::Result<String> {
    image(scene)?;
    if net().is_none() {
        *net() = Some(Network::make()?);
    }
    Ok(format!(
        "version: 1\nskills:\n  netted:\n    match: {{container: \"label=enforcer.test=net\"}}\n    \
         allow_binaries: [\"*\"]\n    network_scope: [\"{NAME}:{PORT}\"]\n  \
         outside:\n    allow_binaries: [\"*\"]\n    network_scope: [\"{NAME}:{PORT}\"]\n"
    ))
}

/// A container with a resolv.conf as an engine makes it, which is removed with this.
struct Boxed {
    resolv_conf: String,
}

impl Boxed {
    fn start(scene: &Scene) -> anyhow::Result<Self> {
        Self::start_with(scene, &["--hooks-dir", HOOKS])
    }

    fn start_with(scene: &Scene, more: &[&str]) -> anyhow::Result<Self> {
        hooks()?;
        let resolv_conf = scene.make_file("resolv.conf")?;
        fs::write(&resolv_conf, format!("nameserver {RESOLVER}\n"))?;
        let (mount, network) = (format!("{resolv_conf}:/etc/resolv.conf"), format!("ns:{NETWORK}"));
        let may = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"];
        let options = ["-d", "--name", BOX, "--annotation", "enforcer.test=net", "-v", &mount];
        let start = ["podman", "run", "--network", &network];
        succeed(&[&start[..], &options, more, &may, &[IMAGE, "/bin/sh", "-c", "sleep 1000"]].concat())?;
        Ok(Self { resolv_conf })
    }
}

impl Drop for Boxed {
    fn drop(&mut self) {
        let _ = command(&["podman", "rm", "-f", "-t", "0", BOX]);
    }
}

fn inside(script: &str) -> anyhow::Result<Output> {
    command(&["podman", "exec", BOX, "/bin/sh", "-c", script])
}

fn send(to: &str) -> anyhow::Result<Output> {
    inside(&format!("busybox printf '{TOKEN}' | busybox nc -w 5 {to} {PORT}"))
}

/// Waits until the daemon has the address by the container's resolver.
fn is_known(scene: &Scene) -> anyhow::Result<()> {
    let mut last = serde_json::Value::Null;
    let known = eventually(SOON, || {
        last = scene.daemon(|d| d.status()).unwrap_or_default()["names"].take();
        let of_container = |line: &serde_json::Value| {
            line["container"].is_string() && line["name"] == NAME && line["addresses"][0]["address"] == MEANT
        };
        last.as_array().is_some_and(|lines| lines.iter().any(of_container))
    });
    ensure!(known, "{last}; {}", scene.daemon(|d| Ok(d.errors()))?);
    Ok(())
}

/// The name leads where its resolver says, and nowhere else.
fn is_meant(scene: &Scene, when: &str) -> anyhow::Result<()> {
    is_known(scene).context(when.to_owned())?;
    let outcome = send(NAME)?;
    in_net(|net| net.meant.got(TOKEN)).with_context(|| format!("{when}: {outcome:?}"))?;
    let mark = scene.mark();
    let outcome = send(OTHER)?;
    ensure!(outcome.status != 0, "{when}: {outcome:?}");
    in_net(|net| net.other.nothing()).context(when.to_owned())?;
    scene.events().wait(mark, when, |e| {
        e.text("kind") == "connect"
            && e.text("verdict") == "deny"
            && e.text("skill") == "netted"
            && e.0["object"]["address"] == OTHER
    })?;
    in_net(|net| {
        ensure!(net.false_resolver.asked().is_empty(), "{when}: the agent's resolver was asked");
        Ok(())
    })
}

fn own_resolver(scene: &Scene) -> anyhow::Result<()> {
    let boxed = Boxed::start(scene)?;
    is_meant(scene, "at first")?;
    in_net(|net| {
        ensure!(net.resolver.asked().iter().any(|name| name == NAME), "{:?}", net.resolver.asked());
        Ok(())
    })?;
    // The host's resolver does not know the name, and the container's answers are its skill's alone.
    let mark = scene.mark();
    let port = PORT.to_string();
    let outcome =
        command(&[ENFORCER, "run", "--skill", "outside", "--", "/usr/bin/busybox", "nc", "-w", "2", MEANT, &port])?;
    ensure!(outcome.status != 0, "{outcome:?}");
    scene.events().wait(mark, "the other skill", |e| {
        e.text("kind") == "connect" && e.text("verdict") == "deny" && e.text("skill") == "outside"
    })?;
    drop(boxed);
    // With the container goes what it asked for.
    let mut last = serde_json::Value::Null;
    let forgotten = eventually(SOON, || {
        last = scene.daemon(|d| d.status()).unwrap_or_default()["names"].take();
        last.as_array().is_some_and(|lines| !lines.is_empty() && lines.iter().all(|line| line["container"].is_null()))
    });
    ensure!(forgotten, "{last}");
    Ok(())
}

/// Neither by writing the files, nor by what is mounted over them, nor by a network of its own.
fn not_to_be_chosen(scene: &Scene) -> anyhow::Result<()> {
    let boxed = Boxed::start(scene)?;
    is_known(scene)?;
    let mark = scene.mark();
    let script = format!(
        "(echo nameserver {FALSE_RESOLVER} > /etc/resolv.conf) 2>/dev/null || echo resolv.conf; \
         (echo {OTHER} {NAME} >> /etc/hosts) 2>/dev/null || echo hosts; \
         echo x > /etc/other && echo other; \
         echo nameserver {FALSE_RESOLVER} > /tmp/false; \
         busybox mount --bind /tmp/false /etc/resolv.conf && cat /etc/resolv.conf; \
         busybox unshare -n busybox sleep 1000 >/dev/null 2>&1 &"
    );
    let outcome = inside(&script)?;
    let said: Vec<&str> = outcome.out.lines().collect();
    let over = format!("nameserver {FALSE_RESOLVER}");
    ensure!(said == ["resolv.conf", "hosts", "other", over.as_str()], "{outcome:?}");
    holds(&boxed.resolv_conf, &format!("nameserver {RESOLVER}\n"))?;
    scene.events().wait(mark, "the refused write", |e| {
        e.text("kind") == "write"
            && e.text("verdict") == "deny"
            && e.text("skill") == "netted"
            && e.text("reason") == "it is Enforcer's own"
    })?;
    // Nor may another skill, which reaches the engine's files on the host.
    let write = format!("echo nameserver {FALSE_RESOLVER} > {}", boxed.resolv_conf);
    let outcome = command(&[ENFORCER, "run", "--skill", "outside", "--", "/bin/sh", "-c", &write])?;
    ensure!(outcome.status != 0, "{outcome:?}");
    holds(&boxed.resolv_conf, &format!("nameserver {RESOLVER}\n"))?;
    // Its programs ask whom they like, and are refused; the daemon asks whom it asked before.
    let meant = |when: &str| -> anyhow::Result<()> {
        is_known(scene).context(when.to_owned())?;
        let outcome = send(MEANT)?;
        in_net(|net| net.meant.got(TOKEN)).with_context(|| format!("{when}: {outcome:?}"))?;
        let outcome = send(OTHER)?;
        ensure!(outcome.status != 0, "{when}: {outcome:?}");
        in_net(|net| {
            net.other.nothing()?;
            ensure!(net.false_resolver.asked().is_empty(), "{when}: the agent's resolver was asked");
            Ok(())
        })
    };
    meant("with another file over its own")?;
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest))?;
    meant("after a reload")?;
    // The file that the engine made stays out of reach, though the path has led elsewhere meanwhile.
    let script = format!(
        "busybox umount /etc/resolv.conf && cat /etc/resolv.conf; \
         (echo nameserver {FALSE_RESOLVER} > /etc/resolv.conf) 2>/dev/null || echo resolv.conf"
    );
    let outcome = inside(&script)?;
    ensure!(outcome.out == format!("nameserver {RESOLVER}\nresolv.conf\n"), "{outcome:?}");
    scene.daemon(|d| d.reload(&manifest))?;
    meant("after another one")?;
    scene.daemon(|d| {
        d.kill()?;
        d.restart()
    })?;
    meant("after a restart of the daemon")?;
    // The hook is asked again, as it is wherever it lies in a directory that the engine reads by itself.
    succeed(&["podman", "--hooks-dir", HOOKS, "restart", "-t", "0", BOX])?;
    is_meant(scene, "after a restart of the container")
}

fn unasked(scene: &Scene) -> anyhow::Result<()> {
    const SAID: &str = "the host's resolvers are asked, not its own";
    let lines = || -> anyhow::Result<Vec<String>> {
        let warnings = scene.daemon(|d| d.status())?["warnings"].take();
        let warnings = warnings.as_array().cloned().unwrap_or_default();
        Ok(warnings.iter().filter_map(|w| w.as_str()).filter(|w| w.contains(SAID)).map(str::to_owned).collect())
    };
    let boxed = Boxed::start(scene)?;
    is_known(scene)?;
    ensure!(lines()?.is_empty(), "{:?}", lines()?);
    drop(boxed);
    let reasons: [(&[&str], &str); 2] =
        [(&["--hooks-dir", HOOKS, "--cap-add", "NET_ADMIN"], "CAP_NET_ADMIN"), (&[], "no OCI hook told of it")];
    for (options, reason) in reasons {
        let boxed = Boxed::start_with(scene, options)?;
        let said = || lines().is_ok_and(|lines| lines.len() == 1 && lines[0].contains(reason));
        ensure!(eventually(SOON, said), "{reason}: {:?}", lines()?);
        drop(boxed);
    }
    ensure!(eventually(SOON, || lines().is_ok_and(|lines| lines.is_empty())), "{:?}", lines()?);
    // One that shares the network, and could lead the questions elsewhere.
    let boxed = Boxed::start(scene)?;
    is_known(scene)?;
    let network = format!("ns:{NETWORK}");
    let other =
        ["podman", "run", "-d", "--name", OTHER_BOX, "--annotation", "enforcer.test=net", "--network", &network];
    let outcome = command(&[&other[..], &["--cap-add", "NET_ADMIN", IMAGE, "/bin/sh", "-c", "sleep 1000"]].concat());
    let reason = "shares its network and may change it";
    let said = eventually(SOON, || lines().is_ok_and(|lines| lines.iter().any(|line| line.contains(reason))));
    let (last, removed) = (lines(), command(&["podman", "rm", "-f", "-t", "0", OTHER_BOX]));
    ensure!(said, "{last:?}; {:?}", outcome?);
    ensure!(removed?.status == 0, "the other container stays");
    // When it has gone, they are asked again.
    is_known(scene)?;
    ensure!(eventually(SOON, || lines().is_ok_and(|lines| lines.is_empty())), "{:?}", lines()?);
    drop(boxed);
    Ok(())
}
