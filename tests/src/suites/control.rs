//! The commands of a running daemon: status, events, reload, a second daemon; and the flood.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::bad;
use crate::harness::{
    ENFORCER, command,
    daemon::{SOCKET, ask},
    eventually,
    runner::Suite,
    scene::{Scene, gone, there},
    succeed,
};

pub(super) const SUITE: Suite = Suite {
    name: "control",
    policy: Some(policy),
    tests: &[
        ("status", status),
        ("events_and_follow", events),
        ("more_listeners_than_there_are_places", crowd),
        ("reload_swaps_rules", reload),
        ("sighup_swaps_rules", hangup),
        ("sighup_with_a_bad_manifest_changes_nothing", failed_hangup),
        ("reload_of_another_file", reload_other),
        ("a_failed_reload_changes_nothing", failed_reload),
        ("a_second_daemon_is_refused", second),
        ("run_with_a_policy_beside_a_daemon_is_refused", run_beside),
        ("garbage_on_the_control_socket", garbage),
        ("a_reload_in_a_loop_lets_nothing_through", reload_loop),
        ("a_flood_is_counted_exactly", flood),
    ],
};

const SKILL: &str = "controlled";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    manifest(scene, "one")
}

/// The policy with another directory allowed.
fn manifest(scene: &Scene, side: &str) -> anyhow::Result<String> {
    scene.make_dir("one")?;
    scene.make_dir("two")?;
    let allowed = scene.make_dir(side)?;
    Ok(format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}]\n    allow_delete: [{allowed}]\n"
    ))
}

/// What one may delete in `side` is refused in the other directory.
fn in_force(scene: &Scene, side: &str) -> anyhow::Result<()> {
    let other = if side == "one" { "two" } else { "one" };
    let (allowed, denied) = (scene.make_file(&format!("{side}/f"))?, scene.make_file(&format!("{other}/f"))?);
    scene.act(SKILL, &["unlink", &denied])?.refused()?;
    there(&denied)?;
    scene.act(SKILL, &["unlink", &allowed])?.done()?;
    gone(&allowed)
}

fn status(scene: &Scene) -> anyhow::Result<()> {
    let text = succeed(&[ENFORCER, "status"])?;
    let pid = scene.daemon(|d| Ok(d.pid()))?;
    ensure!(text.contains(SKILL) && text.contains(&pid.to_string()) && text.contains("enforce"), "{text}");
    let json: Value = serde_json::from_str(&succeed(&[ENFORCER, "status", "--json"])?)?;
    ensure!(json["pid"] == pid, "{json}");
    ensure!(json["skills"][0]["name"] == SKILL && json["skills"][0]["binaries"] == 1, "{json}");
    for key in ["policy", "generation", "cgroups", "dropped", "warnings", "version", "kernel"] {
        ensure!(!json[key].is_null(), "no {key} in {json}");
    }
    Ok(())
}

