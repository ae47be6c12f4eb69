//! Subjects: who is governed, from when on, and that there is no way out.

use std::{fs, os::unix::fs::MetadataExt as _, time::Duration};

use anyhow::{Context as _, ensure};

use crate::harness::{
    BROUGHT, ENFORCER, bring, command,
    daemon::Daemon,
    eventually,
    runner::Suite,
    scene::{Scene, gone, there},
    worker::{Entry, Worker},
};

pub(super) const SUITE: Suite = Suite {
    name: "subjects",
    policy: Some(policy),
    tests: &[
        ("forks_threads_and_sessions_keep_the_label", tasks),
        ("namespaces_keep_the_label", namespaces),
        ("a_process_in_the_cgroup", in_cgroup),
        ("a_process_that_moves_itself_into_the_cgroup", moves_in),
        ("a_process_that_is_moved_into_the_cgroup", is_moved_in),
        ("every_thread_that_is_moved_into_the_cgroup", threads_moved_in),
        ("born_into_the_cgroup", born),
        ("a_child_cgroup_that_was_there_before", child_cgroup),
        ("a_new_child_cgroup", new_child_cgroup),
        ("moved_out_again_and_still_governed", moved_out),
        ("moved_into_another_skills_cgroup", moved_to_another),
        ("a_sleeper_that_is_moved_before_its_first_act", sleeper),
        ("a_thread_that_was_moved_through_a_governed_cgroup", thread_moved_through),
        ("two_skills_differ", two_skills),
        ("the_narrower_cgroup_wins", narrower),
        ("a_governed_root_process_and_the_control_socket", control_socket),
        ("a_connection_to_the_control_socket_from_before", connected_before),
        ("a_process_of_another_user_and_the_control_socket", other_user),
        ("a_skill_that_was_removed_denies", removed_skill),
        ("a_cgroup_that_is_not_there_yet", appears),
        ("a_cgroup_that_no_skill_names_any_more", unnamed),
        ("a_unit_from_its_exec_on", unit),
    ],
};

const CGROUPS: &str = "/sys/fs/cgroup";
const SKILL: &str = "subject";
const LATER: &str = "a-name-of-many-letters-such-as-an-engine-gives.scope";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    for cgroup in ["tests-one", "tests-one/inner", "tests-one/narrow", "tests-two", "tests-free", "tests-beside"] {
        fs::create_dir_all(format!("{CGROUPS}/{cgroup}"))?;
    }
    let (one, two) = (scene.make_dir("one")?, scene.make_dir("two")?);
    scene.make_dir("denied")?;
    let binaries =
        "allow_binaries: [{path: /usr/lib/enforcer/enforcer-tests}, {path: /usr/bin/bash}, {path: /usr/bin/enforcer}]";
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    match: {{cgroup: /tests-one}}\n    {binaries}\n    allow_delete: [{one}]\n    allow_jit: true\n    \
         network_scope: [\"unix:/run/enforcer/control.sock\"]\n  \
         narrow:\n    match: {{cgroup: /tests-one/narrow}}\n    {binaries}\n    allow_delete: [{two}]\n  \
         later:\n    match: {{cgroup: /tests-later/{LATER}}}\n    {binaries}\n    allow_delete: [{two}]\n  \
         started:\n    match: {{unit: \"tests-unit@*.service\"}}\n    {binaries}\n    allow_delete: [{two}]\n  \
         other:\n    match: {{cgroup: /tests-two}}\n    {binaries}\n    allow_delete: [{two}]\n"
    ))
}

/// Who executes the first program of a unit is not governed, and that program is.
fn unit(scene: &Scene) -> anyhow::Result<()> {
    let slice = cgroup("tests-units.slice");
    let of_unit = format!("{slice}/tests-unit@1.service");
    fs::create_dir_all(&of_unit)?;
    let (allowed, denied) = (scene.make_file("two/unit")?, scene.make_file("denied/unit")?);
    let worker = Worker::start(&Entry::Cgroup(&of_unit))?;
    let mark = scene.mark();
    worker.act(&["unlink", &denied])?.refused()?;
    there(&denied)?;
    let event = scene.event(mark, "delete", "deny", &denied)?;
    ensure!(event.text("skill") == "started", "{}", event.0);
    worker.act(&["unlink", &allowed])?.done()?;
    drop(worker);
    let removed =
        eventually(Duration::from_secs(10), || fs::remove_dir(&of_unit).is_ok() && fs::remove_dir(&slice).is_ok());
    ensure!(removed, "{of_unit} is in use");
    Ok(())
}

