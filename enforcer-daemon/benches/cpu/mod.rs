//! The time that this process runs on CPUs, in the place of the wall clock's: what else runs on the machine is not counted.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::{io, process::Command, time::Duration};

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use rustix::{
    process::{Pid, WaitId, WaitIdOptions, waitid},
    time::{ClockId, clock_gettime},
};

/// Nanoseconds on CPUs, of all threads of this process.
#[derive(Debug)]
pub(crate) struct CpuTime;

/// The time on CPUs so far.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The time on CPUs of the one thread that a command has, from its start to its end.
///
/// # Errors
/// When it cannot be run or fails.
pub(crate) fn of_child(command: &mut Command) -> io::Result<Duration> {
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    // What has ended and was not waited for still has its counts.
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    let counts = std::fs::read_to_string(format!("/proc/{}/schedstat", child.id()))?;
    let ran = counts.split_whitespace().next().and_then(|ran| ran.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    if !child.wait()?.success() {
        return Err(io::Error::other("it failed"));
    }
    Ok(Duration::from_nanos(ran))
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        now()
    }
    fn end(&self, start: Duration) -> Duration {
        now().saturating_sub(start)
    }
    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }
    fn zero(&self) -> Duration {
        Duration::ZERO
    }
    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}
