//! Real programs, unmodified, and real servers in a network namespace: dnsmasq, and nginx with TLS.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};

use crate::harness::{ENFORCER, Output, command, events::Event, eventually, runner::Suite, scene::Scene, succeed};

pub(super) const SUITE: Suite = Suite {
    name: "servers",
    policy: Some(policy),
    tests: &[
        ("curl", curl),
        ("git_over_https", git),
        ("pythons_requests", requests),
        ("another_port_of_an_allowed_name", port),
        ("a_name_that_moves", moves),
        ("a_name_server_of_the_agents_own_choice", resolver),
    ],
};

const SKILL: &str = "agent";
/// Where the servers' files are: the same in their namespace and outside.
const HOME: &str = "/srv/servers";
const CA: &str = "/srv/servers/ca.pem";
/// The name server's own file of names.
const ZONE: &str = "/srv/servers/zone";
/// An answer's time and grace in the daemon under test are 3 s together; under emulation everything takes longer.
const CLOSED: Duration = Duration::from_secs(40);

/// The servers: names that are allowed and that are not, two addresses for the one that moves.
const NGINX: &str = "\
worker_processes 1;
pid /srv/servers/nginx.pid;
error_log /srv/servers/error.log;
events { worker_connections 64; }
http {
    access_log /srv/servers/access.log combined;
    ssl_certificate /srv/servers/ca.pem;
    ssl_certificate_key /srv/servers/key.pem;
    root /srv/servers/www;
    server { listen 10.88.0.2:443 ssl; listen 10.88.0.2:80; listen 10.88.0.4:443 ssl; listen 10.88.0.5:443 ssl; }
    server { listen 10.88.0.3:443 ssl; access_log /srv/servers/denied.log combined; }
}
";

/// The network, the certificate, the repository and the servers. It is set up once in a guest.
const SETUP: &str = r"
set -e
ip netns add servers
ip link add agents0 type veth peer name servers0 netns servers
ip address add 10.88.0.1/24 dev agents0
ip link set agents0 up
for last in 2 3 4 5 53 54; do ip netns exec servers ip address add 10.88.0.$last/24 dev servers0; done
ip netns exec servers ip link set servers0 up
ip netns exec servers ip link set lo up
cd /srv/servers
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -keyout key.pem -out ca.pem \
    -subj /CN=good.example -addext 'subjectAltName=DNS:good.example,DNS:bad.example,DNS:moves.example'
mkdir -p www /var/lib/nginx
echo 'hello from the server' >www/hello
git init --quiet --initial-branch=main work
echo content >work/file
git -C work add file
git -C work -c user.name=t -c user.email=t@t commit --quiet -m one
git clone --quiet --bare work www/repo.git
git -C www/repo.git update-server-info
chmod -R a+rX /srv/servers
ip netns exec servers nginx -c /srv/servers/nginx.conf
ip netns exec servers dnsmasq --no-resolv --no-hosts --addn-hosts=/srv/servers/zone --bind-interfaces --user=root \
    --listen-address=10.88.0.53 --listen-address=10.88.0.54 --pid-file=/srv/servers/dnsmasq.pid --conf-file=/dev/null \
    --log-queries --log-facility=/srv/servers/dns.log
echo 'nameserver 10.88.0.53' >/etc/resolv.conf
";

fn policy(_: &Scene) -> anyhow::Result<String> {
    if fs::metadata(HOME).is_err() {
        fs::create_dir_all(HOME)?;
        fs::write(format!("{HOME}/nginx.conf"), NGINX)?;
        zone("10.88.0.4")?;
        let log = format!("{HOME}/setup.log");
        // Servers keep their output open, so that it goes to a file.
        let outcome = command(&["bash", "-c", &format!("({SETUP}) >{log} 2>&1")])?;
        ensure!(outcome.status == 0, "{}", fs::read_to_string(&log)?);
    }
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    allow_binaries: [/usr/bin/curl, /usr/bin/git, /usr/lib/git-core/git-remote-http, \
         /usr/lib/git-core/git-http-fetch, /usr/bin/python3]\n    allow_delete: [\"*\"]\n    \
         network_scope: [\"good.example:443/tcp\", \"moves.example:443/tcp\"]\n"
    ))
}

