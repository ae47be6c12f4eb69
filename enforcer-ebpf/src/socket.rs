//! Sockets: which there may be, where they take connections, what is set on them, and those that were made elsewhere.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_seq_write, macros::lsm, programs::LsmContext};
use enforcer_common::{
    decide::{self, Decision, Destination},
    event::Kind,
    ids::SkillId,
    net::{
        AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, Address, FoundSocket, IPPROTO_TCP, IPPROTO_UDP, SocketLabel, socket_kind,
    },
};

use crate::{
    kernel::{File, NetlinkHeader, Skb, Sock, Socket, Task},
    maps::ENROL,
    net::read_sockaddr,
    opaque,
    policy::InForce,
    repeat::{Steps, Then, repeat},
    report::{self, Object},
    subject,
    task::IterTaskFile,
    unix, verdict,
};

/// `security_socket_create(family, type, protocol, kern)`.
#[lsm(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let (family, socket_type, protocol, kern): (i32, i32, i32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3));
    // A socket that the kernel makes for itself while the task runs is not the task's.
    if kern != 0 {
        return verdict::pass();
    }
    verdict::of(refuses(skill, family as u16, socket_type as u16, protocol as u16))
}

/// `security_socket_post_create(sock, family, type, protocol, kern)`: from here on the socket is known to be the skill's own.
#[lsm(hook = "socket_post_create")]
pub fn socket_post_create(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let kern: i32 = ctx.arg(4);
    let sock = Socket::new(ctx.arg(0)).sock();
    if kern == 0 && !sock.is_null() {
        sock.note(SocketLabel { skill, kind: socket_kind::MADE });
    }
    verdict::pass()
}

/// Decides and reports a kind of socket; true when it is refused.
#[inline(always)]
fn refuses(skill: SkillId, family: u16, socket_type: u16, protocol: u16) -> bool {
    let rules = InForce::now();
    let decision = decide::socket(&rules, skill, family, socket_type, protocol);
    let object = Object::Socket { family, socket_type, protocol };
    report::decision(Kind::Socket, skill, rules.generation, &decision, &object)
}

/// The same for a socket that there is.
#[inline(always)]
pub fn refuses_kind(skill: SkillId, sock: Sock) -> bool {
    refuses(skill, sock.family(), sock.kind(), sock.protocol())
}

/// Whether a socket is one for which `listen` has rules.
#[inline(always)]
fn takes(sock: Sock) -> bool {
    !sock.is_null()
        && matches!(sock.family(), AF_INET | AF_INET6)
        && matches!(sock.protocol(), IPPROTO_TCP | IPPROTO_UDP)
}

/// `security_socket_bind(sock, address, addrlen)`; the address is the kernel's copy.
#[lsm(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let sock = Socket::new(ctx.arg(0)).sock();
    if !takes(sock) {
        return verdict::pass();
    }
    let address: *const c_void = ctx.arg(1);
    let (address, port) = match read_sockaddr(address, ctx.arg(2)) {
        Some((_, address, port)) => (address, port),
        // Of IPv4 this is the unspecified address (`net/ipv4/af_inet.c: __inet_bind`); IPv6 refuses it.
        None => (Address::from_v4([0; 4]), unspecified_port(address)),
    };
    let local = Destination { address, port, protocol: sock.protocol() };
    let rules = InForce::now();
    let decision = decide::bind(&rules, skill, &local);
    let object = Object::Destination { destination: &local, family: sock.family() };
    verdict::of(report::decision(Kind::Bind, skill, rules.generation, &decision, &object))
}

/// The port of an address of no family; of another family it is never used.
#[inline(always)]
fn unspecified_port(address: *const c_void) -> u16 {
    match NetlinkHeader::read(address as u64) {
        // Two numbers of 16 bits: the family and, in network order, the port.
        Some(header) if header.len as u16 == AF_UNSPEC => u16::from_be((header.len >> 16) as u16),
        _ => 0,
    }
}

/// `security_socket_listen(sock, backlog)`: the socket may have a port that the kernel chose, or be about to get one.
#[lsm(hook = "socket_listen")]
pub fn socket_listen(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let sock = Socket::new(ctx.arg(0)).sock();
    if !takes(sock) {
        return verdict::pass();
    }
    let local = sock.local();
    let rules = InForce::now();
    let decision = decide::listen(&rules, skill, &local);
    let object = Object::Destination { destination: &local, family: sock.family() };
    verdict::of(report::decision(Kind::Listen, skill, rules.generation, &decision, &object))
}

