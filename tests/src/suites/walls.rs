//! Skills are walls: no signal, trace or look from one into another, or into the host.

use std::fs;

use anyhow::{Context as _, ensure};

use crate::{
    act::NO_ENTRY,
    harness::{
        ENFORCER,
        breach::Breach,
        runner::Suite,
        scene::Scene,
        succeed,
        worker::{Entry, Worker},
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "walls",
    policy: Some(policy),
    tests: &[
        ("signals", signals),
        ("owners_of_files", owners),
        ("an_owner_from_before", owner_from_before),
        ("owners_that_are_not_named", foreground),
        ("the_end_of_a_session", hang_up),
        ("tracing_and_memory", tracing),
        ("proc_files_of_another_process", proc_files),
        ("memory_of_another_process_written", memory),
        ("memory_of_another_process_advised", advice),
        ("proc_files_of_another_process_written", proc_writes),
        ("within_a_skill_everything_is_as_ever", within),
        ("stacked_filesystems", stacked),
        ("filesystems_that_the_agent_would_serve", served),
        ("input_to_a_terminal", terminal),
        ("a_move_to_another_cgroup_is_reported", moved),
    ],
};

const SKILL: &str = "walled";

#[expect(clippy::unnecessary_wraps, reason = "the signature of every suite's policy")]
fn policy(_: &Scene) -> anyhow::Result<String> {
    let all = "allow_binaries: [\"*\"]\n    allow_delete: [\"*\"]";
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    {all}\n  neighbour:\n    {all}\n  watched:\n    mode: audit\n    {all}\n  tracer:\n    {all}\n    allow_jit: true\n"
    ))
}

/// The act is refused on a process outside every skill and on one of another skill, which both live on.
fn refused(scene: &Scene, kind: &str, act: &str, rest: &[&str]) -> anyhow::Result<()> {
    for target in [Worker::start(&Entry::Outside)?, Worker::start(&Entry::Run("neighbour"))?] {
        let pid = target.pid().to_string();
        let mark = scene.mark();
        let outcome = scene.act(SKILL, &[&[act, &pid], rest].concat())?;
        ensure!([libc::EPERM, libc::EACCES].contains(&outcome.status), "{act} {rest:?}: {outcome:?}");
        target.act(&["nothing"])?.done()?;
        scene.events().wait(mark, &format!("the refused {act}"), |e| {
            e.text("kind") == kind && e.text("verdict") == "deny" && e.text("reason") == "target is outside the skill"
        })?;
    }
    Ok(())
}

fn signals(scene: &Scene) -> anyhow::Result<()> {
    for act in ["kill", "tgkill", "pidfd-kill"] {
        refused(scene, "signal", act, &["9"])?;
        refused(scene, "signal", act, &["19"])?;
    }
    // The daemon is outside every skill.
    let daemon = scene.daemon(|d| Ok(d.pid()))?.to_string();
    scene.act(SKILL, &["kill", &daemon, "9"])?.refused()?;
    scene.daemon(|d| d.status())?;
    let target = Worker::start(&Entry::Outside)?;
    scene.outside(&["kill", &target.pid().to_string(), "9"])?.done()?;
    Ok(())
}

/// The reason of a refused owner.
const OWNER: &str = "a file's owner may be the process itself alone";

/// A refusal of this kind and for this reason, in both modes told, in one of them refused.
fn owner_refused(scene: &Scene, act: &[&str]) -> anyhow::Result<()> {
    for (skill, verdict) in [(SKILL, "deny"), ("watched", "audit")] {
        let mark = scene.mark();
        let outcome = scene.act(skill, act)?;
        if skill == SKILL {
            outcome.refused()?;
        } else {
            outcome.done()?;
        }
        scene.events().wait(mark, &format!("the owner: {}", act.join(" ")), |e| {
            e.text("kind") == "signal" && e.text("verdict") == verdict && e.text("reason") == OWNER
        })?;
    }
    scene.outside(act)?.done().map(drop)
}

/// A pipe with a name, to which anybody writes.
fn fifo(scene: &Scene, name: &str) -> anyhow::Result<String> {
    let path = scene.make_dir("fifos").map(|dir| format!("{dir}/{name}"))?;
    succeed(&["mkfifo", &path])?;
    Ok(path)
}