/// The names that the server knows.
fn zone(moves: &str) -> anyhow::Result<()> {
    fs::write(ZONE, format!("10.88.0.2 good.example\n10.88.0.3 bad.example\n{moves} moves.example\n"))?;
    Ok(())
}

/// Runs a program in the skill.
fn agent(words: &[&str]) -> anyhow::Result<Output> {
    command(&[&[ENFORCER, "run", "--skill", SKILL, "--"][..], words].concat())
}

/// The program failed, the event has the address, and the name that led there if one is listed, and the server saw nothing.
fn refused(scene: &Scene, words: &[&str], address: &str, name: &str, port: u64) -> anyhow::Result<()> {
    let mark = scene.mark();
    let outcome = agent(words)?;
    ensure!(outcome.status != 0, "{} went through: {outcome:?}", words.join(" "));
    let event = scene
        .events()
        .wait(mark, "a refusal", |e| e.text("kind") == "connect" && e.text("verdict") == "deny" && e.port() == port)?;
    ensure!(event.object("address") == address && event.object("name") == name, "{}", event.0);
    ensure!(event.text("reason") == "destination not listed" && event.text("skill") == SKILL, "{}", event.0);
    let seen = fs::read_to_string(format!("{HOME}/denied.log")).unwrap_or_default();
    ensure!(seen.is_empty(), "the server was reached: {seen}");
    Ok(())
}

/// Runs a program that must succeed; returns what it said. The events have the program, the name that led to the address and its rule, and
/// the question to the name server.
fn allowed(scene: &Scene, words: &[&str], binary: &str, address: &str, name: &str) -> anyhow::Result<String> {
    let mark = scene.mark();
    let outcome = agent(words)?;
    ensure!(outcome.status == 0, "{} failed: {outcome:?}", words.join(" "));
    let wait = |kind: &str, what: &str, wanted: &dyn Fn(&Event) -> bool| {
        scene.events().wait(mark, what, |e| {
            e.text("kind") == kind && e.text("verdict") == "allow" && e.text("skill") == SKILL && wanted(e)
        })
    };
    // Python's is a link to one with a version.
    wait("exec", binary, &|e| {
        e.object("path").starts_with(binary) && e.text("rule") == format!("allow_binaries: {binary}")
    })?;
    let event = wait("connect", address, &|e| e.object("address") == address)?;
    ensure!(
        event.object("name") == name && event.text("rule") == format!("network_scope: {name}:443/tcp"),
        "{}",
        event.0
    );
    ensure!(event.port() == 443 && event.object("protocol") == "tcp", "{}", event.0);
    let event = wait("connect", "the name server", &|e| e.port() == 53)?;
    ensure!(event.object("address") == "10.88.0.53" && event.text("rule") == "network_scope: dns", "{}", event.0);
    Ok(outcome.out)
}

fn curl(scene: &Scene) -> anyhow::Result<()> {
    let curl = |url| ["curl", "--silent", "--show-error", "--max-time", "60", "--cacert", CA, url];
    let out = allowed(scene, &curl("https://good.example/hello"), "/usr/bin/curl", "10.88.0.2", "good.example")?;
    ensure!(out == "hello from the server\n", "{out:?}");
    refused(scene, &curl("https://bad.example/hello"), "10.88.0.3", "", 443)?;
    refused(scene, &curl("https://10.88.0.3/hello"), "10.88.0.3", "", 443)?;
    // The same outside: the server is there.
    let outcome = command(&curl("https://bad.example/hello"))?;
    ensure!(outcome.out == "hello from the server\n", "{outcome:?}");
    fs::write(format!("{HOME}/denied.log"), "").context("the log")
}

fn git(scene: &Scene) -> anyhow::Result<()> {
    let (into, other) = (scene.dir.join("clone"), scene.dir.join("other"));
    let (into, other) = (into.to_string_lossy(), other.to_string_lossy());
    let ca = format!("http.sslCAInfo={CA}");
    let clone = ["git", "-c", &ca, "clone", "--quiet", "https://good.example/repo.git", &into];
    allowed(scene, &clone, "/usr/lib/git-core/git-remote-http", "10.88.0.2", "good.example")?;
    let file = fs::read_to_string(format!("{into}/file"))?;
    ensure!(file == "content\n", "{file:?}");
    refused(
        scene,
        &["git", "-c", &ca, "clone", "--quiet", "https://bad.example/repo.git", &other],
        "10.88.0.3",
        "",
        443,
    )?;
    ensure!(fs::metadata(format!("{other}/file")).is_err(), "the clone is there");
    Ok(())
}

