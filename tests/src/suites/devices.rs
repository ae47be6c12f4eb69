//! Devices that send what no socket has made.

use anyhow::ensure;

use super::tamper::{self, SKILL};
use crate::harness::{runner::Suite, scene::Scene};

pub(super) const SUITE: Suite =
    Suite { name: "devices", policy: Some(tamper::policy), tests: &[("packets_without_a_socket", packets)] };

/// A tunnel, which is also handed over; a network for virtual machines, sockets for them, a modem line; and FUSE, whose number
/// lies beside theirs.
fn packets(scene: &Scene) -> anyhow::Result<()> {
    let reason = "the device lies below everything that rules name";
    // Where the driver is not there, the device is none.
    let absent = [0, libc::ENODEV, libc::ENXIO];
    let node = |name: &str, major: &str, minor: &str| {
        let node = scene.dir.join(format!("free/{name}")).to_string_lossy().into_owned();
        scene.outside(&["mknod-device", &node, "c", major, minor])?.done()?;
        anyhow::Ok(node)
    };
    let tun = node("tun", "10", "200")?;
    tamper::never(scene, "tamper", reason, &["open-write", &tun], &[0])?;
    tamper::handed(scene, "tunnel", &["offer-read", &tun], reason)?;
    for (name, major, minor) in [("net", "10", "238"), ("vsock", "10", "241"), ("ppp", "108", "0")] {
        tamper::never(scene, "tamper", reason, &["open-write", &node(name, major, minor)?], &absent)?;
    }
    let outcome = scene.act(SKILL, &["open-write", &node("fuse", "10", "229")?])?;
    ensure!(absent.contains(&outcome.status), "{outcome:?}");
    scene.act(SKILL, &["open-write", "/dev/full"])?.done().map(drop)
}