/// Whoever writes to the pipe, or whatever interrupt brings it data, the kernel sends the owner a signal in their name: it is the
/// owner that is judged, when it is named.
fn owners(scene: &Scene) -> anyhow::Result<()> {
    let entries = [Entry::Outside, Entry::Run("neighbour"), Entry::Run(SKILL)];
    for (number, entry) in entries.iter().enumerate() {
        for way in ["own-a-fifo", "own-a-fifo-ex"] {
            let target = Worker::start(entry)?;
            let pid = target.pid().to_string();
            for owner in [pid.clone(), format!("-{pid}")] {
                // A group that is not there: one that is would be the tests' own.
                if way == "own-a-fifo-ex" && owner.starts_with('-') {
                    continue;
                }
                let path = fifo(scene, &format!("{number}{way}{owner}"))?;
                let (attacker, mark) = (Worker::start(&Entry::Run(SKILL))?, scene.mark());
                let outcome = attacker.act(&["here", way, &path, &owner, "9"])?;
                scene.outside(&["put", &path, "x"])?;
                if target.act(&["nothing"]).is_err() {
                    return Err(Breach(format!("{way}: the signal of a file arrived: {outcome:?}")).into());
                }
                outcome.refused()?;
                scene.events().wait(mark, "the refused owner", |e| {
                    e.text("kind") == "signal" && e.text("verdict") == "deny" && e.text("reason") == OWNER
                })?;
            }
            // From outside it arrives.
            let (path, friend) = (fifo(scene, &format!("{number}{way}"))?, Worker::start(&Entry::Outside)?);
            friend.act(&["here", way, &path, &pid, "9"])?.done()?;
            scene.outside(&["put", &path, "x"])?.done()?;
            ensure!(target.act(&["nothing"]).is_err(), "{way}: nobody can send a signal by a file");
        }
    }
    let pid = scene.outsider()?.pid().to_string();
    for call in ["fiosetown", "siocspgrp"] {
        owner_refused(scene, &["own-a-socket", call, &pid])?;
    }
    itself(scene)
}

/// Itself a process may have signalled, by its number in whatever pid namespace it is in; and nobody.
fn itself(scene: &Scene) -> anyhow::Result<()> {
    let worker = Worker::start(&Entry::Run(SKILL))?;
    let path = fifo(scene, "itself")?;
    worker.act(&["here", "own-a-fifo", &path, &worker.pid().to_string(), "9"])?.done()?;
    worker.act(&["nothing"])?.done()?;
    scene.outside(&["put", &path, "x"])?.done()?;
    ensure!(worker.act(&["nothing"]).is_err(), "the signal of a file did not arrive");
    for (number, way) in [&["thread"][..], &["unshare", "pid,mount"], &["unshare", "user,pid,mount"]].iter().enumerate()
    {
        let path = fifo(scene, &format!("itself-{number}"))?;
        scene.act(SKILL, &[way, &["own-a-fifo-myself", &path, "9"][..]].concat())?.done()?;
    }
    scene.act(SKILL, &["own-nobody"])?.done()?;
    // The number is the process's own, and nobody else's that has it elsewhere.
    let path = fifo(scene, "elsewhere")?;
    let outcome = scene.act(SKILL, &["unshare", "pid,mount", "fork", "own-a-fifo", &path, "1", "9"])?;
    outcome.refused().map(drop)
}

/// An owner that was named outside is judged when the signal is sent, by whoever writes.
fn owner_from_before(scene: &Scene) -> anyhow::Result<()> {
    for (name, skill) in [("governed", Some(SKILL)), ("free", None)] {
        let (worker, target) = (Worker::start(&Entry::Outside)?, Worker::start(&Entry::Outside)?);
        let path = fifo(scene, name)?;
        worker.act(&["here", "own-a-fifo", &path, &target.pid().to_string(), "9"])?.done()?;
        if let Some(skill) = skill {
            succeed(&[ENFORCER, "attach", "--skill", skill, "--pid", &worker.pid().to_string()])?;
        }
        let mark = scene.mark();
        worker.act(&["put", &path, "x"])?.done()?;
        let lives = target.act(&["nothing"]).is_ok();
        if skill.is_none() {
            ensure!(!lives, "nobody can send a signal by a file");
        } else if lives {
            reported(scene, mark, "signal", "signal of a file")?;
        } else {
            return Err(Breach("the signal of a file arrived".into()).into());
        }
    }
    Ok(())
}

/// Of a terminal's signals without an owner those are the owners who are in its foreground.
fn foreground(scene: &Scene) -> anyhow::Result<()> {
    owner_refused(scene, &["own-the-foreground", "fcntl"])?;
    owner_refused(scene, &["own-the-foreground", "ioctl"])
}

