//! Connect: by address, prefix, port and protocol, whatever call is used.

use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::ensure;

use crate::{
    act::TOKEN,
    harness::{act_with, command, events::Event, listener::Server, runner::Suite, scene::Scene, succeed},
};

pub(super) const SUITE: Suite = Suite {
    name: "connect",
    policy: Some(policy),
    tests: &[
        ("ipv4_address_and_port", v4),
        ("ipv6_address_and_port", v6),
        ("another_port_of_an_allowed_address", port),
        ("a_prefix_and_what_lies_beside_it", prefix),
        ("tcp_is_not_udp", protocol),
        ("v4_mapped_addresses", mapped),
        ("datagrams_without_a_connect", datagrams),
        ("tcp_fast_open", fast_open),
        ("a_connect_that_is_put_off", put_off),
        ("io_uring", io_uring),
        ("io_uring_sends_to_an_address", io_uring_sends),
        ("the_unspecified_address", unspecified),
        ("the_unspecified_address_where_it_is_listed", unspecified_listed),
        ("broadcast_multicast_and_link_local", broadcast),
        ("link_local_addresses_with_a_scope", scoped),
        ("datagrams_by_other_ways", datagram_ways),
        ("datagrams_to_two_at_once", two),
        ("a_hundred_thousand_prefixes", many),
        ("raw_packet_and_other_sockets", sockets),
        ("a_socket_from_outside_the_skill", inherited),
        ("other_tasks_and_users", tasks),
        ("everything_is_allowed_by_a_star", star),
        ("outside_processes_are_untouched", outside),
    ],
};

const SKILL: &str = "talker";
/// Fixed, because the policy names them: below the ephemeral range, so that nothing else has taken them.
const PORT: u16 = 18_080;
const OTHER: u16 = 18_081;

#[expect(clippy::unnecessary_wraps, reason = "the signature of every suite's policy")]
fn policy(_: &Scene) -> anyhow::Result<String> {
    Ok(format!(
        "version: 1\naudit_level: strict\nskills:\n  {SKILL}:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    \
         network_scope:\n      - 127.0.0.1:{PORT}\n      - \"[::1]:{PORT}\"\n      - 127.1.2.0/24:{PORT}\n      \
         - 127.0.0.3:{PORT}/tcp\n      - 127.255.255.255:{PORT}\n      - 127.0.0.4:{PORT}/udp\n      \
         - \"[fe80::a1]:{PORT}\"\n    reason: talk to port {PORT} alone\n  \
         open-line:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    network_scope: [\"*\"]\n  \
         v4-line:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    network_scope: [\"0.0.0.0/0:{PORT}\"]\n  \
         v6-line:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    network_scope: [\"[::/0]:{PORT}\"]\n  \
         both-lines:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    \
         network_scope: [\"0.0.0.0/0:{PORT}\", \"[::/0]:{PORT}\"]\n"
    ))
}

/// The act reaches the server.
fn reaches(scene: &Scene, act: &[&str], server: &Server) -> anyhow::Result<()> {
    scene.act(SKILL, act)?.done()?;
    server.got(TOKEN)
}

/// The act is refused, does not reach the server, and is in the stream with this address and port.
fn refused(scene: &Scene, act: &[&str], server: &Server, address: &str) -> anyhow::Result<()> {
    let mark = scene.mark();
    scene.act(SKILL, act)?.refused()?;
    server.nothing()?;
    let event = scene.events().wait(mark, &format!("a refusal of {address}"), |e| {
        e.text("kind") == "connect" && e.text("verdict") == "deny" && e.object("address") == address
    })?;
    ensure!(event.port() == u64::from(server.port()), "the port is {}", event.port());
    ensure!(event.text("reason") == "destination not listed", "the reason is {:?}", event.text("reason"));
    ensure!(["tcp", "udp"].contains(&event.object("protocol")), "{}", event.0);
    ensure!(["inet", "inet6"].contains(&event.object("family")), "{}", event.0);
    Ok(())
}