fn cgroup(name: &str) -> String {
    format!("{CGROUPS}/{name}")
}

/// A worker in a way may remove what its skill allows and nothing else.
fn governed(scene: &Scene, worker: &Worker, way: &[&str], skill: &str) -> anyhow::Result<()> {
    let (own, foreign) = if skill == SKILL { ("one", "two") } else { ("two", "one") };
    let test = format!("by-{}", way.concat().replace('/', "-"));
    let allowed = scene.make_file(&format!("{own}/{test}/file"))?;
    worker.act(&[way, &["unlink", &allowed]].concat())?.done()?;
    gone(&allowed)?;
    for side in [foreign, "denied"] {
        let file = scene.make_file(&format!("{side}/{test}/file"))?;
        let mark = scene.mark();
        worker.act(&[way, &["unlink", &file]].concat())?.refused()?;
        there(&file)?;
        let event = scene.event(mark, "delete", "deny", &file)?;
        ensure!(event.text("skill") == skill, "the skill is {:?}", event.text("skill"));
    }
    Ok(())
}

/// A worker may remove anything.
fn free(scene: &Scene, worker: &Worker) -> anyhow::Result<()> {
    let file = scene.make_file("denied/free/file")?;
    worker.act(&["unlink", &file])?.done()?;
    gone(&file)
}

fn tasks(scene: &Scene) -> anyhow::Result<()> {
    let worker = scene.worker(SKILL)?;
    for way in [&["fork"][..], &["double-fork"], &["vfork"], &["thread"], &["setsid"], &["user", "0"], &["traced"]] {
        governed(scene, &worker, way, SKILL)?;
    }
    governed(scene, &worker, &["setsid", "double-fork", "thread"], SKILL)
}

fn namespaces(scene: &Scene) -> anyhow::Result<()> {
    let worker = scene.worker(SKILL)?;
    for names in ["user", "pid", "mount", "cgroup", "uts,ipc", "user,pid,mount,cgroup"] {
        governed(scene, &worker, &["unshare", names], SKILL)?;
    }
    // The first process of a pid namespace, and what it adopts.
    governed(scene, &worker, &["unshare", "pid", "thread"], SKILL)?;
    governed(scene, &worker, &["unshare", "pid", "fork", "fork"], SKILL)
}

fn in_cgroup(scene: &Scene) -> anyhow::Result<()> {
    let worker = Worker::start(&Entry::Cgroup(&cgroup("tests-one")))?;
    governed(scene, &worker, &[], SKILL)?;
    governed(scene, &worker, &["double-fork"], SKILL)?;
    let outsider = Worker::start(&Entry::Cgroup(&cgroup("tests-free")))?;
    free(scene, &outsider)
}

fn moves_in(scene: &Scene) -> anyhow::Result<()> {
    governed(scene, &*scene.outsider()?, &["into-cgroup", &cgroup("tests-one")], SKILL)
}

fn is_moved_in(scene: &Scene) -> anyhow::Result<()> {
    let worker = Worker::start(&Entry::Outside)?;
    free(scene, &worker)?;
    fs::write(format!("{}/cgroup.procs", cgroup("tests-one")), worker.pid().to_string())?;
    governed(scene, &worker, &[], SKILL)
}

fn threads_moved_in(scene: &Scene) -> anyhow::Result<()> {
    // The thread that acts is not the one that moved.
    governed(scene, &*scene.outsider()?, &["thread-then-into-cgroup", &cgroup("tests-one")], SKILL)
}

