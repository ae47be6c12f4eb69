//! Where the running kernel keeps the fields that the programs read.
//!
//! rustc emits no CO-RE relocations, so the daemon reads the offsets from the kernel's BTF and hands them over as one
//! read-only global before the programs are loaded: the verifier sees constants. One list below is the source of the
//! struct, of the names that the daemon looks up, and of the error that names a missing field.

/// Declares [`Offsets`] and [`FIELDS`] from one list.
macro_rules! offsets {
    ($($(#[$meta:meta])* $field:ident: $kernel_struct:literal . $kernel_field:literal,)+) => {
        /// Byte offsets of kernel fields.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Offsets { $($(#[$meta])* pub $field: u32,)+ }

        /// The kernel's names of the fields of [`Offsets`], in their order: struct and member.
        pub const FIELDS: &[(&str, &str)] = &[$(($kernel_struct, $kernel_field),)+];

        impl Offsets {
            /// What the kernel object carries until the daemon writes the real ones.
            pub const UNSET: Self = Self { $($field: 0,)+ };

            /// From offsets in the order of [`FIELDS`]. `None` when there are more or fewer.
            #[must_use]
            pub fn from_list(list: &[u32]) -> Option<Self> {
                let mut rest = list.iter().copied();
                let offsets = Self { $($field: rest.next()?,)+ };
                if rest.next().is_none() { Some(offsets) } else { None }
            }

            /// The bytes of the global.
            #[must_use]
            pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
                let mut bytes = [0; size_of::<Self>()];
                for (chunk, value) in bytes.chunks_exact_mut(4).zip([$(self.$field,)+]) {
                    chunk.copy_from_slice(&value.to_ne_bytes());
                }
                bytes
            }
        }
    };
}

offsets! {
    /// The file that is to be executed.
    linux_binprm_file: "linux_binprm"."file",
    /// The path of an open file.
    file_f_path: "file"."f_path",
    /// How a file was opened: `FMODE_*`.
    file_f_mode: "file"."f_mode",
    /// How a file was opened: `O_*`.
    file_f_flags: "file"."f_flags",
    /// The inode of an open file.
    file_f_inode: "file"."f_inode",
    /// The file behind a mapping; null for anonymous memory.
    vma_vm_file: "vm_area_struct"."vm_file",
    /// What may be done with a mapping: `VM_*`.
    vma_vm_flags: "vm_area_struct"."vm_flags",
    /// The mapping's own pages; null until one was written.
    vma_anon_vma: "vm_area_struct"."anon_vma",
    /// How the kernel behaves towards the task: `READ_IMPLIES_EXEC`.
    task_personality: "task_struct"."personality",
    /// The dentry of a path.
    path_dentry: "path"."dentry",
    /// The parent; a root is its own.
    dentry_d_parent: "dentry"."d_parent",
    /// The inode; null when the name does not exist.
    dentry_d_inode: "dentry"."d_inode",
    /// The name.
    dentry_d_name: "dentry"."d_name",
    /// The filesystem.
    dentry_d_sb: "dentry"."d_sb",
    /// The characters of a name.
    qstr_name: "qstr"."name",
    /// Inode number.
    inode_i_ino: "inode"."i_ino",
    /// Type and permissions.
    inode_i_mode: "inode"."i_mode",
    /// Device number of a device node.
    inode_i_rdev: "inode"."i_rdev",
    /// Size in bytes.
    inode_i_size: "inode"."i_size",
    /// Superblock.
    inode_i_sb: "inode"."i_sb",
    /// Tells a reused inode number from the first.
    inode_i_generation: "inode"."i_generation",
    /// How many have the file open for writing; below 0, how many keep writers off.
    inode_i_writecount: "inode"."i_writecount",
    /// The pages of the content.
    inode_i_mapping: "inode"."i_mapping",
    /// How many shared mappings may be written through; below 0, how many keep such mappings off.
    address_space_i_mmap_writable: "address_space"."i_mmap_writable",
    /// What may not be done to a memory file any more: `F_SEAL_*`.
    shmem_inode_info_seals: "shmem_inode_info"."seals",
    /// The inode within tmpfs's own structure.
    shmem_inode_info_vfs_inode: "shmem_inode_info"."vfs_inode",
    /// The block device of a filesystem.
    super_block_s_bdev: "super_block"."s_bdev",
    /// The disk that a block device is, or is a part of.
    block_device_bd_disk: "block_device"."bd_disk",
    /// Which driver a disk is of.
    gendisk_major: "gendisk"."major",
    /// Device number of a filesystem.
    super_block_s_dev: "super_block"."s_dev",
    /// Flags: `SB_*`.
    super_block_s_flags: "super_block"."s_flags",
    /// The number that tells the type of filesystem.
    super_block_s_magic: "super_block"."s_magic",
    /// The root directory.
    super_block_s_root: "super_block"."s_root",
    /// Which attributes are to be set: `ATTR_*`.
    iattr_ia_valid: "iattr"."ia_valid",
    /// The new size.
    iattr_ia_size: "iattr"."ia_size",
    /// Thread group, which user space calls a process.
    task_tgid: "task_struct"."tgid",
    /// Thread.
    task_pid: "task_struct"."pid",
    /// Flags: `PF_*`.
    task_flags: "task_struct"."flags",
    /// Whether and how the task is traced: `PT_*`.
    task_ptrace: "task_struct"."ptrace",
    /// The parent that will be told of the task's end.
    task_real_parent: "task_struct"."real_parent",
    /// The first thread of the process.
    task_group_leader: "task_struct"."group_leader",
    /// The links of a task in the lists of its ids.
    task_pid_links: "task_struct"."pid_links",
    /// The process that a file below `/proc/PID` is about.
    proc_inode_pid: "proc_inode"."pid",
    /// The inode within procfs's own structure.
    proc_inode_vfs_inode: "proc_inode"."vfs_inode",
    /// The tasks that have an id.
    pid_tasks: "pid"."tasks",
    /// The id of a thread.
    task_thread_pid: "task_struct"."thread_pid",
    /// How deep the innermost pid namespace lies in which an id has a number; 0 is the first.
    pid_level: "pid"."level",
    /// The numbers of an id, one for each namespace from the first to the innermost.
    pid_numbers: "pid"."numbers",
    /// Such a number.
    upid_nr: "upid"."nr",
    /// What the entry code keeps of a task.
    task_thread_info: "task_struct"."thread_info",
    /// Flags of the entry: `TS_*`.
    thread_info_status: "thread_info"."status",
    /// The number of the system call.
    pt_regs_orig_ax: "pt_regs"."orig_ax",
    /// The namespaces of a task.
    task_nsproxy: "task_struct"."nsproxy",
    /// Its mount namespace.
    nsproxy_mnt_ns: "nsproxy"."mnt_ns",
    /// Its namespace of host names.
    nsproxy_uts_ns: "nsproxy"."uts_ns",
    /// What all namespaces have in common, within one of host names.
    uts_namespace_ns: "uts_namespace"."ns",
    /// How deep a user namespace lies; 0 is the first.
    user_namespace_level: "user_namespace"."level",
    /// The mount of a path.
    path_mnt: "path"."mnt",
    /// What others see of a mount, within the mount.
    mount_mnt: "mount"."mnt",
    /// The mount that it is mounted upon.
    mount_mnt_parent: "mount"."mnt_parent",
    /// The namespace that it belongs to.
    mount_mnt_ns: "mount"."mnt_ns",
    /// The group of mounts among which changes spread; 0 when there is none.
    mount_mnt_group_id: "mount"."mnt_group_id",
    /// What all namespaces have in common, within a mount namespace.
    mnt_namespace_ns: "mnt_namespace"."ns",
    /// The number of a namespace.
    ns_common_inum: "ns_common"."inum",
    /// Address space.
    task_mm: "task_struct"."mm",
    /// The credentials that the task acts with.
    task_cred: "task_struct"."cred",
    /// The credentials that are the task's own.
    task_real_cred: "task_struct"."real_cred",
    /// The program that the address space was made for.
    mm_exe_file: "mm_struct"."exe_file",
    /// The network half of a socket.
    socket_sk: "socket"."sk",
    /// Protocol of a socket.
    sock_sk_protocol: "sock"."sk_protocol",
    /// Type of a socket: `SOCK_*`.
    sock_sk_type: "sock"."sk_type",
    /// Who was at the other end of a unix connection when it was made.
    sock_sk_peer_pid: "sock"."sk_peer_pid",
    /// Address family.
    sock_skc_family: "sock_common"."skc_family",
    /// State, with TCP's numbers.
    sock_skc_state: "sock_common"."skc_state",
    /// Remote port in network order, 0 when there is none.
    sock_skc_dport: "sock_common"."skc_dport",
    /// Local port in host order, 0 when there is none.
    sock_skc_num: "sock_common"."skc_num",
    /// Remote IPv4 address.
    sock_skc_daddr: "sock_common"."skc_daddr",
    /// Local IPv4 address.
    sock_skc_rcv_saddr: "sock_common"."skc_rcv_saddr",
    /// Remote IPv6 address.
    sock_skc_v6_daddr: "sock_common"."skc_v6_daddr",
    /// Local IPv6 address.
    sock_skc_v6_rcv_saddr: "sock_common"."skc_v6_rcv_saddr",
    /// Where in the filesystem a unix socket lies, if it does.
    unix_sock_path: "unix_sock"."path",
    /// The name of a unix socket, if it has one.
    unix_sock_addr: "unix_sock"."addr",
    /// The other end of a unix socket, if it is connected.
    unix_sock_peer: "unix_sock"."peer",
    /// Length of the name, with its family.
    unix_address_len: "unix_address"."len",
    /// The name, with its family.
    unix_address_name: "unix_address"."name",
    /// Where a packet or message begins.
    sk_buff_data: "sk_buff"."data",
    /// Its length.
    sk_buff_len: "sk_buff"."len",
    /// The node of a cgroup in cgroupfs.
    cgroup_kn: "cgroup"."kn",
    /// The subsystem state that every cgroup begins with.
    cgroup_self: "cgroup"."self",
    /// The hierarchy that a cgroup is in.
    cgroup_root: "cgroup"."root",
    /// The number of a hierarchy; 0 is version 2's.
    cgroup_root_hierarchy_id: "cgroup_root"."hierarchy_id",
    /// The cgroups that a task is in, one of each hierarchy.
    task_cgroups: "task_struct"."cgroups",
    /// The cgroup of version 2 among them.
    css_set_dfl_cgrp: "css_set"."dfl_cgrp",
    /// The state of the parent cgroup.
    css_parent: "cgroup_subsys_state"."parent",
    /// The id of the node, which is the cgroup's.
    kernfs_node_id: "kernfs_node"."id",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_another_length_is_refused() {
        let mut list = [0u32; 256];
        for (i, v) in list.iter_mut().enumerate() {
            *v = i as u32;
        }
        assert!(Offsets::from_list(&list[..FIELDS.len()]).is_some());
        assert_eq!(Offsets::from_list(&list[..FIELDS.len() - 1]), None);
        assert_eq!(Offsets::from_list(&list[..=FIELDS.len()]), None);
    }

    #[test]
    fn bytes_keep_the_order() {
        let list = [7u32; 256];
        let offsets = Offsets::from_list(&list[..FIELDS.len()]).expect("one offset per field");
        assert_eq!(offsets.to_bytes().len(), 4 * FIELDS.len());
        assert!(offsets.to_bytes().chunks_exact(4).all(|c| c == 7u32.to_ne_bytes()));
    }
}
