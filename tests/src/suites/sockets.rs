//! Sockets that were made elsewhere, families that no rule can name, and what is set or sent to lead packets elsewhere.

use std::{
    fs,
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::ensure;

use crate::{
    act::TOKEN,
    harness::{
        ENFORCER, act_with, command,
        events::{Event, Mark},
        eventually,
        holder::{Holder, Patient},
        kernel,
        listener::{Server, say},
        runner::Suite,
        scene::Scene,
        unix::UnixServer,
        worker::Outcome,
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "sockets",
    policy: Some(policy),
    tests: &[
        ("received_and_connected", received),
        ("received_and_connected_by_ipv6", received_v6),
        ("received_and_listening", received_listening),
        ("received_udp_with_a_port", received_bound),
        ("taken_by_pidfd_getfd", taken),
        ("received_and_connected_to_a_unix_socket", received_unix),
        ("received_raw_and_packet_sockets", received_raw),
        ("received_from_the_skill_itself", received_own),
        ("brought_along_by_attach", attached),
        ("brought_along_into_a_cgroup", by_cgroup),
        ("families_that_no_rule_can_name", families),
        ("families_by_io_uring", families_by_io_uring),
        ("netlink_reads_and_does_not_change", netlink),
        ("source_routes", source_routes),
        ("network_changes_by_socket_options", changes_by_options),
    ],
};

const SKILL: &str = "holder";
/// May trace its own processes, which without `allow_jit` nobody may.
const TAKER: &str = "taker";
const PORT: u16 = 18_090;
const OTHER: u16 = 18_091;
const CGROUP: &str = "/sys/fs/cgroup/tests-sockets";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    fs::create_dir_all(CGROUP)?;
    let (offers, listed) = (scene.make_dir("offers")?, scene.make_dir("listed")?);
    scene.make_dir("unlisted")?;
    let binaries = "allow_binaries: [{path: /usr/lib/enforcer/enforcer-tests}]";
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    match: {{cgroup: /tests-sockets}}\n    {binaries}\n    network_scope:\n      \
         - 127.0.0.1:{PORT}\n      - \"[::1]:{PORT}\"\n      - unix:{offers}\n      - unix:{listed}\n    listen: [\"127.0.0.1:{PORT}\"]\n  \
         {TAKER}:\n    {binaries}\n    allow_jit: true\n    network_scope: [\"127.0.0.1:{PORT}\", \"[::1]:{PORT}\"]\n    \
         listen: [\"127.0.0.1:{PORT}\"]\n  \
         open-line:\n    {binaries}\n    network_scope: [\"*\"]\n"
    ))
}

/// Lets an outside process offer what `offer` says, and an agent take it as `receive` says, while something else is done here.
fn passed_while<T: Send>(
    scene: &Scene,
    offer: &[&str],
    receive: &str,
    meanwhile: impl FnOnce() -> T + Send,
) -> anyhow::Result<(Outcome, T)> {
    let socket = scene.dir.join("offers/socket").to_string_lossy().into_owned();
    if fs::metadata(&socket).is_ok() {
        fs::remove_file(&socket)?;
    }
    let friend = scene.outsider()?;
    let mut words = vec![offer[0].to_owned(), socket.clone()];
    words.extend(offer[1..].iter().map(|word| (*word).to_owned()));
    let offering = thread::spawn(move || friend.act(&words.iter().map(String::as_str).collect::<Vec<_>>()));
    let there = eventually(Duration::from_secs(5), || fs::metadata(&socket).is_ok());
    let (outcome, done) = thread::scope(|scope| {
        let other = scope.spawn(meanwhile);
        let outcome = if there { Some(scene.act(SKILL, &[receive, &socket])) } else { None };
        (outcome.transpose(), other.join())
    });
    let offered = offering.join().map_err(|_| anyhow::anyhow!("the friend panicked"))??;
    let outcome = outcome?.ok_or_else(|| anyhow::anyhow!("nothing is offered: {offered:?}"))?;
    ensure!(offered.status == 0, "{offered:?}, {outcome:?}");
    Ok((outcome, done.map_err(|_| anyhow::anyhow!("what was to be done meanwhile panicked"))?))
}