fn v4(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    let mark = scene.mark();
    reaches(scene, &["tcp", &good.at()], &good)?;
    let event =
        scene.events().wait(mark, "the connect", |e| e.text("kind") == "connect" && e.text("verdict") == "allow")?;
    ensure!(event.text("rule") == format!("network_scope: 127.0.0.1:{PORT}"), "the rule is {:?}", event.text("rule"));
    refused(scene, &["tcp", &bad.at()], &bad, "127.0.0.2")?;
    reaches(scene, &["udp", &good.at()], &good)?;
    refused(scene, &["udp", &bad.at()], &bad, "127.0.0.2")
}

fn v6(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("::1", PORT)?, Server::start("::1", OTHER)?);
    reaches(scene, &["tcp", &good.at()], &good)?;
    refused(scene, &["tcp", &bad.at()], &bad, "::1")?;
    reaches(scene, &["udp", &good.at()], &good)?;
    refused(scene, &["udp", &bad.at()], &bad, "::1")
}

fn port(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.1", OTHER)?);
    reaches(scene, &["tcp", &good.at()], &good)?;
    refused(scene, &["tcp", &bad.at()], &bad, "127.0.0.1")
}

fn prefix(scene: &Scene) -> anyhow::Result<()> {
    for inside in ["127.1.2.0", "127.1.2.7", "127.1.2.255"] {
        let good = Server::start(inside, PORT)?;
        reaches(scene, &["tcp", &good.at()], &good)?;
    }
    for beside in ["127.1.1.255", "127.1.3.0"] {
        let bad = Server::start(beside, PORT)?;
        refused(scene, &["tcp", &bad.at()], &bad, beside)?;
    }
    Ok(())
}

fn protocol(scene: &Scene) -> anyhow::Result<()> {
    let (tcp, udp) = (Server::start("127.0.0.3", PORT)?, Server::start("127.0.0.4", PORT)?);
    reaches(scene, &["tcp", &tcp.at()], &tcp)?;
    refused(scene, &["udp", &tcp.at()], &tcp, "127.0.0.3")?;
    refused(scene, &["sendto", &tcp.at()], &tcp, "127.0.0.3")?;
    reaches(scene, &["udp", &udp.at()], &udp)?;
    refused(scene, &["tcp", &udp.at()], &udp, "127.0.0.4")
}

fn mapped(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    let at = |ip: &str| format!("[::ffff:{ip}]:{PORT}");
    for act in ["tcp", "udp", "sendto", "sendmsg"] {
        reaches(scene, &[act, &at("127.0.0.1")], &good)?;
        refused(scene, &[act, &at("127.0.0.2")], &bad, "127.0.0.2")?;
    }
    Ok(())
}

fn datagrams(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.1", OTHER)?);
    let (good6, bad6) = (Server::start("::1", PORT)?, Server::start("::1", OTHER)?);
    for act in ["sendto", "sendmsg", "sendmmsg"] {
        reaches(scene, &[act, &good.at()], &good)?;
        refused(scene, &[act, &bad.at()], &bad, "127.0.0.1")?;
        reaches(scene, &[act, &good6.at()], &good6)?;
        refused(scene, &[act, &bad6.at()], &bad6, "::1")?;
    }
    Ok(())
}

/// What is allowed is in the stream once, whichever programs have seen it.
fn told_once(scene: &Scene, act: &[&str], server: &Server) -> anyhow::Result<()> {
    let mark = scene.mark();
    reaches(scene, act, server)?;
    let is_it = |e: &Event| e.text("kind") == "connect" && e.port() == u64::from(server.port());
    let event = scene.events().wait(mark, &format!("the connect of {act:?}"), is_it)?;
    ensure!(event.text("verdict") == "allow", "{}", event.0);
    ensure!(event.text("rule") == format!("network_scope: {}", server.at()), "{}", event.0);
    // A second one would be there when what happened later is.
    scene.act(SKILL, &["tcp", "127.0.0.2:1"])?.refused()?;
    scene.events().wait(mark, "what came later", |e| e.port() == 1)?;
    let all = scene.events().since(mark);
    ensure!(all.iter().filter(|e| is_it(e)).count() == 1, "{act:?}: {all:?}");
    Ok(())
}