/// `security_socket_setsockopt(sock, level, optname)`.
#[lsm(hook = "socket_setsockopt")]
pub fn socket_setsockopt(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let sock = Socket::new(ctx.arg(0)).sock();
    if sock.is_null() || !matches!(sock.family(), AF_INET | AF_INET6) {
        return verdict::pass();
    }
    let rules = InForce::now();
    let decision = decide::option(&rules, skill, ctx.arg(1), ctx.arg(2));
    verdict::of(reported(skill, &rules, &decision, sock))
}

/// `security_netlink_send(sk, skb)`.
#[lsm(hook = "netlink_send")]
pub fn netlink_send(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let sock = Sock::new(ctx.arg(0));
    let rules = InForce::now();
    let decision = decide::netlink(&rules, skill, sock.protocol(), changes_the_network(Skb::new(ctx.arg(1))));
    verdict::of(reported(skill, &rules, &decision, sock))
}

/// Reports a decision about a socket; true when it refuses.
#[inline(always)]
fn reported(skill: SkillId, rules: &InForce, decision: &Decision, sock: Sock) -> bool {
    report::decision(Kind::Socket, skill, rules.generation, decision, &as_object(sock))
}

/// A socket as events name it when no address tells more.
#[inline(always)]
fn as_object<'a>(sock: Sock) -> Object<'a> {
    Object::Socket { family: sock.family(), socket_type: sock.kind(), protocol: sock.protocol() }
}

/// How many requests one message may hold; with more it counts as a change.
const MAX_REQUESTS: u32 = 256;

/// Where the walk over the requests of a message is.
struct Requests {
    at: u64,
    left: u32,
    changes: u32,
}

/// Whether a message of route netlink holds a request that is no question. Requests come in fours: new, delete, get, set
/// (`include/uapi/linux/rtnetlink.h`); the kernel takes one after another (`net/netlink/af_netlink.c: netlink_rcv_skb`).
#[inline(always)]
fn changes_the_network(message: Skb) -> bool {
    let (at, left) = message.data();
    // What remains when the loop has run out.
    let mut requests = Requests { at, left, changes: 1 };
    repeat(&mut requests);
    requests.changes != 0
}

impl Steps for Requests {
    const LIMIT: u32 = MAX_REQUESTS;

    /// One request.
    #[inline(always)]
    fn step(&mut self) -> Then {
        const HEADER: u32 = 16;
        /// Below this a message is one of netlink's own, which the kernel skips (`NLMSG_MIN_TYPE`).
        const FIRST: u16 = 0x10;
        /// The place of "get" in its four.
        const GET: u16 = 2;
        let header = if self.left < HEADER { None } else { NetlinkHeader::read(self.at) };
        let Some(header) = header.filter(|h| h.len >= HEADER && h.len <= self.left) else {
            // The kernel stops here, too.
            self.changes = 0;
            return Then::Stop;
        };
        if header.kind >= FIRST && header.kind & 3 != GET {
            return Then::Stop;
        }
        let step = (u64::from(header.len) + 3) & !3;
        self.at += step;
        self.left = self.left.saturating_sub(step as u32);
        Then::GoOn
    }
}

/// `security_file_receive(file)` again, for sockets: a program of its own, because both would not fit on one stack.
#[lsm(hook = "file_receive")]
pub fn receive_socket(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    verdict::of(refuses_arrival(skill, File::new(ctx.arg(0))))
}

/// Decides and reports a socket that was made elsewhere; true when it is refused. What the skill made itself was decided
/// about when it was made and connected.
#[inline(always)]
fn refuses_arrival(skill: SkillId, file: File) -> bool {
    let socket = Socket::of_file(file);
    if socket.is_null() {
        return false;
    }
    let sock = socket.sock();
    if sock.is_null() || sock.is_of(skill) {
        return false;
    }
    if sock.family() == AF_UNIX {
        return unix::refuses_peer(skill, sock);
    }
    refuses_kind_of_arrival(skill, sock) || (takes(sock) && refuses_endpoint(skill, sock))
}

/// Decides and reports the kind of a socket that was made elsewhere. Functions of their own in the object, this and those below: for
/// the stack, and because the verifier forgets between them what it knows of a socket, which is read anew.
#[inline(never)]
fn refuses_kind_of_arrival(skill: SkillId, sock: Sock) -> bool {
    let rules = InForce::now();
    let decision = decide::socket(&rules, skill, sock.family(), sock.kind(), sock.protocol());
    report::decision(Kind::Receive, skill, rules.generation, &decision, &as_object(sock))
}