fn born(scene: &Scene) -> anyhow::Result<()> {
    governed(scene, &*scene.outsider()?, &["born-in-cgroup", &cgroup("tests-one")], SKILL)
}

fn child_cgroup(scene: &Scene) -> anyhow::Result<()> {
    let worker = Worker::start(&Entry::Cgroup(&cgroup("tests-one/inner")))?;
    governed(scene, &worker, &[], SKILL)
}

fn new_child_cgroup(scene: &Scene) -> anyhow::Result<()> {
    for below in ["tests-one/new", "tests-one/new/newer", "tests-one/inner/new"] {
        fs::create_dir_all(cgroup(below))?;
        governed(scene, &*scene.outsider()?, &["into-cgroup", &cgroup(below)], SKILL)?;
        governed(scene, &*scene.outsider()?, &["born-in-cgroup", &cgroup(below)], SKILL)?;
    }
    // Gone and made again: another cgroup with the same name.
    fs::remove_dir(cgroup("tests-one/new/newer"))?;
    fs::create_dir(cgroup("tests-one/new/newer"))?;
    governed(scene, &*scene.outsider()?, &["into-cgroup", &cgroup("tests-one/new/newer")], SKILL)?;
    fs::create_dir_all(cgroup("tests-free/new"))?;
    let outsider = Worker::start(&Entry::Cgroup(&cgroup("tests-free/new")))?;
    free(scene, &outsider)
}

/// A worker that was in the cgroup or came by `enforcer run`, and is moved from outside.
fn moved_out(scene: &Scene) -> anyhow::Result<()> {
    for entry in [Entry::Cgroup(&cgroup("tests-one")), Entry::Run(SKILL)] {
        let worker = Worker::start(&entry)?;
        governed(scene, &worker, &[], SKILL)?;
        for name in ["tests-free", ""] {
            fs::write(format!("{}/cgroup.procs", cgroup(name)), worker.pid().to_string())?;
            governed(scene, &worker, &[], SKILL)?;
        }
        // It cannot move itself, but be born elsewhere, which is no use either.
        let outcome = worker.act(&["put", &format!("{}/cgroup.procs", cgroup("tests-free")), "0"])?;
        ensure!(outcome.status == libc::EPERM, "{outcome:?}");
        let mark = scene.mark();
        governed(scene, &worker, &["born-in-cgroup", &cgroup("tests-free")], SKILL)?;
        let id = fs::metadata(cgroup("tests-free"))?.ino();
        scene.events().wait(mark, "the birth elsewhere", |e| {
            e.text("kind") == "move" && e.text("skill") == SKILL && e.0["object"]["ino"] == id
        })?;
        let mark = scene.mark();
        governed(scene, &worker, &["fork"], SKILL)?;
        let moves = scene.events().since(mark).into_iter().filter(|e| e.text("kind") == "move").count();
        ensure!(moves == 0, "a birth in the same cgroup was told as a move");
    }
    // A thread alone, within a threaded subtree.
    let (domain, threads) = (cgroup("tests-domain"), cgroup("tests-domain/threads"));
    fs::create_dir_all(&threads)?;
    fs::write(format!("{threads}/cgroup.type"), "threaded")?;
    let worker = scene.worker(SKILL)?;
    for list in [format!("{domain}/cgroup.procs"), format!("{threads}/cgroup.threads")] {
        fs::write(&list, worker.pid().to_string()).context(list)?;
        governed(scene, &worker, &[], SKILL)?;
    }
    Ok(())
}

fn moved_to_another(scene: &Scene) -> anyhow::Result<()> {
    let worker = Worker::start(&Entry::Run(SKILL))?;
    fs::write(format!("{}/cgroup.procs", cgroup("tests-two")), worker.pid().to_string())?;
    governed(scene, &worker, &[], SKILL)?;
    governed(scene, &worker, &["born-in-cgroup", &cgroup("tests-two")], SKILL)
}

