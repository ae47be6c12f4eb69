//! Sockets and messages.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_probe_read_kernel, bpf_sk_storage_get, bpf_skc_to_unix_sock, bpf_sock_from_file,
};
use enforcer_common::{
    decide::{Destination, Endpoint},
    ids::SkillId,
    net::{ABSTRACT_NAME, AF_INET6, AbstractKey, Address, SocketLabel, socket_kind},
};

use super::{Dentry, File, OFFSETS, Skb, Sock, Socket, Task, UnixSock, field, load, probe};
use crate::{maps::SOCKETS, opaque};

impl Socket {
    /// The socket behind an open file; null when the file is none.
    #[inline(always)]
    pub fn of_file(file: File) -> Self {
        // SAFETY: a hook's file; the helper looks at its operations.
        Self(unsafe { bpf_sock_from_file(file.as_ptr().cast()) }.cast())
    }

    /// The network half; null when there is none.
    #[inline(always)]
    pub fn sock(self) -> Sock {
        // SAFETY: `socket.sk` is a pointer to a sock or null.
        Sock(unsafe { field(self.0, offset!(socket_sk)) })
    }
}

/// `BPF_SK_STORAGE_GET_F_CREATE`.
const CREATE: u64 = 1;

impl Sock {
    /// The address family.
    #[inline(always)]
    pub fn family(self) -> u16 {
        // SAFETY: a sock begins with a sock_common, whose `skc_family` is an unsigned short.
        unsafe { field(self.0, offset!(sock_skc_family)) }
    }

    /// The type, `SOCK_*`.
    #[inline(always)]
    pub fn kind(self) -> u16 {
        // SAFETY: `sock.sk_type` is a u16.
        unsafe { field(self.0, offset!(sock_sk_type)) }
    }

    /// The protocol, whose meaning depends on the family.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        // SAFETY: `sock.sk_protocol` is a u16.
        unsafe { field(self.0, offset!(sock_sk_protocol)) }
    }

    /// The address at one of two offsets, for IPv4 and IPv6. The families' sockets both have the IPv4 one.
    #[inline(always)]
    fn address(self, v4: usize, v6: usize) -> Address {
        // SAFETY: a sock begins with a sock_common, which has both; 4 and 16 bytes long.
        let address = unsafe {
            if self.family() == AF_INET6 {
                Address(probe(self.0, v6).unwrap_or_default())
            } else {
                Address::from_v4(probe(self.0, v4).unwrap_or_default())
            }
        };
        opaque::address(address)
    }

    /// The address and port of its own.
    #[inline(always)]
    pub fn local(self) -> Destination {
        let address = self.address(offset!(sock_skc_rcv_saddr), offset!(sock_skc_v6_rcv_saddr));
        // SAFETY: `skc_num` is a u16.
        Destination { address, port: unsafe { field(self.0, offset!(sock_skc_num)) }, protocol: self.protocol() }
    }

    /// The peer's address and port.
    #[inline(always)]
    fn peer(self) -> Destination {
        let address = self.address(offset!(sock_skc_daddr), offset!(sock_skc_v6_daddr));
        // SAFETY: `skc_dport` is a u16 in network order.
        let port = u16::from_be(unsafe { field(self.0, offset!(sock_skc_dport)) });
        Destination { address, port, protocol: self.protocol() }
    }

    /// Both ends, for a socket that was made elsewhere.
    #[inline(always)]
    pub fn endpoint(self) -> Endpoint {
        let outbound = self.label().is_some_and(|label| label.kind == socket_kind::OUTBOUND);
        Endpoint {
            // SAFETY: `skc_state` is an unsigned char.
            state: unsafe { field(self.0, offset!(sock_skc_state)) },
            peer: self.peer(),
            local: self.local(),
            outbound: opaque::truth(outbound),
        }
    }

    /// The label, if it was made in a skill.
    #[inline(always)]
    pub fn label(self) -> Option<SocketLabel> {
        // SAFETY: a socket that is alive; without a value the helper reads none.
        let label = unsafe { bpf_sk_storage_get(SOCKETS.as_ptr(), self.as_ptr(), core::ptr::null_mut(), 0) };
        // SAFETY: the value is a label or nothing.
        if label.is_null() { None } else { Some(unsafe { *label.cast::<SocketLabel>() }) }
    }

    /// Whether it was made in this skill.
    #[inline(always)]
    pub fn is_of(self, skill: SkillId) -> bool {
        self.label().is_some_and(|label| label.skill == skill)
    }

    /// Notes that a governed process connects it, whoever has made it. It keeps its skill.
    #[inline(always)]
    pub fn note_outbound(self) {
        let mut label = SocketLabel { skill: SkillId(0), kind: socket_kind::OUTBOUND };
        // SAFETY: a socket that is alive; the helper copies the value.
        let kept = unsafe { bpf_sk_storage_get(SOCKETS.as_ptr(), self.as_ptr(), (&raw mut label).cast(), CREATE) };
        if !kept.is_null() {
            // SAFETY: the value is a label; it may be that of before.
            unsafe { (*kept.cast::<SocketLabel>()).kind = socket_kind::OUTBOUND };
        }
    }

    /// Labels it. Without room it counts as made elsewhere, so that rules decide about it.
    #[inline(always)]
    pub fn note(self, mut label: SocketLabel) {
        // SAFETY: a socket that is alive; the helper copies the value.
        let kept = unsafe { bpf_sk_storage_get(SOCKETS.as_ptr(), self.as_ptr(), (&raw mut label).cast(), CREATE) };
        if !kept.is_null() {
            // SAFETY: the value is a label; it may be that of before.
            unsafe { *kept.cast::<SocketLabel>() = label };
        }
    }

    /// The process at the other end of a unix connection: the one that listened there.
    #[inline(always)]
    pub fn peer_process(self) -> Option<Task> {
        // SAFETY: `sock.sk_peer_pid` is a pointer to a `struct pid` or null.
        unsafe { Task::of_pid(probe(self.0, offset!(sock_sk_peer_pid))?) }
    }

    /// As a unix socket; null when it is none. Not for elder kernels.
    #[inline(always)]
    pub fn as_unix(self) -> UnixSock {
        // SAFETY: the helper looks at the family.
        UnixSock(unsafe { bpf_skc_to_unix_sock(self.as_ptr()) }.cast())
    }
}

