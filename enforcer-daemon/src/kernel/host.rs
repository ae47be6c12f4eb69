//! Tells the programs what they cannot find out about the host.

use std::{fs, os::unix::fs::MetadataExt as _};

use aya::maps::{Array, MapData};
use enforcer_common::{host::HostFacts, names};

use super::{Kernel, LoadError};
use crate::ima::Choice;

/// Drivers of character devices that give raw access to disks, memory or networks, as `/proc/devices` names them, and whose major numbers
/// the kernel chooses when they are loaded.
const RAW_DRIVERS: &[&str] = &[
    "bsg",
    "nvme",
    "nvme-generic",
    "ublk-char",
    "vfio",
    "mtd",
    "ndctl",
    "dimmctl",
    "dax",
    "cxl",
    "raw",
    "macvtap",
    "ipvtap",
    "vhost-vdpa",
    "vduse",
];

/// The map of facts.
pub struct HostMap {
    map: Array<MapData, HostFacts>,
    measures: Choice,
}

impl HostMap {
    /// Takes the map and fills it.
    ///
    /// # Errors
    /// When the object has no such map, or the facts cannot be had.
    pub fn new(kernel: &Kernel) -> Result<Self, LoadError> {
        let mut host = Self { map: kernel.map(names::map::HOST)?, measures: Choice::here() };
        host.refresh().map_err(|cause| LoadError::Map { map: names::map::HOST, cause })?;
        Ok(host)
    }

    /// Looks again: drivers are loaded as devices come, and so may be a policy of IMA.
    ///
    /// # Errors
    /// When the facts cannot be had or the kernel does not take them; those of before stay.
    pub fn refresh(&mut self) -> Result<(), String> {
        const HOST_MOUNTS: &str = "/proc/1/ns/mnt";
        let namespace = fs::metadata(HOST_MOUNTS).map_err(|e| format!("{HOST_MOUNTS}: {e}"))?.ino();
        let devices = fs::read_to_string("/proc/devices").map_err(|e| format!("/proc/devices: {e}"))?;
        let measures = Choice::here();
        let mut facts = HostFacts {
            mount_namespace: u32::try_from(namespace).map_err(|e| format!("{HOST_MOUNTS}: {e}"))?,
            measured_by: measures.by().number(),
            ..HostFacts::default()
        };
        for major in raw_majors(&devices) {
            let (word, bit) = HostFacts::raw_major_slot(major);
            facts.raw_majors[word] |= bit;
        }
        self.map.set(0, facts, 0).map_err(|e| e.to_string())?;
        self.measures = measures;
        Ok(())
    }

    /// Who measures the content of files, as the programs were told.
    #[must_use]
    pub fn measures(&self) -> &Choice {
        &self.measures
    }
}

/// The majors of [`RAW_DRIVERS`] among the character devices of `/proc/devices`.
fn raw_majors(devices: &str) -> impl Iterator<Item = u32> {
    let character = devices.split("Block devices:").next().unwrap_or_default();
    character.lines().filter_map(|line| {
        let (major, name) = line.trim().split_once(' ')?;
        RAW_DRIVERS.contains(&name.trim()).then(|| major.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_found_among_character_devices_alone() {
        let text = "Character devices:\n  1 mem\n 10 misc\n240 nvme-generic\n241 nvme\n250 macvtap\n252 bsg\n\nBlock devices:\n  8 sd\n259 nvme\n";
        assert_eq!(raw_majors(text).collect::<Vec<_>>(), [240, 241, 250, 252]);
    }
}