/// The end of a session is a signal to its processes, one of which may be the shell that started the agent. Of a session without a
/// terminal there is nothing to end.
fn hang_up(scene: &Scene) -> anyhow::Result<()> {
    let mark = scene.mark();
    scene.act(SKILL, &["setsid", "hang-up"])?.refused()?;
    reported(scene, mark, "signal", "end of a session")?;
    scene.act("watched", &["setsid", "hang-up"])?.done()?;
    scene.outside(&["setsid", "hang-up"])?.done()?;
    let mark = scene.mark();
    scene.act(SKILL, &["hang-up-terminal"])?.refused()?;
    reported(scene, mark, "signal", "end of a terminal's sessions")?;
    scene.outside(&["hang-up-terminal"])?.done().map(drop)
}

fn tracing(scene: &Scene) -> anyhow::Result<()> {
    for act in ["ptrace-attach", "ptrace-seize", "read-memory", "pidfd-getfd"] {
        refused(scene, "trace", act, &[])?;
    }
    Ok(())
}

fn proc_files(scene: &Scene) -> anyhow::Result<()> {
    for file in ["mem", "environ", "maps", "auxv"] {
        // Reading `mem` at 0 would be EIO where it may be opened.
        refused(scene, "trace", "read-proc", &[file])?;
    }
    for dir in ["fd", "fdinfo", "map_files"] {
        refused(scene, "trace", "list-proc", &[dir])?;
    }
    for link in ["exe", "cwd", "root", "fd/0"] {
        refused(scene, "trace", "follow-proc", &[link])?;
    }
    // What tells nothing of the inside stays readable: `ps` goes on working.
    let target = Worker::start(&Entry::Outside)?;
    scene.act(SKILL, &["read-proc", &target.pid().to_string(), "status"])?.done()?;
    Ok(())
}

/// The last word of a process's stack, which nobody uses.
fn last_word(pid: u32) -> anyhow::Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps.lines().find(|line| line.ends_with("[stack]")).context("no stack")?;
    let (_, end) = line.split_whitespace().next().and_then(|range| range.split_once('-')).context(line.to_owned())?;
    Ok(u64::from_str_radix(end, 16)? - 8)
}

/// What is there.
fn word_at(pid: u32, address: u64) -> anyhow::Result<[u8; 8]> {
    use std::os::unix::fs::FileExt as _;
    let mut word = [0; 8];
    fs::File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut word, address)?;
    Ok(word)
}

/// By each call that writes into another process, or changes its memory otherwise: not outside the skill, and within it with
/// `allow_jit`.
fn memory(scene: &Scene) -> anyhow::Result<()> {
    for act in ["write-memory", "poke-memory", "write-mem-file"] {
        for entry in [Entry::Outside, Entry::Run("neighbour")] {
            let target = Worker::start(&entry)?;
            let address = last_word(target.pid())?;
            let before = word_at(target.pid(), address)?;
            let (pid, mark) = (target.pid().to_string(), scene.mark());
            let outcome = scene.act("tracer", &[act, &pid, &address.to_string()])?;
            if word_at(target.pid(), address)? != before {
                return Err(Breach(format!("{act} wrote into another process: {outcome:?}")).into());
            }
            ensure!([libc::EPERM, libc::EACCES].contains(&outcome.status), "{act}: {outcome:?}");
            target.act(&["nothing"])?.done()?;
            reported(scene, mark, "trace", act)?;
        }
        let target = Worker::start(&Entry::Run("tracer"))?;
        let address = last_word(target.pid())?;
        scene.act("tracer", &[act, &target.pid().to_string(), &address.to_string()])?.done()?;
        ensure!(word_at(target.pid(), address)? == *b"AAAAAAAA", "{act}: nothing was written");
        // Where no code may be made, not even there.
        let target = Worker::start(&Entry::Run(SKILL))?;
        let address = last_word(target.pid())?;
        let before = word_at(target.pid(), address)?;
        scene.act(SKILL, &[act, &target.pid().to_string(), &address.to_string()])?.refused()?;
        ensure!(word_at(target.pid(), address)? == before, "{act} wrote without `allow_jit`");
    }
    Ok(())
}