/// Processes that were in a cgroup before it was governed and have done nothing since: one moves itself by what it has open from
/// before, the other is moved by a friend.
fn sleeper(scene: &Scene) -> anyhow::Result<()> {
    let manifest = policy(scene)?;
    let two = scene.make_dir("two")?;
    let with = format!(
        "{manifest}  sleepers:\n    match: {{cgroup: /tests-asleep}}\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    \
         allow_delete: [{two}]\n"
    );
    let moved = sleepers(scene, "sleepers", "tests-asleep", || scene.daemon(|d| d.reload(&with).map(drop)));
    scene.daemon(|d| d.reload(&manifest))?;
    moved?;
    sleepers(scene, "other", "tests-asleep-too", || {
        let outcome = command(&[ENFORCER, "attach", "--skill", "other", "--cgroup", "/tests-asleep-too"])?;
        ensure!(outcome.status == 0, "{outcome:?}");
        Ok(())
    })
}

fn sleepers(scene: &Scene, skill: &str, name: &str, govern: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (dir, elsewhere) = (cgroup(name), format!("{}/cgroup.procs", cgroup("tests-free")));
    fs::create_dir_all(&dir)?;
    let start = |dir: &str| {
        let file = fs::File::options().write(true).open(&elsewhere)?;
        Worker::start_with(&Entry::Cgroup(dir), |command| bring(command, file.into()))
    };
    let (holder, pushed, beside) = (start(&dir)?, start(&dir)?, start(&cgroup("tests-beside"))?);
    govern()?;
    let moves = ["here", "write-fd", &BROUGHT.to_string(), "0"];
    holder.act(&moves)?.done()?;
    beside.act(&moves)?.done()?;
    fs::write(&elsewhere, pushed.pid().to_string())?;
    for worker in [&holder, &pushed, &beside] {
        let now = fs::read_to_string(format!("/proc/{}/cgroup", worker.pid()))?;
        ensure!(now.contains("tests-free"), "it was not moved: {now}");
    }
    governed(scene, &holder, &[], skill)?;
    governed(scene, &pushed, &[], skill)?;
    free(scene, &beside)
}

/// The thread that acts is not the first one, and its process is in the governed cgroup no more.
fn thread_moved_through(scene: &Scene) -> anyhow::Result<()> {
    let (one, elsewhere) = (cgroup("tests-one"), cgroup("tests-free"));
    governed(scene, &*scene.outsider()?, &["thread-then-through-cgroup", &one, &elsewhere], SKILL)?;
    let file = scene.make_file("denied/through/file")?;
    let way = ["thread-then-through-cgroup", &cgroup("tests-beside"), &elsewhere, "unlink", &file];
    scene.outside(&way)?.done()?;
    gone(&file)
}

fn two_skills(scene: &Scene) -> anyhow::Result<()> {
    governed(scene, &*scene.worker(SKILL)?, &[], SKILL)?;
    governed(scene, &*scene.worker("other")?, &[], "other")
}

fn narrower(scene: &Scene) -> anyhow::Result<()> {
    governed(scene, &*scene.outsider()?, &["into-cgroup", &cgroup("tests-one/narrow")], "narrow")
}

fn control_socket(scene: &Scene) -> anyhow::Result<()> {
    let inside = |words: &[&str]| {
        let run: &[&str] = &[ENFORCER, "run", "--skill", SKILL, "--", ENFORCER];
        command(&[run, words].concat())
    };
    // The socket that a rule names has come since the daemon began, which may be resolved any moment.
    let manifest = policy(scene)?;
    scene.daemon(|d| d.reload(&manifest))?;
    let policy = scene.daemon(|d| Ok(d.policy().to_string_lossy().into_owned()))?;
    let cases: [&[&str]; 4] = [
        &["status"],
        &["events"],
        &["reload", &policy],
        &["run", "--skill", "other", "--", "/usr/bin/bash", "-c", "echo ran"],
    ];
    for words in cases {
        let generation = scene.daemon(|d| d.generation())?;
        let outcome = inside(words)?;
        ensure!(outcome.status == 1 && !outcome.out.contains("ran"), "{words:?}: {outcome:?}");
        ensure!(outcome.err.contains("governed"), "{words:?} said {:?}", outcome.err);
        ensure!(scene.daemon(|d| d.generation())? == generation, "only a reload from outside counts");
        // The same from outside.
        let outcome = command(&[&[ENFORCER], words].concat())?;
        ensure!(outcome.status == 0, "{words:?}: {outcome:?}");
    }
    Ok(())
}