/// The same with nothing else to do; returns the agent's errno.
fn passed(scene: &Scene, offer: &[&str], receive: &str) -> anyhow::Result<i32> {
    passed_while(scene, offer, receive, || ()).map(|(outcome, ())| outcome.status)
}

/// What the stream says of a socket that comes from elsewhere.
fn arrival(scene: &Scene, mark: Mark, verdict: &str, to: &str, protocol: &str) -> anyhow::Result<Event> {
    let (ip, port) = to.rsplit_once(':').ok_or_else(|| anyhow::anyhow!("{to}"))?;
    let event = scene.events().wait(mark, &format!("{verdict} of a socket of {to}"), |e| {
        e.text("kind") == "receive" && e.text("verdict") == verdict && e.port().to_string() == port
    })?;
    ensure!(event.object("address") == ip.trim_matches(['[', ']']), "{}", event.0);
    ensure!(event.object("protocol") == protocol, "{}", event.0);
    Ok(event)
}

fn received(scene: &Scene) -> anyhow::Result<()> {
    received_of(scene, "127.0.0.1")
}

fn received_v6(scene: &Scene) -> anyhow::Result<()> {
    received_of(scene, "::1")
}

fn received_of(scene: &Scene, ip: &str) -> anyhow::Result<()> {
    for (offer, protocol) in [("offer-tcp", "tcp"), ("offer-udp", "udp")] {
        let (good, bad) = (Server::start(ip, PORT)?, Server::start(ip, OTHER)?);
        let mark = scene.mark();
        let status = passed(scene, &[offer, &good.at()], "receive-and-send")?;
        ensure!(status == 0, "{offer} to what is listed: {status}");
        good.got(TOKEN)?;
        let event = arrival(scene, mark, "allow", &good.at(), protocol)?;
        ensure!(event.text("rule") == format!("network_scope: {}", good.at()), "{}", event.0);
        let mark = scene.mark();
        let status = passed(scene, &[offer, &bad.at()], "receive-and-send")?;
        ensure!(status == libc::EPERM, "{offer} to what is not listed: {status}");
        let event = arrival(scene, mark, "deny", &bad.at(), protocol)?;
        ensure!(event.text("reason") == "destination not listed", "{}", event.0);
        ensure!(bad.got(TOKEN).is_err(), "{offer}: what the agent said arrived");
    }
    Ok(())
}

/// The agent serves by a received socket of the listed address, and is not given that of the other.
fn received_at(scene: &Scene, offer: &str, serve: &str, tcp: bool) -> anyhow::Result<()> {
    let protocol = if tcp { "tcp" } else { "udp" };
    let (listed, other) = (format!("127.0.0.1:{PORT}"), format!("127.0.0.1:{OTHER}"));
    let mark = scene.mark();
    let client = || eventually(Duration::from_secs(8), || say(TOKEN, &listed, tcp));
    let (outcome, said) = passed_while(scene, &[offer, &listed], serve, client)?;
    ensure!(said && outcome.done()?.out == TOKEN, "{outcome:?}");
    let event = arrival(scene, mark, "allow", &listed, protocol)?;
    ensure!(event.text("rule") == format!("listen: {listed}"), "{}", event.0);
    for local in [&other, "[::1]:18092", "0.0.0.0:18092"] {
        let mark = scene.mark();
        let (outcome, ()) = passed_while(scene, &[offer, local], serve, || ())?;
        outcome.refused()?;
        let event = arrival(scene, mark, "deny", local, protocol)?;
        ensure!(event.text("reason") == "listening is not listed", "{}", event.0);
        ensure!(!say(TOKEN, local, tcp), "somebody is there at {local}");
    }
    Ok(())
}

fn received_listening(scene: &Scene) -> anyhow::Result<()> {
    received_at(scene, "offer-listening", "receive-and-serve", true)
}

fn received_bound(scene: &Scene) -> anyhow::Result<()> {
    received_at(scene, "offer-bound-udp", "receive-and-print", false)
}