/// Has its memory put out, which the kernel takes for a look: since 6.13 it asks the hook, and then lets who has `CAP_PERFMON` do it
/// all the same (`kernel/fork.c: may_access_mm`), which is refused, too.
fn advice(scene: &Scene) -> anyhow::Result<()> {
    for entry in &[Entry::Outside, Entry::Run("neighbour")] {
        let target = Worker::start(entry)?;
        let (pid, address) = (target.pid().to_string(), last_word(target.pid())?.to_string());
        let mark = scene.mark();
        let outcome = scene.act(SKILL, &["advise-memory", &pid, &address])?;
        ensure!(outcome.status != 0, Breach(format!("the memory of another process was advised: {outcome:?}")));
        ensure!([libc::EPERM, libc::EACCES].contains(&outcome.status), "{outcome:?}");
        reported(scene, mark, "trace", "advice")?;
    }
    let own = Worker::start(&Entry::Run(SKILL))?;
    let (pid, address) = (own.pid().to_string(), last_word(own.pid())?.to_string());
    scene.act(SKILL, &["advise-memory", &pid, &address])?.done()?;
    Ok(())
}

/// A refusal of this kind, because the target is outside.
fn reported(scene: &Scene, mark: crate::harness::events::Mark, kind: &str, act: &str) -> anyhow::Result<()> {
    let wanted = |e: &crate::harness::events::Event| {
        e.text("kind") == kind && e.text("verdict") == "deny" && e.text("reason") == "target is outside the skill"
    };
    scene.events().wait(mark, &format!("the refused {act}"), wanted).map(drop)
}

/// What a process may be told by its files: by whom it may be ended, what it is called, who it is. The kernel asks nobody but a file's
/// mode for most of them.
fn proc_writes(scene: &Scene) -> anyhow::Result<()> {
    const FILES: [&str; 14] = [
        "mem",
        "clear_refs",
        "oom_score_adj",
        "oom_adj",
        "loginuid",
        "comm",
        "setgroups",
        "uid_map",
        "coredump_filter",
        "timerslack_ns",
        "autogroup",
        "sched",
        "attr/current",
        "task/self/comm",
    ];
    for entry in [Entry::Outside, Entry::Run("neighbour")] {
        let target = Worker::start(&entry)?;
        let pid = target.pid().to_string();
        let mut tried = 0;
        for file in FILES {
            let file = file.replace("self", &pid);
            // Not every kernel is built with every one.
            if fs::metadata(format!("/proc/{pid}/{file}")).is_err() {
                continue;
            }
            tried += 1;
            let mark = scene.mark();
            let outcome = scene.act(SKILL, &["write-proc", &pid, &file])?;
            ensure!([libc::EPERM, libc::EACCES].contains(&outcome.status), "{file}: {outcome:?}");
            let kind = if ["mem", "clear_refs"].contains(&file.as_str()) { "trace" } else { "tamper" };
            reported(scene, mark, kind, &file)?;
        }
        ensure!(tried >= 6, "{tried} files alone are there");
    }
    let (target, own) = (Worker::start(&Entry::Outside)?, Worker::start(&Entry::Run(SKILL))?);
    for (file, text) in [("oom_score_adj", "500"), ("coredump_filter", "0x1")] {
        let read = |worker: &Worker| fs::read_to_string(format!("/proc/{}/{file}", worker.pid()));
        let before = read(&target)?;
        let outcome = scene.act(SKILL, &["put-proc", &target.pid().to_string(), file, text])?;
        if read(&target)? != before {
            return Err(Breach(format!("{file} of another process has changed")).into());
        }
        outcome.refused()?;
        // A process of the skill's own, and anybody from outside.
        scene.act(SKILL, &["put-proc", &own.pid().to_string(), file, text])?.done()?;
        scene.outside(&["put-proc", &target.pid().to_string(), file, text])?.done()?;
        ensure!(read(&target)? != before && read(&target)? == read(&own)?, "{file} has not changed");
    }
    Ok(())
}

fn within(scene: &Scene) -> anyhow::Result<()> {
    let target = Worker::start(&Entry::Run(SKILL))?;
    let pid = target.pid().to_string();
    scene.act(SKILL, &["read-proc", &pid, "environ"])?.done()?;
    scene.act(SKILL, &["kill", &pid, "0"])?.done()?;
    scene.act(SKILL, &["kill", &pid, "9"])?.done()?;
    ensure!(target.act(&["nothing"]).is_err(), "the signal did not arrive");
    // What a tracer may takes `allow_jit`.
    let target = Worker::start(&Entry::Run("tracer"))?;
    let pid = target.pid().to_string();
    scene.act("tracer", &["read-memory", &pid])?.done()?;
    scene.act("tracer", &["pidfd-getfd", &pid])?.done()?;
    scene.act("tracer", &["ptrace-attach", &pid])?.done()?;
    // And from outside into a skill.
    let target = Worker::start(&Entry::Run(SKILL))?;
    let pid = target.pid().to_string();
    scene.outside(&["read-memory", &pid])?.done()?;
    scene.outside(&["kill", &pid, "9"])?.done()?;
    Ok(())
}