fn fast_open(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    let (good6, bad6) = (Server::start("::1", PORT)?, Server::start("::1", OTHER)?);
    reaches(scene, &["fastopen", &good.at()], &good)?;
    refused(scene, &["fastopen", &bad.at()], &bad, "127.0.0.2")?;
    reaches(scene, &["fastopen", &good6.at()], &good6)?;
    refused(scene, &["fastopen", &bad6.at()], &bad6, "::1")?;
    // `TCP_FASTOPEN_CONNECT`: the connect is put off until something is sent.
    reaches(scene, &["fastopen-connect", &good.at()], &good)?;
    refused(scene, &["fastopen-connect", &bad.at()], &bad, "127.0.0.2")?;
    reaches(scene, &["fastopen-connect", &good6.at()], &good6)?;
    refused(scene, &["fastopen-connect", &bad6.at()], &bad6, "::1")?;
    for server in [&good, &good6] {
        for act in ["tcp", "fastopen", "fastopen-connect", "udp", "sendto"] {
            told_once(scene, &[act, &server.at()], server)?;
        }
    }
    Ok(())
}

/// The kernel keeps the destination and connects when something is sent, which may name another.
fn put_off(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    let (good6, bad6) = (Server::start("::1", PORT)?, Server::start("::1", OTHER)?);
    for (good, bad, ip) in [(&good, &bad, "127.0.0.2"), (&good6, &bad6, "::1")] {
        told_once(scene, &["put-off", &good.at()], good)?;
        refused(scene, &["put-off", &bad.at()], bad, ip)?;
        // The other name plays no part.
        scene.act(SKILL, &["put-off-then-to", &good.at(), &bad.at()])?.done()?;
        good.got(TOKEN)?;
        bad.nothing()?;
        refused(scene, &["put-off-then-to", &bad.at(), &good.at()], bad, ip)?;
        good.nothing()?;
    }
    Ok(())
}

fn io_uring(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    let (good6, bad6) = (Server::start("::1", PORT)?, Server::start("::1", OTHER)?);
    for way in ["uring", "uring-worker", "uring-sqpoll"] {
        reaches(scene, &[way, "tcp", &good.at()], &good)?;
        refused(scene, &[way, "tcp", &bad.at()], &bad, "127.0.0.2")?;
        reaches(scene, &[way, "tcp", &good6.at()], &good6)?;
        refused(scene, &[way, "tcp", &bad6.at()], &bad6, "::1")?;
    }
    Ok(())
}

/// Datagrams by the operations that take an address, and what opens a connection by sending.
fn io_uring_sends(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    let (good6, bad6) = (Server::start("::1", PORT)?, Server::start("::1", OTHER)?);
    for way in ["uring", "uring-worker", "uring-sqpoll"] {
        for act in ["send", "send-zc", "fastopen"] {
            let mark = scene.mark();
            reaches(scene, &[way, act, &good.at()], &good)?;
            scene.events().wait(mark, "what is allowed", |e| {
                e.text("verdict") == "allow" && e.text("rule") == format!("network_scope: 127.0.0.1:{PORT}")
            })?;
            refused(scene, &[way, act, &bad.at()], &bad, "127.0.0.2")?;
            reaches(scene, &[way, act, &good6.at()], &good6)?;
            refused(scene, &[way, act, &bad6.at()], &bad6, "::1")?;
        }
    }
    Ok(())
}