/// Its skill may connect there, so that the connection stays.
fn connected_before(scene: &Scene) -> anyhow::Result<()> {
    let outcome = scene.outside(&["control-then-into-cgroup", &cgroup("tests-one")])?;
    ensure!(!outcome.refused()?.out.contains("generation"), "{outcome:?}");
    scene.outside(&["control-then-into-cgroup", &cgroup("tests-free")])?.done()?;
    Ok(())
}

fn other_user(_: &Scene) -> anyhow::Result<()> {
    let outcome = command(&["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", ENFORCER, "status"])?;
    ensure!(outcome.status == 1 && !outcome.out.contains("generation"), "{outcome:?}");
    Ok(())
}

fn removed_skill(scene: &Scene) -> anyhow::Result<()> {
    let worker = Worker::start(&Entry::Run("other"))?;
    let manifest = policy(scene)?;
    let without = manifest.split("  other:").next().unwrap_or_default().to_owned();
    let file = scene.make_file("two/removed/file")?;
    scene.daemon(|d| d.reload(&without))?;
    let mark = scene.mark();
    let outcome = worker.act(&["unlink", &file]);
    scene.daemon(|d: &mut Daemon| d.reload(&manifest))?;
    outcome?.refused()?;
    there(&file)?;
    let event = scene.event(mark, "delete", "deny", &file)?;
    ensure!(event.text("reason") == "skill is not in the policy in force", "the reason is {:?}", event.text("reason"));
    worker.act(&["unlink", &file])?.done()?;
    gone(&file)
}

/// It governs from the moment in which it is made, and so does one of the same name that comes after it.
fn appears(scene: &Scene) -> anyhow::Result<()> {
    let (above, dir, beside) =
        (cgroup("tests-later"), cgroup(&format!("tests-later/{LATER}")), cgroup("tests-later/beside"));
    ensure!(fs::symlink_metadata(&dir).is_err(), "it is there already");
    let warned = scene.daemon(|d| d.status())?["warnings"].to_string();
    ensure!(warned.contains(LATER), "{warned}");
    for _ in 0..3 {
        fs::create_dir_all(&dir)?;
        fs::create_dir_all(format!("{dir}/below"))?;
        governed(scene, &*scene.outsider()?, &["born-in-cgroup", &dir], "later")?;
        governed(scene, &*scene.outsider()?, &["born-in-cgroup", &format!("{dir}/below")], "later")?;
        fs::create_dir_all(&beside)?;
        free(scene, &Worker::start(&Entry::Cgroup(&beside))?)?;
        for gone in [&format!("{dir}/below"), &dir, &beside, &above] {
            let removed = eventually(Duration::from_secs(5), || fs::remove_dir(gone).is_ok());
            ensure!(removed, "{gone} cannot be removed");
        }
    }
    Ok(())
}

/// What was made below a cgroup goes with its name, although the skill names another now.
fn unnamed(scene: &Scene) -> anyhow::Result<()> {
    let manifest = policy(scene)?;
    let below = cgroup("tests-two/made");
    fs::create_dir_all(&below)?;
    governed(scene, &*scene.outsider()?, &["born-in-cgroup", &below], "other")?;
    let elsewhere = manifest.replace("cgroup: /tests-two", "cgroup: /tests-elsewhere");
    fs::create_dir_all(cgroup("tests-elsewhere"))?;
    scene.daemon(|d| d.reload(&elsewhere))?;
    let freed = Worker::start(&Entry::Cgroup(&below)).and_then(|worker| free(scene, &worker));
    let governs = governed(scene, &*scene.outsider()?, &["born-in-cgroup", &cgroup("tests-elsewhere")], "other");
    scene.daemon(|d| d.reload(&manifest))?;
    freed?;
    governs?;
    governed(scene, &*scene.outsider()?, &["born-in-cgroup", &below], "other")
}