/// Decides and reports the ends of a TCP or UDP socket that was made elsewhere.
#[inline(never)]
fn refuses_endpoint(skill: SkillId, sock: Sock) -> bool {
    let found = sock.endpoint();
    let rules = InForce::now();
    let decision = decide::arrival(&rules, skill, &found);
    let object = Object::Destination { destination: &opaque::destination(found.end()), family: sock.family() };
    report::decision(Kind::Receive, skill, rules.generation, &decision, &object)
}

/// Looks at the sockets of the process that `ENROL` names, or, when it names none, of every governed process: what the rules do
/// not allow is written to the iterator's output, a [`FoundSocket`] each. Of a process that is entering each makes an event.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn inspect_sockets(ctx: *const IterTaskFile) -> i32 {
    // SAFETY: the kernel calls the program with such a context; task and file are null at the end of the iteration.
    let (task, file, fd) = unsafe { (Task::new((*ctx).task), File::new((*ctx).file), (*ctx).fd) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    let Some(request) = ENROL.get_ptr_mut(0) else { return 0 };
    // SAFETY: the daemon runs one iteration at a time and reads the counts after it has ended.
    let (tgid, entering) = unsafe { ((*request).tgid, (*request).skill) };
    let skill = if tgid == 0 {
        let Some(skill) = subject::of(task) else { return 0 };
        skill
    } else if task.tgid() == tgid {
        entering
    } else {
        return 0;
    };
    let is_entering = opaque::truth(tgid != 0);
    let socket = Socket::of_file(file);
    if !skill.governs() || socket.is_null() {
        return 0;
    }
    let sock = socket.sock();
    if sock.is_null() {
        return 0;
    }
    let label = sock.label().filter(|label| label.skill == skill);
    // The standard streams are the operator's choice, unless they are the skill's own work.
    let concerned = opaque::truth(match label {
        None => fd > 2,
        Some(label) => !is_entering && label.kind != socket_kind::WITHIN,
    });
    let refused = concerned
        && if sock.family() == AF_UNIX {
            unix::refuses_found(skill, sock, task, is_entering)
        } else {
            refuses_kind_found(skill, sock, task, is_entering)
                || (takes(sock) && refuses_endpoint_found(skill, sock, task, is_entering))
        };
    if refused {
        // SAFETY: as above.
        unsafe { (*request).violations += 1 };
        tell(ctx, skill, sock, task, file);
    }
    0
}

/// Decides about the kind of a socket that a process has; true when it is refused.
#[inline(never)]
fn refuses_kind_found(skill: SkillId, sock: Sock, task: Task, entering: bool) -> bool {
    let rules = InForce::now();
    let decision = decide::socket(&rules, skill, sock.family(), sock.kind(), sock.protocol());
    report::found(Kind::Receive, skill, rules.generation, &decision, task, &as_object(sock), entering)
}

/// Decides about the ends of a TCP or UDP socket that a process has; true when it is refused.
#[inline(never)]
fn refuses_endpoint_found(skill: SkillId, sock: Sock, task: Task, entering: bool) -> bool {
    let found = sock.endpoint();
    // A client's datagram socket has a port that the kernel chose; nothing tells it from a server's.
    if !entering && !found.is_connected() && !found.is_listening() {
        return false;
    }
    let rules = InForce::now();
    let decision = decide::arrival(&rules, skill, &found);
    let object = Object::Destination { destination: &opaque::destination(found.end()), family: sock.family() };
    report::found(Kind::Receive, skill, rules.generation, &decision, task, &object, entering)
}

/// Writes a record for the daemon.
#[inline(never)]
fn tell(ctx: *const IterTaskFile, skill: SkillId, sock: Sock, task: Task, file: File) {
    let found = sock.endpoint();
    let at = opaque::destination(found.end());
    let record = FoundSocket {
        ino: file.dentry().inode().ino(),
        tid: task.pid(),
        tgid: task.tgid(),
        // SAFETY: the kernel's context, as above.
        fd: unsafe { (*ctx).fd },
        skill,
        address: at.address,
        port: at.port,
        family: sock.family(),
        socket_type: sock.kind(),
        protocol: at.protocol,
    };
    // SAFETY: the context's output; the record has no padding. A full output runs the program again for this file.
    unsafe { bpf_seq_write((*(*ctx).meta).seq.cast(), (&raw const record).cast(), size_of::<FoundSocket>() as u32) };
}