const PYTHON: &str =
    "import requests, sys; print(requests.get(sys.argv[1], verify=sys.argv[2], timeout=60).text, end='')";

fn requests(scene: &Scene) -> anyhow::Result<()> {
    let python = |url| ["python3", "-c", PYTHON, url, CA];
    let out = allowed(scene, &python("https://good.example/hello"), "/usr/bin/python3", "10.88.0.2", "good.example")?;
    ensure!(out == "hello from the server\n", "{out:?}");
    refused(scene, &python("https://bad.example/hello"), "10.88.0.3", "", 443)
}

fn port(scene: &Scene) -> anyhow::Result<()> {
    let url = "http://good.example/hello";
    refused(scene, &["curl", "--silent", "--max-time", "60", url], "10.88.0.2", "good.example", 80)?;
    let outcome = command(&["curl", "--silent", "--max-time", "60", url])?;
    ensure!(outcome.out == "hello from the server\n", "{outcome:?}");
    Ok(())
}

/// The name gets another address: the new one opens, and the old one closes when its time is over.
fn moves(scene: &Scene) -> anyhow::Result<()> {
    let at = |address: &str| {
        let resolve = format!("moves.example:443:{address}");
        agent(&[
            "curl",
            "--silent",
            "--max-time",
            "20",
            "--cacert",
            CA,
            "--resolve",
            &resolve,
            "https://moves.example/hello",
        ])
    };
    ensure!(at("10.88.0.4")?.status == 0, "the first address is closed");
    ensure!(at("10.88.0.5")?.status != 0, "the second address is open before the name has it");
    let mark = scene.mark();
    zone("10.88.0.5")?;
    let pid = fs::read_to_string(format!("{HOME}/dnsmasq.pid"))?;
    succeed(&["kill", "-HUP", pid.trim()])?;
    scene.events().wait(mark, "the new address", |e| e.text("reason").contains("moves.example: +10.88.0.5"))?;
    ensure!(at("10.88.0.5")?.status == 0, "the second address is closed");
    let closed = eventually(CLOSED, || at("10.88.0.4").is_ok_and(|outcome| outcome.status != 0));
    ensure!(closed, "the first address is still open: {}", scene.daemon(|d| d.status())?["names"]);
    let curl = ["curl", "--silent", "--max-time", "60", "--cacert", CA, "https://moves.example/hello"];
    let out = allowed(scene, &curl, "/usr/bin/curl", "10.88.0.5", "moves.example")?;
    ensure!(out == "hello from the server\n", "{out:?}");
    Ok(())
}

/// Python asks a server by itself: the configured one answers, the other, which is the same program, is not reached.
fn resolver(scene: &Scene) -> anyhow::Result<()> {
    const ASK: &str = "\
import socket, sys
query = bytes.fromhex('123401000001000000000000') + b'\\x04good\\x07example\\0\\0\\x01\\0\\x01'
kind = socket.SOCK_STREAM if sys.argv[2] == 'tcp' else socket.SOCK_DGRAM
s = socket.socket(socket.AF_INET, kind)
s.settimeout(60)
s.connect((sys.argv[1], 53))
s.send(len(query).to_bytes(2, 'big') + query if kind == socket.SOCK_STREAM else query)
print(s.recv(512)[-4:].hex())
";
    for kind in ["udp", "tcp"] {
        let mark = scene.mark();
        let outcome = agent(&["python3", "-c", ASK, "10.88.0.53", kind])?;
        ensure!(outcome.status == 0 && outcome.out.trim() == "0a580002", "{kind}: {outcome:?}");
        let event = scene.events().wait(mark, "the question", |e| e.port() == 53 && e.text("verdict") == "allow")?;
        ensure!(event.text("rule") == "network_scope: dns" && event.object("protocol") == kind, "{}", event.0);
        refused(scene, &["python3", "-c", ASK, "10.88.0.54", kind], "10.88.0.54", "", 53)?;
        let outcome = command(&["python3", "-c", ASK, "10.88.0.54", kind])?;
        ensure!(outcome.out.trim() == "0a580002", "{kind}: {outcome:?}");
    }
    Ok(())
}