/// A socket that is standard input, where it may be anything, is taken from a child under another number.
fn taken(scene: &Scene) -> anyhow::Result<()> {
    let take = |fd: OwnedFd, act: &[&str], verdict: &str, to: &str, protocol: &str| {
        let mark = scene.mark();
        let outcome = act_with(fd, TAKER, act)?;
        let event = arrival(scene, mark, verdict, to, protocol)?;
        ensure!(outcome.status == if verdict == "allow" { 0 } else { libc::EPERM }, "{outcome:?}, {}", event.0);
        ensure!(event.text("skill") == TAKER, "{}", event.0);
        Ok(event)
    };
    for ip in ["127.0.0.1", "::1"] {
        let (good, bad) = (Server::start(ip, PORT)?, Server::start(ip, OTHER)?);
        for (tcp, protocol) in [(true, "tcp"), (false, "udp")] {
            let act = ["take-from-child-and-send"];
            let event = take(connected(&good, tcp)?, &act, "allow", &good.at(), protocol)?;
            ensure!(event.text("rule") == format!("network_scope: {}", good.at()), "{}", event.0);
            good.got(TOKEN)?;
            let event = take(connected(&bad, tcp)?, &act, "deny", &bad.at(), protocol)?;
            ensure!(event.text("reason") == "destination not listed", "{}", event.0);
            ensure!(bad.got(TOKEN).is_err(), "what the agent said arrived");
        }
    }
    let made: [fn(&str) -> std::io::Result<OwnedFd>; 2] =
        [|at| TcpListener::bind(at).map(Into::into), |at| UdpSocket::bind(at).map(Into::into)];
    let (listed, other) = (format!("127.0.0.1:{PORT}"), format!("127.0.0.1:{OTHER}"));
    for (make, protocol) in made.iter().zip(["tcp", "udp"]) {
        let act = ["take-from-child", "input"];
        let event = take(make(&listed)?, &act, "allow", &listed, protocol)?;
        ensure!(event.text("rule") == format!("listen: {listed}"), "{}", event.0);
        let event = take(make(&other)?, &act, "deny", &other, protocol)?;
        ensure!(event.text("reason") == "listening is not listed", "{}", event.0);
    }
    Ok(())
}

/// A connection to a server, made out here.
fn connected(server: &Server, tcp: bool) -> anyhow::Result<OwnedFd> {
    if tcp {
        return Ok(TcpStream::connect(server.address())?.into());
    }
    let socket = UdpSocket::bind((if server.address().is_ipv6() { "::1" } else { "127.0.0.1" }, 0))?;
    socket.connect(server.address())?;
    Ok(socket.into())
}

fn received_unix(scene: &Scene) -> anyhow::Result<()> {
    let at = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let (good, bad) = (UnixServer::start(&at("listed/s"))?, UnixServer::start(&at("unlisted/s"))?);
    let status = passed(scene, &["offer-unix", good.at()], "receive-and-send")?;
    ensure!(status == 0, "to what is listed: {status}");
    good.got(TOKEN)?;
    let mark = scene.mark();
    let status = passed(scene, &["offer-unix", bad.at()], "receive-and-send")?;
    ensure!(status == libc::EPERM, "to what is not listed: {status}");
    scene.event(mark, "receive", "deny", bad.at())?;
    ensure!(bad.got(TOKEN).is_err(), "what the agent said arrived");
    Ok(())
}

fn received_raw(scene: &Scene) -> anyhow::Result<()> {
    for offer in ["offer-raw", "offer-packet"] {
        let mark = scene.mark();
        let status = passed(scene, &[offer], "receive")?;
        ensure!(status == libc::EPERM, "{offer}: {status}");
        scene.events().wait(mark, offer, |e| e.text("kind") == "receive" && e.text("verdict") == "deny")?;
    }
    let status = passed(scene, &["offer-plain"], "receive")?;
    ensure!(status == 0, "a plain socket: {status}");
    Ok(())
}

/// A server that hands the connections it takes to its workers.
fn received_own(scene: &Scene) -> anyhow::Result<()> {
    let (server, at) = (scene.worker(SKILL)?, format!("127.0.0.1:{PORT}"));
    let (words, worker) = (at.clone(), Arc::clone(&server));
    let serving = thread::spawn(move || worker.act(&["serve-by-passing", &words]));
    let said = eventually(Duration::from_secs(8), || {
        use std::io::Write as _;
        TcpStream::connect(&at).and_then(|mut s| s.write_all(TOKEN.as_bytes())).is_ok()
    });
    let outcome = serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    ensure!(said && outcome.done()?.out == TOKEN, "{outcome:?}");
    Ok(())
}