fn stacked(scene: &Scene) -> anyhow::Result<()> {
    let dirs: Vec<String> = ["lower", "upper", "work", "at"]
        .iter()
        .map(|d| scene.make_dir(&format!("stack/{d}")))
        .collect::<Result<_, _>>()?;
    let options = format!("lowerdir={},upperdir={},workdir={}", dirs[0], dirs[1], dirs[2]);
    let mount = ["unshare", "mount", "exec", "/usr/bin/mount", "-t", "overlay", "overlay", "-o", &options, &dirs[3]];
    let mark = scene.mark();
    let outcome = scene.act(SKILL, &mount)?;
    ensure!(outcome.status != 0, "{outcome:?}");
    scene.events().wait(mark, "the refused mount", |e| e.text("kind") == "mount" && e.text("verdict") == "deny")?;
    scene.outside(&mount)?.done()?;
    scene.act(SKILL, &["unshare", "mount", "exec", "/usr/bin/mount", "-t", "tmpfs", "tmpfs", &dirs[3]])?.done()?;
    Ok(())
}

/// Neither in a namespace where it is root, nor as root.
fn served(scene: &Scene) -> anyhow::Result<()> {
    let at = scene.make_dir("served")?;
    succeed(&["modprobe", "fuse"])?;
    for namespaces in ["root,mount", "mount"] {
        let act = ["unshare", namespaces, "serve-fuse", &at];
        let mark = scene.mark();
        scene.act(SKILL, &act)?.refused()?;
        scene.events().wait(mark, "the refused mount", |e| {
            e.text("kind") == "mount" && e.text("verdict") == "deny" && e.text("reason").contains("its server says")
        })?;
        scene.outside(&act)?.done()?;
        let other = ["unshare", namespaces, "mount", "tmpfs", &at];
        scene.act(SKILL, &other)?.done()?;
    }
    scene.act(SKILL, &["unshare", "mount", "mount", "proc", &at])?.done().map(drop)
}

/// What is typed into a terminal reaches whoever reads it, such as the shell that started the agent. Root may do it whatever
/// `dev.tty.legacy_tiocsti` says.
fn terminal(scene: &Scene) -> anyhow::Result<()> {
    let entry_32 = has_entry_32(scene)?;
    for (act, outside) in [("type", 0), ("paste", libc::ENOTTY), ("type-32", 0)] {
        if act == "type-32" && !entry_32 {
            continue;
        }
        for skill in [SKILL, "watched"] {
            let mark = scene.mark();
            let outcome = scene.act(skill, &[act])?;
            ensure!(outcome.refused()?.out.is_empty(), "{act}: {outcome:?}");
            scene.events().wait(mark, &format!("the refused {act}"), |e| {
                e.text("kind") == "tamper" && e.text("verdict") == "deny" && e.text("reason").contains("terminal")
            })?;
        }
        scene.outside(&[act])?.failed(outside)?;
    }
    Ok(())
}

/// Whether the kernel has the entry for 32-bit programs; without it there is nothing to refuse.
pub(super) fn has_entry_32(scene: &Scene) -> anyhow::Result<bool> {
    let outcome = scene.outside(&["call-32"])?;
    ensure!([0, NO_ENTRY].contains(&outcome.status), "{outcome:?}");
    Ok(outcome.status == 0)
}

fn moved(scene: &Scene) -> anyhow::Result<()> {
    let dir = "/sys/fs/cgroup/tests-walls";
    fs::create_dir_all(dir)?;
    let mark = scene.mark();
    let worker = Worker::start(&Entry::Run(SKILL))?;
    fs::write(format!("{dir}/cgroup.procs"), worker.pid().to_string())?;
    worker.act(&["nothing"])?.done()?;
    let event = scene.events().wait(mark, "the move", |e| e.text("kind") == "move")?;
    ensure!(event.text("skill") == SKILL && event.text("reason").contains("skill stays"), "{}", event.0);
    Ok(())
}