fn events(scene: &Scene) -> anyhow::Result<()> {
    let denied = |n: u32| scene.make_file(&format!("two/events/{n}"));
    let before = denied(1)?;
    scene.act(SKILL, &["unlink", &before])?.refused()?;
    let found = eventually(Duration::from_secs(5), || {
        succeed(&[ENFORCER, "events", "--json"]).is_ok_and(|text| text.contains(&before))
    });
    ensure!(found, "`enforcer events` does not show what happened before");
    let mut child = Command::new(ENFORCER)
        .args(["events", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .context("enforcer events")?;
    let output = child.stdout.take().context("its output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let wait = |path: &str| -> bool {
        while let Ok(line) = lines.recv_timeout(Duration::from_secs(5)) {
            if line.contains(path) {
                return true;
            }
        }
        false
    };
    let old = wait(&before);
    let after = denied(2)?;
    scene.act(SKILL, &["unlink", &after])?.refused()?;
    let new = wait(&after);
    child.kill()?;
    child.wait()?;
    ensure!(old, "`enforcer events --follow` does not begin with what happened before");
    ensure!(new, "`enforcer events --follow` does not go on");
    Ok(())
}

/// Whoever listens for ever takes no place from who asks something, and a group none from root.
fn crowd(_: &Scene) -> anyhow::Result<()> {
    const FOLLOWERS: usize = 48;
    const CONNECTIONS: usize = 64;
    let connect = || -> anyhow::Result<UnixStream> {
        let stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    };
    let follow = || -> anyhow::Result<(UnixStream, String)> {
        let mut stream = connect()?;
        writeln!(stream, "{}", json!({"op": "events", "follow": true}))?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok((stream, line))
    };
    let status = || ask(&json!({"op": "status"}));
    let mut followers = vec![];
    for _ in 0..FOLLOWERS {
        // One of another test may just be going.
        let (mut stream, mut line) = follow()?;
        eventually(Duration::from_secs(5), || {
            if line.contains("\"error\"")
                && let Ok(again) = follow()
            {
                (stream, line) = again;
            }
            !line.contains("\"error\"")
        });
        ensure!(!line.contains("\"error\""), "{line}");
        followers.push(stream);
    }
    let (_, line) = follow()?;
    ensure!(line.contains("48 follow the events already"), "{line}");
    status()?;
    // The rest of the places, by who says nothing.
    let silent = (FOLLOWERS..CONNECTIONS).map(|_| connect()).collect::<anyhow::Result<Vec<_>>>()?;
    // The connections that were served before may still be ending.
    let full = eventually(Duration::from_secs(5), || status().is_err_and(|e| e.to_string().contains("64 connections")));
    ensure!(full, "{:?}", status());
    drop((followers, silent));
    ensure!(eventually(Duration::from_secs(20), || status().is_ok()), "{:?}", status());
    Ok(())
}

fn reload(scene: &Scene) -> anyhow::Result<()> {
    in_force(scene, "one")?;
    let generation = scene.daemon(|d| d.generation())?;
    let policy = scene.daemon(|d| Ok(d.policy().to_owned()))?;
    fs::write(&policy, manifest(scene, "two")?)?;
    let said = succeed(&[ENFORCER, "reload"])?;
    ensure!(said.contains(&format!("generation {}", generation + 1)), "{said}");
    in_force(scene, "two")?;
    fs::write(&policy, manifest(scene, "one")?)?;
    succeed(&[ENFORCER, "reload"])?;
    in_force(scene, "one")
}

fn hangup(scene: &Scene) -> anyhow::Result<()> {
    for side in ["two", "one"] {
        let generation = scene.daemon(|d| d.generation())?;
        let text = manifest(scene, side)?;
        scene.daemon(|d| {
            fs::write(d.policy(), &text)?;
            d.signal(libc::SIGHUP);
            Ok(())
        })?;
        let swapped = eventually(Duration::from_secs(10), || {
            scene.daemon(|d| d.generation()).is_ok_and(|now| now == generation + 1)
        });
        ensure!(swapped, "the policy was not read again");
        in_force(scene, side)?;
    }
    Ok(())
}

/// Sends the daemon a SIGHUP and waits until its log says all of this about it.
fn hang_up(scene: &Scene, words: &[&str]) -> anyhow::Result<()> {
    let before = scene.daemon(|d| Ok(d.errors()))?;
    scene.daemon(|d| {
        d.signal(libc::SIGHUP);
        Ok(())
    })?;
    let new = || scene.daemon(|d| Ok(d.errors()))?.strip_prefix(&before).map(str::to_owned).context("another log");
    let said = eventually(Duration::from_secs(10), || new().is_ok_and(|text| words.iter().all(|w| text.contains(w))));
    ensure!(said, "{words:?} are not in the log: {:?}", new()?);
    Ok(())
}

fn failed_hangup(scene: &Scene) -> anyhow::Result<()> {
    const FAILED: &str = "not reloaded";
    const STAYS: &str = "stays in force";
    const LONG: usize = 4096;
    in_force(scene, "one")?;
    let policy = scene.daemon(|d| Ok(d.policy().to_owned()))?;
    let generation = scene.daemon(|d| d.generation())?;
    for case in bad::cases(&scene.dir)? {
        // What takes long to read is `reload`'s, and what has no content is for below.
        let Ok(content) = fs::read(&case.file) else { continue };
        if content.len() > LONG || case.name == "bomb" {
            continue;
        }
        fs::write(&policy, content)?;
        hang_up(scene, &[FAILED, &policy.to_string_lossy(), case.word, STAYS]).context(case.name)?;
        ensure!(scene.daemon(|d| d.generation())? == generation, "{}: the generation has changed", case.name);
    }
    in_force(scene, "one")?;
    // And it goes on listening.
    fs::write(&policy, manifest(scene, "two")?)?;
    hang_up(scene, &["enforcer: reloaded:"])?;
    ensure!(scene.daemon(|d| d.generation())? == generation + 1, "a good policy was not read");
    in_force(scene, "two")?;
    // A manifest that goes and comes is an object that is resolved again, which counts as a generation of its own.
    fs::remove_file(&policy)?;
    hang_up(scene, &[FAILED, "No such file", STAYS])?;
    in_force(scene, "two")?;
    fs::write(&policy, manifest(scene, "one")?)?;
    hang_up(scene, &["enforcer: reloaded:"])?;
    in_force(scene, "one")
}

fn reload_other(scene: &Scene) -> anyhow::Result<()> {
    let other = scene.make_file("other.yaml")?;
    fs::write(&other, manifest(scene, "two")?)?;
    let back = scene.daemon(|d| Ok(d.policy().to_string_lossy().into_owned()))?;
    ensure!(succeed(&[ENFORCER, "reload", &other])?.contains(&other), "the answer does not name the file");
    in_force(scene, "two")?;
    ensure!(succeed(&[ENFORCER, "status"])?.contains(&other), "the status does not name the file");
    fs::write(&back, manifest(scene, "one")?)?;
    succeed(&[ENFORCER, "reload", &back])?;
    in_force(scene, "one")
}

fn failed_reload(scene: &Scene) -> anyhow::Result<()> {
    let good = scene.daemon(|d| Ok(d.policy().to_string_lossy().into_owned()))?;
    let generation = scene.daemon(|d| d.generation())?;
    for case in bad::cases(&scene.dir)? {
        let outcome = command(&[ENFORCER, "reload", &case.file])?;
        ensure!(outcome.status == 1, "{}: reload ended with {}: {}", case.name, outcome.status, outcome.out);
        case.explained(&outcome.err)?;
        ensure!(outcome.err.contains("stays in force"), "{}: {:?}", case.name, outcome.err);
    }
    ensure!(scene.daemon(|d| d.generation())? == generation, "the generation has changed");
    ensure!(scene.daemon(|d| d.status())?["policy"] == good, "the status names another file");
    in_force(scene, "one")
}

fn second(scene: &Scene) -> anyhow::Result<()> {
    let (pid, policy) = scene.daemon(|d| Ok((d.pid().to_string(), d.policy().to_string_lossy().into_owned())))?;
    let outcome = command(&[ENFORCER, "daemon", "--policy", &policy])?;
    ensure!(outcome.status == 1, "{outcome:?}");
    ensure!(outcome.err.contains("another daemon") && outcome.err.contains(&pid), "{:?}", outcome.err);
    // Nor with a directory of its own: one host has one.
    let elsewhere = scene.dir.join("run").to_string_lossy().into_owned();
    let outcome = command(&[ENFORCER, "daemon", "--policy", &policy, "--runtime-dir", &elsewhere])?;
    ensure!(outcome.status == 1, "{outcome:?}");
    ensure!(outcome.err.contains("another daemon") && outcome.err.contains(&pid), "{:?}", outcome.err);
    in_force(scene, "one")
}

fn run_beside(scene: &Scene) -> anyhow::Result<()> {
    let (pid, policy) = scene.daemon(|d| Ok((d.pid().to_string(), d.policy().to_string_lossy().into_owned())))?;
    let outcome = command(&[ENFORCER, "run", "--policy", &policy, "--skill", SKILL, "--", "/usr/bin/id"])?;
    ensure!(outcome.status != 0 && outcome.out.is_empty() && outcome.err.contains(&pid), "{outcome:?}");
    in_force(scene, "one")
}

fn garbage(scene: &Scene) -> anyhow::Result<()> {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };
    let long = "x".repeat(2 << 20);
    for text in
        ["\n", "{}\n", "{\"op\":\"unloads\"}\n", "\u{0}\u{1}\n", "[[[[[[[[\n", long.as_str(), "{\"op\":\"status\"}"]
    {
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // The daemon may hang up before it has read all.
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        ensure!(!answer.contains("\"ok\""), "{text:.40} was carried out: {answer}");
    }
    succeed(&[ENFORCER, "status"])?;
    in_force(scene, "one")
}

/// Two policies that both deny the victim are swapped all the time.
fn reload_loop(scene: &Scene) -> anyhow::Result<()> {
    const RELOADS: u32 = 20;
    let victim = scene.make_file("victim")?;
    let (one, two) = (manifest(scene, "one")?, manifest(scene, "two")?);
    let worker = scene.worker(SKILL)?;
    let path = victim.clone();
    let attack = thread::spawn(move || worker.act(&["unlink-many", &path, "2", "4000"]));
    for n in 0..RELOADS {
        let text = if n % 2 == 0 { &two } else { &one };
        scene.daemon(|d| d.reload(text))?;
    }
    let outcome = attack.join().map_err(|_| anyhow::anyhow!("the attack panicked"))??;
    outcome.refused()?;
    there(&victim)?;
    scene.daemon(|d| d.reload(&one))?;
    in_force(scene, "one")
}

/// Every refusal is an event, or is counted as lost.
fn flood(scene: &Scene) -> anyhow::Result<()> {
    const THREADS: u64 = 4;
    const EACH: u64 = 12_500;
    let victim = scene.make_file("flooded")?;
    // What the tests before have left in the ring.
    let sentinel = scene.make_file("sentinel")?;
    let mark = scene.mark();
    scene.act(SKILL, &["unlink", &sentinel])?.refused()?;
    scene.event(mark, "delete", "deny", &sentinel)?;
    let mark = scene.mark();
    scene.act(SKILL, &["unlink-many", &victim, &THREADS.to_string(), &EACH.to_string()])?.refused()?;
    there(&victim)?;
    let counts = || {
        let events = scene.events().since(mark);
        let shown = events.iter().filter(|e| e.is("delete", "deny", &victim)).count() as u64;
        let dropped: u64 = events.iter().filter(|e| e.text("kind") == "drop").map(|e| e.number("dropped")).sum();
        (shown, dropped)
    };
    let exact = eventually(Duration::from_mins(2), || {
        thread::sleep(Duration::from_millis(200));
        let (shown, dropped) = counts();
        shown + dropped == THREADS * EACH
    });
    let (shown, dropped) = counts();
    let errors = scene.daemon(|d| Ok(d.errors()))?;
    ensure!(exact, "{shown} shown and {dropped} lost are not {}; the daemon said {errors}", THREADS * EACH);
    // And it goes on.
    let mark = scene.mark();
    scene.act(SKILL, &["unlink", &sentinel])?.refused()?;
    scene.event(mark, "delete", "deny", &sentinel)?;
    Ok(())
}