fn attach(holder: &Holder) -> anyhow::Result<crate::harness::Output> {
    command(&[ENFORCER, "attach", "--skill", SKILL, "--pid", &holder.pid().to_string()])
}

fn attached(scene: &Scene) -> anyhow::Result<()> {
    let at = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let unlisted = UnixServer::start(&at("unlisted/held"))?;
    let (good, bad) = (Patient::start(&format!("127.0.0.1:{PORT}"))?, Patient::start(&format!("127.0.0.1:{OTHER}"))?);
    for (kind, address) in [
        ("tcp", bad.at()),
        ("raw", String::new()),
        ("listen", "127.0.0.1:18092".into()),
        ("unix", unlisted.at().into()),
    ] {
        let holder = Holder::outside(kind, &address)?;
        let mark = scene.mark();
        let outcome = attach(&holder)?;
        ensure!(outcome.status == 1 && outcome.err.contains("open"), "{kind} {address}: {outcome:?}");
        let pid = u64::from(holder.pid());
        scene.events().wait(mark, "the socket", |e| {
            e.text("kind") == "receive" && e.text("verdict") == "deny" && e.number("target") == pid
        })?;
    }
    ensure!(bad.received()?.is_empty(), "nobody said anything");
    let holder = Holder::outside("tcp", &good.at())?;
    let outcome = attach(&holder)?;
    ensure!(outcome.status == 0, "{outcome:?}");
    ensure!(holder.send()? == 0 && good.received()? == TOKEN, "an allowed connection goes on");
    Ok(())
}

fn by_cgroup(scene: &Scene) -> anyhow::Result<()> {
    let at = |name: &str| scene.dir.join(name).to_string_lossy().into_owned();
    let (good, bad) = (Patient::start(&format!("127.0.0.1:{PORT}"))?, Patient::start(&format!("127.0.0.1:{OTHER}"))?);
    let unlisted = UnixServer::start(&at("unlisted/cgroup"))?;
    let (kept, broken) = (Holder::outside("tcp", &good.at())?, Holder::outside("tcp", &bad.at())?);
    let listening = Holder::outside("listen", "127.0.0.1:18093")?;
    let speaking = Holder::outside("unix", unlisted.at())?;
    for holder in [&kept, &broken, &listening, &speaking] {
        let (mark, pid) = (scene.mark(), holder.pid());
        fs::write(format!("{CGROUP}/cgroup.procs"), pid.to_string())?;
        scene
            .events()
            .wait(mark, "the entry", |e| e.text("kind") == "enter" && e.number("target") == u64::from(pid))?;
        if pid != kept.pid() {
            let event = scene
                .events()
                .wait(mark, "the closing", |e| e.text("kind") == "close" && e.number("target") == u64::from(pid))?;
            ensure!(event.text("reason") == "not allowed in the skill" && event.text("skill") == SKILL, "{}", event.0);
        }
    }
    ensure!(kept.send()? == 0 && good.received()? == TOKEN, "an allowed connection goes on");
    ensure!(broken.send()? != 0 && bad.received()?.is_empty(), "a connection that is not allowed carries on");
    ensure!(TcpStream::connect("127.0.0.1:18093").is_err(), "somebody listens");
    ensure!(speaking.send()? != 0 && unlisted.got(TOKEN).is_err(), "a unix connection carries on");
    Ok(())
}

