//! Connect: two nets, one core.
//!
//! The LSM hooks see the acting task, every family, and `io_uring`; the cgroup programs see the final address, TCP fast open
//! and datagrams. Both ask the same function. Of TCP and UDP the LSM hook reports what it refuses alone: what it lets pass comes to
//! the cgroup programs, as fast open does that no LSM hook sees, so that a connection makes one event.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::{cgroup_sock_addr, lsm},
    programs::{LsmContext, SockAddrContext},
};
use enforcer_common::{
    decide::{self, Destination},
    event::Kind,
    ids::SkillId,
    net::{AF_INET, AF_INET6, Address, IPPROTO_TCP, IPPROTO_UDP},
};

use crate::{
    kernel::{Sock, Socket},
    opaque,
    policy::InForce,
    report::{self, Object},
    socket, subject, verdict,
};

/// A socket of packets, whatever their protocol: no cgroup program sees its connect.
const SOCK_RAW: u16 = 3;

/// `security_socket_connect(sock, address, addrlen)`; the address is the kernel's copy. What is no IP address is refused by an IP
/// socket (`net/ipv4/af_inet.c`, `net/ipv6/datagram.c`), or dissolves its association.
#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::current() else { return verdict::pass() };
    let sock = Socket::new(ctx.arg(0)).sock();
    if sock.is_null() {
        return verdict::pass();
    }
    if !matches!(sock.family(), AF_INET | AF_INET6) {
        return verdict::of(socket::refuses_kind(skill, sock));
    }
    let Some((family, address, port)) = read_sockaddr(ctx.arg(1), ctx.arg(2)) else { return verdict::pass() };
    let destination = Destination { address, port, protocol: sock.protocol() };
    let comes_again = sock.kind() != SOCK_RAW && matches!(destination.protocol, IPPROTO_TCP | IPPROTO_UDP);
    verdict::of(refuses_connect(skill, &destination, family, comes_again))
}

/// Reads an IPv4 or IPv6 socket address. `None` for other families and for what is too short to be one, which the
/// protocol itself refuses with EINVAL.
#[inline(always)]
pub fn read_sockaddr(address: *const c_void, len: i32) -> Option<(u16, Address, u16)> {
    /// `struct sockaddr_in6`: family 2, port 2, flow label 4, address 16.
    const SOCKADDR_IN6: usize = 24;
    const SOCKADDR_IN: i32 = 8;
    let mut bytes = MaybeUninit::<[u8; SOCKADDR_IN6]>::uninit();
    // SAFETY: `sockaddr_storage` of the system call lies behind the pointer, which is larger than either; the helper writes all
    // of it, zeros when it cannot read (`kernel/trace/bpf_trace.c: bpf_probe_read_kernel_common`).
    let bytes = unsafe {
        bpf_probe_read_kernel(bytes.as_mut_ptr().cast(), SOCKADDR_IN6 as u32, address.cast());
        bytes.assume_init()
    };
    let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let address = match family {
        AF_INET if len >= SOCKADDR_IN => Address::from_v4([bytes[4], bytes[5], bytes[6], bytes[7]]),
        AF_INET6 if len >= SOCKADDR_IN6 as i32 => {
            let mut address = [0u8; 16];
            address.copy_from_slice(&bytes[8..24]);
            Address(address)
        }
        _ => return None,
    };
    Some((opaque::number(u64::from(family)) as u16, opaque::address(address), port))
}

/// Decides and reports one destination; true when it is refused.
#[inline(always)]
fn refuses_connect(skill: SkillId, destination: &Destination, family: u16, refusals_only: bool) -> bool {
    let rules = InForce::now();
    let mut decision = decide::connect(&rules, skill, destination);
    if refusals_only && !decision.refuses() {
        decision.report = false;
    }
    report::decision(Kind::Connect, skill, rules.generation, &decision, &Object::Destination { destination, family })
}

/// The verdict of a cgroup program: 1 lets the call go on, 0 is EPERM. A TCP socket that is to be connected is noted as such here, where
/// the kernel holds its lock and fast open passes, too.
#[inline(always)]
fn admit(ctx: &SockAddrContext, family: u16, address: Address, connects: bool) -> i32 {
    let Some(skill) = subject::current() else { return 1 };
    // SAFETY: the context is valid while the program runs.
    let (port, protocol) = unsafe { ((*ctx.sock_addr).user_port, (*ctx.sock_addr).protocol) };
    let destination = Destination { address, port: u16::from_be(port as u16), protocol: protocol as u16 };
    let refused = refuses_connect(skill, &destination, family, false);
    if connects && !refused && destination.protocol == IPPROTO_TCP {
        // SAFETY: the context is valid while the program runs, and has a socket (`net/core/filter.c: sock_addr_is_valid_access`).
        Sock::new(unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }.cast_const().cast()).note_outbound();
    }
    i32::from(!refused)
}

/// The IPv4 destination of a cgroup program's context.
#[inline(always)]
fn v4(ctx: &SockAddrContext) -> Address {
    // SAFETY: the context is valid while the program runs.
    Address::from_v4(unsafe { (*ctx.sock_addr).user_ip4 }.to_ne_bytes())
}

/// The IPv6 destination of a cgroup program's context.
#[inline(always)]
fn v6(ctx: &SockAddrContext) -> Address {
    // SAFETY: the context is valid while the program runs.
    let [a, b, c, d] = unsafe {
        [
            (*ctx.sock_addr).user_ip6[0].to_ne_bytes(),
            (*ctx.sock_addr).user_ip6[1].to_ne_bytes(),
            (*ctx.sock_addr).user_ip6[2].to_ne_bytes(),
            (*ctx.sock_addr).user_ip6[3].to_ne_bytes(),
        ]
    };
    Address([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]])
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    admit(&ctx, AF_INET, v4(&ctx), true)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    admit(&ctx, AF_INET6, v6(&ctx), true)
}

/// Datagrams without a connect pass no LSM connect hook.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    admit(&ctx, AF_INET, v4(&ctx), false)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    admit(&ctx, AF_INET6, v6(&ctx), false)
}