/// Linux takes `0.0.0.0` and `::` for the host itself; a rule for 127.0.0.1 does not name them.
fn unspecified(scene: &Scene) -> anyhow::Result<()> {
    let (good, good6) = (Server::start("127.0.0.1", PORT)?, Server::start("::1", PORT)?);
    scene.act(SKILL, &["tcp", &format!("0.0.0.0:{PORT}")])?.refused()?;
    good.nothing()?;
    scene.act(SKILL, &["tcp", &format!("[::]:{PORT}")])?.refused()?;
    good6.nothing()?;
    scene.outside(&["tcp", &format!("0.0.0.0:{PORT}")])?.done()?;
    good.got(TOKEN)
}

/// `::` may lead to 127.0.0.1: from a socket that is bound to a v4-mapped address (`net/ipv6/tcp_ipv6.c: tcp_v6_connect`).
fn unspecified_listed(scene: &Scene) -> anyhow::Result<()> {
    let (v4, v6) = (Server::start("127.0.0.1", PORT)?, Server::start("::1", PORT)?);
    let (any4, any6) = (format!("0.0.0.0:{PORT}"), format!("[::]:{PORT}"));
    for act in ["tcp", "sendto"] {
        scene.act("v4-line", &[act, &any4])?.done()?;
        v4.got(TOKEN)?;
        scene.act("v6-line", &[act, &format!("[::1]:{PORT}")])?.done()?;
        v6.got(TOKEN)?;
        scene.act("v6-line", &[act, &any6])?.refused()?;
        scene.act("both-lines", &[act, &any6])?.done()?;
        v6.got(TOKEN)?;
    }
    scene.act("v6-line", &["tcp-from", "[::ffff:127.0.0.1]:0", &any6])?.refused()?;
    v4.nothing()?;
    scene.act("both-lines", &["tcp-from", "[::ffff:127.0.0.1]:0", &any6])?.done()?;
    v4.got(TOKEN)
}

fn broadcast(scene: &Scene) -> anyhow::Result<()> {
    let everywhere = std::net::UdpSocket::bind(format!("0.0.0.0:{PORT}"))?;
    everywhere.set_read_timeout(Some(std::time::Duration::from_millis(500)))?;
    let got = || {
        let mut buffer = [0; 64];
        everywhere.recv(&mut buffer).is_ok_and(|len| &buffer[..len] == TOKEN.as_bytes())
    };
    scene.act(SKILL, &["broadcast", &format!("127.255.255.255:{PORT}")])?.done()?;
    ensure!(got(), "the listed broadcast did not arrive");
    let others = ["127.255.255.254", "255.255.255.255", "224.0.0.1"].map(|ip| format!("{ip}:{PORT}"));
    let others6 = ["fe80::1%1", "ff02::1%1"].map(|ip| format!("[{ip}]:{PORT}"));
    for address in others.iter().chain(&others6) {
        let mark = scene.mark();
        scene.act(SKILL, &["broadcast", address])?.refused()?;
        scene.events().wait(mark, address, |e| e.text("kind") == "connect" && e.text("verdict") == "deny")?;
        // There may be no way to them, but nobody refuses.
        let outcome = scene.act("open-line", &["broadcast", address])?;
        ensure!(outcome.status != libc::EPERM, "{outcome:?}");
    }
    while got() {}
    scene.act(SKILL, &["broadcast", &others[0]])?.refused()?;
    ensure!(!got(), "a broadcast that is not listed arrived");
    Ok(())
}