/// Numbers that `libc` may not have: `include/linux/socket.h`; and what the kernel says to root where nobody refuses.
const FAMILIES: [(&str, i32, i32, i32, i32); 16] = [
    ("MPTCP", libc::AF_INET, libc::SOCK_STREAM, 262, 0),
    ("SCTP", libc::AF_INET, libc::SOCK_STREAM, 132, 0),
    ("SCTP, one to many", libc::AF_INET6, libc::SOCK_SEQPACKET, 132, 0),
    ("DCCP", libc::AF_INET, 6, 33, libc::ESOCKTNOSUPPORT),
    ("UDP-Lite", libc::AF_INET, libc::SOCK_DGRAM, 136, 0),
    ("ping", libc::AF_INET, libc::SOCK_DGRAM, 1, libc::EACCES),
    ("packet", libc::AF_PACKET, libc::SOCK_DGRAM, 0x0300, 0),
    ("key", 15, libc::SOCK_RAW, 2, libc::EAFNOSUPPORT),
    ("netfilter", libc::AF_NETLINK, libc::SOCK_RAW, 12, libc::EPROTONOSUPPORT),
    ("generic netlink", libc::AF_NETLINK, libc::SOCK_RAW, 16, 0),
    ("TIPC", 30, libc::SOCK_DGRAM, 0, libc::EAFNOSUPPORT),
    ("ALG", libc::AF_ALG, libc::SOCK_SEQPACKET, 0, 0),
    ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0, 0),
    ("XDP", 44, libc::SOCK_RAW, 0, 0),
    ("SMC by IP", libc::AF_INET, libc::SOCK_STREAM, 256, libc::EPROTONOSUPPORT),
    ("SMC", 43, libc::SOCK_STREAM, 0, libc::EAFNOSUPPORT),
];

/// Refused in the skill with an event; the same act elsewhere is not.
fn family_refused(scene: &Scene, what: &str, act: &[&str], otherwise: i32) -> anyhow::Result<()> {
    let otherwise = match what {
        // By 7.2 one has gone, and the other is always there.
        "UDP-Lite" if kernel()? >= (7, 0) => libc::EPROTONOSUPPORT,
        "netfilter" if kernel()? >= (7, 0) => 0,
        _ => otherwise,
    };
    let mark = scene.mark();
    let outcome = scene.act(SKILL, act)?;
    ensure!(outcome.status == libc::EPERM, "{what}: {outcome:?}");
    let event = scene.events().wait(mark, what, |e| e.text("kind") == "socket" && e.text("verdict") == "deny")?;
    ensure!(event.text("reason") == "protocol not allowed" && event.text("skill") == SKILL, "{}", event.0);
    for outcome in [scene.outside(act)?, scene.act("open-line", act)?] {
        ensure!(outcome.status == otherwise, "{what}: {outcome:?}");
    }
    Ok(())
}

/// By a ring, on which a thread of the kernel may make them.
fn families_by_io_uring(scene: &Scene) -> anyhow::Result<()> {
    for way in ["uring", "uring-worker", "uring-sqpoll"] {
        for (what, family, kind, protocol, otherwise) in FAMILIES {
            let words = [family, kind, protocol].map(|number| number.to_string());
            family_refused(scene, what, &[way, "socket", &words[0], &words[1], &words[2]], otherwise)?;
        }
        for (family, kind) in [(libc::AF_INET, libc::SOCK_STREAM), (libc::AF_INET6, libc::SOCK_DGRAM)] {
            scene.act(SKILL, &[way, "socket", &family.to_string(), &kind.to_string(), "0"])?.done()?;
        }
    }
    Ok(())
}

fn families(scene: &Scene) -> anyhow::Result<()> {
    for (what, family, kind, protocol, otherwise) in FAMILIES {
        let words = [family, kind, protocol].map(|number| number.to_string());
        family_refused(scene, what, &["socket", &words[0], &words[1], &words[2]], otherwise)?;
    }
    for (kind, protocol) in
        [(libc::SOCK_STREAM, 0), (libc::SOCK_DGRAM, 0), (libc::SOCK_STREAM, 6), (libc::SOCK_DGRAM, 17)]
    {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let words = [family, kind, protocol].map(|number| number.to_string());
            scene.act(SKILL, &["socket", &words[0], &words[1], &words[2]])?.done()?;
        }
    }
    Ok(())
}

fn mtu() -> anyhow::Result<i32> {
    crate::harness::network::mtu("lo")
}

fn netlink(scene: &Scene) -> anyhow::Result<()> {
    let before = mtu()?;
    scene.act(SKILL, &["netlink-read"])?.done()?;
    for act in ["netlink-mtu", "netlink-read-and-mtu"] {
        let mark = scene.mark();
        scene.act(SKILL, &[act, "4321"])?.refused()?;
        ensure!(mtu()? == before, "{act} changed the network");
        let event = scene.events().wait(mark, act, |e| e.text("kind") == "socket" && e.text("verdict") == "deny")?;
        ensure!(event.text("reason") == "changing the network is not allowed", "{}", event.0);
        scene.outside(&[act, "4321"])?.done()?;
        ensure!(mtu()? == 4321, "{act} from outside changed nothing");
        scene.act("open-line", &[act, &before.to_string()])?.done()?;
        ensure!(mtu()? == before, "{act} under a star changed nothing");
    }
    Ok(())
}

