//! Starts on a host that lacks something: each is refused in words that say what, and what is in force stays in force.

use anyhow::ensure;

use super::pins::{Play, sets};
use crate::harness::{ENFORCER, command, files::Mount, runner::Suite, scene::Scene, succeed};

pub(super) const SUITE: Suite = Suite {
    name: "start",
    policy: None,
    tests: &[
        ("without_cgroup_v2_is_refused", no_cgroup),
        ("without_a_capability_is_refused", no_capability),
        ("with_a_full_run_goes_on", full_run),
        ("without_an_inode_for_the_socket_is_refused", no_inode),
    ],
};

const RUN: &str = "/run/enforcer";

/// A daemon does not start, by each of the words, and nothing changes. `before` is in front of its command line.
fn refused(play: &Play<'_>, before: &[&str], words: &[&str]) -> anyhow::Result<()> {
    let pins = sets();
    let policy = play.daemon.policy().to_string_lossy().into_owned();
    let outcome = command(&[before, &[ENFORCER, "daemon", "--policy", &policy]].concat())?;
    ensure!(outcome.status == 1 && outcome.out.is_empty(), "{outcome:?}");
    for word in words {
        ensure!(outcome.err.contains(word), "no {word:?} in {:?}", outcome.err);
    }
    ensure!(sets() == pins && pins.len() == 1, "the pins were {pins:?} and are {:?}", sets());
    Ok(())
}

/// Hosts of cgroup v1 have a tmpfs there. A policy that finds no cgroup would govern none.
fn no_cgroup(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    play.daemon.kill()?;
    {
        let _over = Mount::new("tmpfs", "/sys/fs/cgroup")?;
        refused(&play, &[], &["/sys/fs/cgroup", "cgroup v2", "enforcer doctor"])?;
        let outcome = command(&[ENFORCER, "doctor"])?;
        ensure!(outcome.status == 2 && outcome.out.contains("mount -t cgroup2"), "{outcome:?}");
        ensure!(outcome.out.contains("not tried: cgroup v2 comes first"), "{outcome:?}");
    }
    play.in_force()?;
    play.daemon.restart()?;
    play.in_force()
}

fn no_capability(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    play.daemon.kill()?;
    for (capability, name) in [("-bpf", "cap_bpf"), ("-sys_admin", "cap_sys_admin"), ("-net_admin", "cap_net_admin")] {
        refused(&play, &["setpriv", "--bounding-set", capability], &[name, "as root"])?;
    }
    play.in_force()
}

/// What the daemon keeps there is two names and a line for people.
fn full_run(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    play.daemon.kill()?;
    {
        let _full = Mount::with("tmpfs", RUN, "size=4k")?;
        succeed(&["sh", "-c", "! head -c 65536 /dev/zero > /run/enforcer/filling"])?;
        play.daemon.restart()?;
        play.in_force()?;
        play.daemon.kill()?;
    }
    play.daemon.restart()?;
    play.in_force()
}

fn no_inode(scene: &Scene) -> anyhow::Result<()> {
    let mut play = Play::begin(scene, &[])?;
    play.daemon.kill()?;
    {
        let _full = Mount::with("tmpfs", RUN, "nr_inodes=2")?;
        // One for the root, one for the lock.
        refused(&play, &[], &["/run/enforcer/control.sock", "No space left on device"])?;
    }
    play.in_force()?;
    play.daemon.restart()?;
    play.in_force()
}