/// Of two addresses on one link one is listed: every way to write the link is the same to the rules.
fn scoped(scene: &Scene) -> anyhow::Result<()> {
    const LINK: &str = "scoped0";
    command(&["ip", "link", "delete", LINK])?;
    succeed(&["ip", "link", "add", LINK, "type", "dummy"])?;
    for ip in ["fe80::a1/64", "fe80::a2/64"] {
        succeed(&["ip", "address", "add", ip, "dev", LINK, "nodad"])?;
    }
    succeed(&["ip", "link", "set", LINK, "up"])?;
    let scope = crate::harness::network::index(LINK)?;
    let start = |ip: &str| Server::start_at(format!("[{ip}%{scope}]:{PORT}").parse()?);
    let (good, bad) = (start("fe80::a1")?, start("fe80::a2")?);
    for act in ["tcp", "fastopen", "udp", "sendto", "sendmsg", "sendmmsg"] {
        let mark = scene.mark();
        reaches(scene, &[act, &good.at()], &good)?;
        let event = scene.events().wait(mark, "what is allowed", |e| {
            e.text("kind") == "connect" && e.text("verdict") == "allow" && e.object("address") == "fe80::a1"
        })?;
        ensure!(event.text("rule") == format!("network_scope: [fe80::a1]:{PORT}"), "{}", event.0);
        refused(scene, &[act, &bad.at()], &bad, "fe80::a2")?;
        scene.outside(&[act, &bad.at()])?.done()?;
        bad.got(TOKEN)?;
    }
    succeed(&["ip", "link", "delete", LINK]).map(drop)
}

fn datagram_ways(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    for act in [
        &["udp-unspec"][..],
        &["connect-v4-on-v6"],
        &["sendto-v4-on-v6"],
        &["uring", "sendmsg"],
        &["uring-worker", "sendmsg"],
        &["uring-sqpoll", "sendmsg"],
    ] {
        reaches(scene, &[act, &[&good.at()]].concat(), &good)?;
        refused(scene, &[act, &[&bad.at()]].concat(), &bad, "127.0.0.2")?;
    }
    reaches(scene, &["udp-then-to", &good.at(), &good.at()], &good)?;
    refused(scene, &["udp-then-to", &good.at(), &bad.at()], &bad, "127.0.0.2")?;
    // An address of no family dissolves an association and reaches nobody.
    scene.act(SKILL, &["dissolve", &good.at()])?.done()?;
    Ok(())
}

/// One call, two destinations: what may be sent before the refusal is, and nothing after it.
fn two(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    let also = Server::start("127.1.2.7", PORT)?;
    let sent = |first: &Server, second: &Server| {
        let outcome = scene.act(SKILL, &["sendmmsg-two", &first.at(), &second.at()])?;
        anyhow::Ok(outcome.done()?.out.trim().to_owned())
    };
    ensure!(sent(&good, &also)? == "2", "not both were sent");
    good.got(TOKEN)?;
    also.got(TOKEN)?;
    let mark = scene.mark();
    ensure!(sent(&good, &bad)? == "1", "not one was sent");
    good.got(TOKEN)?;
    bad.nothing()?;
    scene.events().wait(mark, "the refusal", |e| e.text("verdict") == "deny" && e.object("address") == "127.0.0.2")?;
    scene.act(SKILL, &["sendmmsg-two", &bad.at(), &good.at()])?.refused()?;
    bad.nothing()?;
    good.nothing()
}

/// A policy with so many prefixes: every second address from 127.64.0.0 on.
fn prefixes(count: u32) -> String {
    let mut text = format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    network_scope:\n"
    );
    for n in 0..count {
        let [_, b, c, d] = (n * 2).to_be_bytes();
        text.extend(["      - 127.".to_owned(), format!("{}.{c}.{d}:{PORT}\n", 64 + b)]);
    }
    text
}

/// The first, one in the midst, the last, and what lies between. What a connect costs grows with the depth of the tree, which is
/// bounded by the length of an address, and not with the number of prefixes.
fn many(scene: &Scene) -> anyhow::Result<()> {
    scene.daemon(|d| d.reload(&prefixes(100_000)))?;
    for (listed, beside) in
        [("127.64.0.0", "127.64.0.1"), ("127.65.134.160", "127.65.134.161"), ("127.67.13.62", "127.67.13.64")]
    {
        let (good, bad) = (Server::start(listed, PORT)?, Server::start(beside, PORT)?);
        for act in ["tcp", "sendto"] {
            scene.act(SKILL, &[act, &good.at()])?.done()?;
            good.got(TOKEN)?;
            scene.act(SKILL, &[act, &bad.at()])?.refused()?;
            bad.nothing()?;
        }
    }
    let before = policy(scene)?;
    scene.daemon(|d| d.reload(&before)).map(drop)
}