impl UnixSock {
    /// Where in the filesystem it lies; null when it does not.
    #[inline(always)]
    pub fn dentry(self) -> Dentry {
        // SAFETY: `unix_sock.path` is an embedded path, which has a pointer to a dentry or null.
        Dentry(unsafe { field(self.0, offset!(unix_sock_path) + offset!(path_dentry)) })
    }

    /// The other end; null when it is not connected.
    #[inline(always)]
    pub fn peer(self) -> Sock {
        // SAFETY: `unix_sock.peer` is a pointer to a sock or null.
        Sock(unsafe { field(self.0, offset!(unix_sock_peer)) })
    }

    /// Writes its abstract name into `key`; false when it has no name.
    #[inline(always)]
    pub fn read_name(self, key: &mut AbstractKey) -> bool {
        /// The family and the NUL before an abstract name.
        const BEFORE: u32 = 3;
        // SAFETY: `unix_sock.addr` is a pointer to a unix_address or null, whose `len` is an int and whose name is as long.
        unsafe {
            let address = probe::<u64>(self.0, offset!(unix_sock_addr)).unwrap_or(0) as *const c_void;
            if address.is_null() {
                return false;
            }
            let len = probe::<u32>(address, offset!(unix_address_len)).unwrap_or(0).saturating_sub(BEFORE);
            let name = address.byte_add(offset!(unix_address_name) + BEFORE as usize);
            key.len = if len > ABSTRACT_NAME as u32 { ABSTRACT_NAME as u32 } else { len };
            bpf_probe_read_kernel(key.name.as_mut_ptr().cast(), key.len, name.cast()) == 0
        }
    }
}

impl Skb {
    /// Where the message begins, and its length.
    #[inline(always)]
    pub fn data(self) -> (u64, u32) {
        // SAFETY: `sk_buff.data` is a pointer, of which only the value is taken, `len` an unsigned int.
        unsafe {
            (
                probe::<u64>(self.0, offset!(sk_buff_data)).unwrap_or(0),
                probe::<u32>(self.0, offset!(sk_buff_len)).unwrap_or(0),
            )
        }
    }
}

/// The header of a netlink message: `struct nlmsghdr` of `include/uapi/linux/netlink.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct NetlinkHeader {
    /// With the header.
    pub len: u32,
    /// What is asked.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Number and sender.
    rest: [u32; 2],
}

impl NetlinkHeader {
    /// The header at an address of the kernel; `None` when it cannot be read.
    #[inline(always)]
    pub fn read(at: u64) -> Option<Self> {
        // SAFETY: any address; a bad one reads as `None`.
        unsafe { probe(at as *const c_void, 0) }
    }
}
