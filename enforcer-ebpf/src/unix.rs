//! Unix sockets: whom a governed process may talk to.
//!
//! The hooks see the socket that was found, so that a path plays no part: its inode does. Sockets that the skill made itself may
//! be reached, and so may those without a name: a pair's other end, or a client that came by itself.

use core::{mem::MaybeUninit, ptr::null};

use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::{
    decide::{self, Decision},
    event::Kind,
    ids::{Generation, SkillId},
    net::{AbstractKey, SocketLabel, socket_kind},
};

use crate::{
    ascent::Ascent,
    clear::clear,
    kernel::{Sock, Socket, Task},
    policy::InForce,
    report::{self, Object},
    subject, verdict,
};

/// `security_unix_stream_connect(sock, other, newsk)`: also of sequenced packets. `newsk` will be the other end.
#[lsm(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let (sock, other, end) = (Sock::new(ctx.arg(0)), Sock::new(ctx.arg(1)), Sock::new(ctx.arg(2)));
    if other.is_of(skill) {
        let label = SocketLabel { skill, kind: socket_kind::WITHIN };
        sock.note(label);
        end.note(label);
        return verdict::pass();
    }
    verdict::of(refuses(skill, other, Kind::Connect))
}

/// `security_unix_may_send(sock, other)`: each datagram, and the connect of a datagram socket.
#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    const SOCK_DGRAM: u16 = 2;
    let Some(skill) = subject::current() else { return verdict::pass() };
    let other = Socket::new(ctx.arg(1));
    if other.is_null() {
        return verdict::pass();
    }
    let other = other.sock();
    // What has a connection was decided about when it was made.
    if other.is_null() || other.kind() != SOCK_DGRAM || other.is_of(skill) {
        return verdict::pass();
    }
    verdict::of(refuses(skill, other, Kind::Connect))
}

/// The peer of a unix socket; null when it has none.
#[inline(always)]
fn peer_of(sock: Sock) -> Sock {
    let own = sock.as_unix();
    if own.is_null() { Sock::new(null()) } else { own.peer() }
}

/// Whether sockets can be told apart. Where they cannot, one that is not known to be the skill's own is as good as on no list.
#[inline(always)]
fn are_known() -> bool {
    // The helper came with 5.16.
    cfg!(not(feature = "elder"))
}

/// Decides and reports the peer of a unix socket that was made elsewhere; true when it is refused.
#[inline(never)]
pub fn refuses_peer(skill: SkillId, sock: Sock) -> bool {
    // Where the peer cannot be found out, it is the socket itself that is not known.
    refuses(skill, if are_known() { peer_of(sock) } else { sock }, Kind::Receive)
}

/// Decides and reports a socket by its name; true when it is refused.
#[inline(always)]
fn refuses(skill: SkillId, other: Sock, kind: Kind) -> bool {
    decided(skill, other, |generation, decision, object| report::decision(kind, skill, generation, decision, object))
}

/// Decides about the peer of a socket that a process has, and reports it when the process is entering.
#[inline(never)]
pub fn refuses_found(skill: SkillId, sock: Sock, task: Task, entering: bool) -> bool {
    // By its connection to the daemon `enforcer run` asks for entry; what a governed process says there the daemon refuses.
    if sock.peer_process().and_then(subject::of) == Some(SkillId::RESOLVER) {
        return false;
    }
    decided(skill, if are_known() { peer_of(sock) } else { sock }, |generation, decision, object| {
        report::found(Kind::Receive, skill, generation, decision, task, object, entering)
    })
}

/// Decides about a socket by its name and tells `report` of it, which says whether it is refused.
#[inline(always)]
fn decided(skill: SkillId, other: Sock, report: impl FnOnce(Generation, &Decision, &Object<'_>) -> bool) -> bool {
    if other.is_null() {
        return false;
    }
    let rules = InForce::now();
    if !are_known() {
        return report(rules.generation, &decide::unix_unknown(&rules, skill), &Object::None);
    }
    let other = other.as_unix();
    if other.is_null() {
        return false;
    }
    let dentry = other.dentry();
    if !dentry.is_null() {
        let decision = decide::unix_path(&rules, skill, &mut Ascent::from(dentry));
        return report(rules.generation, &decision, &Object::UnixPath(dentry));
    }
    let mut key = MaybeUninit::<AbstractKey>::uninit();
    // SAFETY: a key is made of numbers, and all of it is cleared.
    let key = unsafe {
        clear(key.as_mut_ptr());
        key.assume_init_mut()
    };
    key.skill = skill;
    if !other.read_name(key) {
        return false;
    }
    let decision = decide::unix_name(&rules, key);
    report(rules.generation, &decision, &Object::UnixName(key))
}