fn sockets(scene: &Scene) -> anyhow::Result<()> {
    let n = |number: i32| number.to_string();
    let cases = [
        ("a raw socket", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        ("a raw IPv6 socket", libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
        ("a raw TCP socket", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP),
        ("a packet socket", libc::AF_PACKET, libc::SOCK_RAW, 0x0300),
        ("a ping socket", libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        ("a generic netlink socket", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_GENERIC),
        ("an AF_ALG socket", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        ("a vsock socket", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
    ];
    for (what, family, kind, protocol) in cases {
        let mark = scene.mark();
        let act = ["socket", &n(family), &n(kind), &n(protocol)];
        let outcome = scene.act(SKILL, &act)?;
        ensure!(outcome.status == libc::EPERM, "{what}: {outcome:?}");
        scene.events().wait(mark, what, |e| e.text("kind") == "socket" && e.text("verdict") == "deny")?;
    }
    let route = ["socket", &n(libc::AF_NETLINK), &n(libc::SOCK_RAW), "0"];
    scene.act(SKILL, &route)?.done()?;
    scene.act(SKILL, &["socket", &n(libc::AF_UNIX), &n(libc::SOCK_STREAM), "0"])?.done()?;
    scene.outside(&["socket", &n(libc::AF_INET), &n(libc::SOCK_RAW), &n(libc::IPPROTO_ICMP)])?.done()?;
    scene.outside(&["socket", &n(libc::AF_PACKET), &n(libc::SOCK_RAW), &n(0x0300)])?.done()?;
    Ok(())
}

/// Opened by an ungoverned process, connected by a governed one.
fn inherited(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        let socket = || {
            // SAFETY: no pointers; the descriptor is new and nobody else's.
            let fd = unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0) };
            ensure!(fd >= 0, "no socket");
            // SAFETY: as above.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        };
        let outcome = act_with(socket()?, SKILL, &["connect-fd", "0", &good.at()])?;
        ensure!(outcome.status == 0, "{outcome:?}");
        good.got(TOKEN)?;
        let mark = scene.mark();
        let outcome = act_with(socket()?, SKILL, &["connect-fd", "0", &bad.at()])?;
        ensure!(outcome.status == libc::EPERM, "{outcome:?}");
        bad.nothing()?;
        scene
            .events()
            .wait(mark, "a refusal", |e| e.text("verdict") == "deny" && e.object("address") == "127.0.0.2")?;
    }
    Ok(())
}

fn tasks(scene: &Scene) -> anyhow::Result<()> {
    let (good, bad) = (Server::start("127.0.0.1", PORT)?, Server::start("127.0.0.2", PORT)?);
    let (good_at, bad_at) = (good.at(), bad.at());
    for way in [&["thread"][..], &["double-fork"], &["vfork"], &["user", "1000"], &["unshare", "user"]] {
        reaches(scene, &[way, &["tcp", &good_at]].concat(), &good)?;
        refused(scene, &[way, &["tcp", &bad_at]].concat(), &bad, "127.0.0.2")?;
    }
    Ok(())
}

fn star(scene: &Scene) -> anyhow::Result<()> {
    let anywhere = Server::start("127.9.9.9", OTHER)?;
    scene.act("open-line", &["tcp", &anywhere.at()])?.done()?;
    anywhere.got(TOKEN)?;
    let n = |number: i32| number.to_string();
    scene.act("open-line", &["socket", &n(libc::AF_INET), &n(libc::SOCK_RAW), &n(libc::IPPROTO_ICMP)])?.done()?;
    Ok(())
}

fn outside(scene: &Scene) -> anyhow::Result<()> {
    let bad = Server::start("127.0.0.2", PORT)?;
    for act in ["tcp", "udp", "sendto", "fastopen", "sendmsg"] {
        scene.outside(&[act, &bad.at()])?.done()?;
        bad.got(TOKEN)?;
    }
    Ok(())
}