/// A loose source route to 127.0.0.1 by way of 127.0.0.2, and a routing header of type 2 to `::2`.
fn source_routes(scene: &Scene) -> anyhow::Result<()> {
    const LSRR: &str = "830b047f0000027f00000100";
    const ROUTING_HEADER: &str = "000202010000000000000000000000000000000000000002";
    let n = |number: i32| number.to_string();
    let (v4, v6) = (n(libc::AF_INET), n(libc::AF_INET6));
    for (family, level, option, bytes) in [(&v4, "0", "4", LSRR), (&v6, "41", "57", ROUTING_HEADER)] {
        let act = ["set-option", family, level, option, bytes];
        let mark = scene.mark();
        scene.act(SKILL, &act)?.refused()?;
        let event =
            scene.events().wait(mark, "the option", |e| e.text("kind") == "socket" && e.text("verdict") == "deny")?;
        ensure!(event.text("reason") == "source routes are not allowed", "{}", event.0);
        for outcome in [scene.outside(&act)?, scene.act("open-line", &act)?] {
            ensure!(outcome.status != libc::EPERM, "{outcome:?}");
        }
    }
    // The same header as one of a flow label's options (`include/uapi/linux/in6.h: struct in6_flowlabel_req`): to `::1`, label
    // 12345, got by anybody, created, for 60 s; then a control message of that type.
    let label = format!("{:0>32}{:0>8}00ff01003c003c0000000000{}", 1, 12345, "28000000000000002900000039000000");
    let act = ["set-option", &v6, "41", "32", &format!("{label}{ROUTING_HEADER}")];
    let exists = || fs::read_to_string("/proc/net/ip6_flowlabel").map(|labels| labels.contains("12345"));
    let mark = scene.mark();
    scene.act(SKILL, &act)?.refused()?;
    ensure!(!exists()?, "the label is there");
    scene.events().wait(mark, "the flow label", |e| {
        e.text("kind") == "socket" && e.text("reason").starts_with("source routes")
    })?;
    scene.act("open-line", &act)?.done()?;
    ensure!(exists()?, "there is no label");
    scene.outside(&act)?.done()?;
    // Time to live, and the type of service.
    for option in ["2", "1"] {
        scene.act(SKILL, &["set-option", &v4, "0", option, "10000000"])?.done()?;
    }
    Ok(())
}

/// `setsockopt` of plain datagram sockets: `IPsec` policies, iptables, arptables, ebtables, IPVS, ip6tables. What is set is none of
/// their structures: where they are there, they say so.
fn changes_by_options(scene: &Scene) -> anyhow::Result<()> {
    let n = |number: i32| number.to_string();
    let (v4, v6) = (n(libc::AF_INET), n(libc::AF_INET6));
    let of_v4 = ["16", "17", "64", "65", "96", "97", "128", "129", "1154"].map(|option| (&v4, "0", option));
    let of_v6 = ["34", "35", "64", "65"].map(|option| (&v6, "41", option));
    // Options of IPv4 are set on sockets of IPv6, too.
    for (family, level, option) in of_v4.into_iter().chain(of_v6).chain([(&v6, "0", "64")]) {
        let act = ["set-option", family, level, option, "00000000"];
        let mark = scene.mark();
        scene.act(SKILL, &act)?.refused()?;
        let event = scene.events().wait(mark, option, |e| e.text("kind") == "socket" && e.text("verdict") == "deny")?;
        ensure!(event.text("reason") == "changing the network is not allowed", "{}", event.0);
        for outcome in [scene.outside(&act)?, scene.act("open-line", &act)?] {
            ensure!(outcome.status != libc::EPERM, "{option}: {outcome:?}");
        }
    }
    // The traffic class.
    scene.act(SKILL, &["set-option", &v6, "41", "67", "10000000"])?.done()?;
    Ok(())
}
