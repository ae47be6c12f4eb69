//! A file that changes while it is executed: what is not listed never runs.

use std::{fs, io::Write as _, thread, time::Duration};

use anyhow::{Context as _, ensure};

use super::{FOREIGN, OVERLAY, RISING, SKILL, path};
use crate::harness::{command, eventually, random::Random, scene::Scene};

/// A static program that ends with `status` and does nothing else: its code lies in its second page, so that the kernel
/// reads the first one sooner.
pub(super) fn ends_with(status: u8) -> Vec<u8> {
    const PAGE: usize = 4096;
    const BASE: u64 = 0x40_0000;
    let mut file = vec![0; 2 * PAGE];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    // The header of an executable for x86-64, with one program header behind it: all of the file, readable and executable.
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &(BASE + PAGE as u64).to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0]);
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    put(80, &BASE.to_le_bytes());
    put(96, &(2 * PAGE as u64).to_le_bytes());
    put(104, &(2 * PAGE as u64).to_le_bytes());
    put(112, &(PAGE as u64).to_le_bytes());
    // mov eax, SYS_exit; mov edi, status; syscall
    put(PAGE, &[0xb8, 60, 0, 0, 0, 0xbf, status, 0, 0, 0, 0x0f, 0x05]);
    file
}

/// The listed program and another take turns in a file, by several ways, while it is executed over and over.
pub(super) fn race(scene: &Scene, dir: &str) -> anyhow::Result<()> {
    const EXECS: u64 = 1000;
    let victim = path(scene, &format!("{dir}/racer"));
    let (good, evil, end) = (path(scene, "good-racer"), path(scene, "evil-racer"), path(scene, &format!("end-{dir}")));
    fs::copy(&good, &victim)?;
    ensure!(scene.outside(&["exec", &evil])?.status == FOREIGN, "the other program does not do what it should");
    let (swapped, executed) = thread::scope(|scope| {
        let swaps = scope.spawn(|| scene.outside(&["swap-often", &end, &victim, &good, &evil]));
        let execs = scene.act(SKILL, &["exec-often", &EXECS.to_string(), &victim]);
        let ended = fs::write(&end, "");
        (swaps.join(), execs.and_then(|execs| ended.map(|()| execs).context("the end")))
    });
    swapped.map_err(|_| anyhow::anyhow!("the writer panicked"))??.done()?;
    let executed = executed?;
    let counts: Vec<u64> = executed.done()?.out.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let &[ran, refused, _, _, foreign] = counts.as_slice() else { anyhow::bail!("{executed:?}") };
    ensure!(foreign == 0, "something else ran: {executed:?}");
    ensure!(ran + refused >= EXECS && ran.min(refused) >= EXECS / 10, "the two did not meet: {executed:?}");
    // What is listed runs once more when it is quiet.
    fs::remove_file(&victim)?;
    fs::copy(&good, &victim)?;
    scene.act(SKILL, &["exec", &victim])?.done()?;
    ensure!(command(&["cmp", &good, &victim])?.status == 0, "the file is not what was written");
    Ok(())
}

/// Each is written through the overlay for the first time while it is executed, so that it is another inode's content from then on.
pub(super) fn copied_up(scene: &Scene) -> anyhow::Result<()> {
    const EXECS: u64 = 8;
    let (evil, mut random) = (fs::read(path(scene, "evil-racer"))?, Random::seeded());
    let (mut before, mut after) = (0, 0);
    for n in 0..RISING {
        let victim = path(scene, &format!("{OVERLAY}/rising-{n}"));
        let wait = Duration::from_micros(random.below(150_000));
        let executed = thread::scope(|scope| {
            let execs = scope.spawn(|| scene.act(SKILL, &["exec-often", &EXECS.to_string(), &victim]));
            thread::sleep(wait);
            // While it runs it cannot be opened for writing.
            let written = eventually(Duration::from_secs(10), || {
                fs::File::options().write(true).open(&victim).and_then(|mut file| file.write_all(&evil)).is_ok()
            });
            execs.join().map(|executed| (executed, written))
        });
        let (executed, written) = executed.map_err(|_| anyhow::anyhow!("the executor panicked"))?;
        ensure!(written, "{victim} could not be written");
        let executed = executed?;
        let counts: Vec<u64> = executed.done()?.out.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let &[ran, refused, _, _, foreign] = counts.as_slice() else { anyhow::bail!("{executed:?}") };
        ensure!(foreign == 0, "something else ran: {executed:?}");
        (before, after) = (before + ran, after + refused);
        let now = scene.act(SKILL, &["exec", &victim])?;
        now.refused().with_context(|| format!("after {wait:?}"))?;
    }
    ensure!(before.min(after) >= RISING / 4, "the two did not meet: {before} ran, {after} were refused");
    Ok(())
}
