//! Modes: audit, approvals that nobody gives, and how much is reported.

use anyhow::ensure;

use super::delete::NOT_LISTED;
use crate::{
    act::TOKEN,
    harness::{
        ENFORCER, command,
        listener::Server,
        runner::Suite,
        scene::{Scene, gone, there},
        worker::{Entry, Worker},
    },
};

pub(super) const SUITE: Suite = Suite {
    name: "modes",
    policy: Some(policy),
    tests: &[
        ("audit_reports_and_allows", audit),
        ("audit_of_one_skill_leaves_the_others_enforced", audit_of_one),
        ("require_2fa_denies_what_the_lists_allow", two_factor),
        ("require_2fa_of_a_single_action", two_factor_delete),
        ("require_2fa_with_everything_allowed", two_factor_star),
        ("standard_reports_denials_alone", standard),
        ("basic_standard_and_strict_differ", levels),
    ],
};

const PORT: u16 = 18_090;
const APPROVAL: &str = "requires approval and no approver is there";

fn policy(scene: &Scene) -> anyhow::Result<String> {
    let allowed = scene.make_dir("allowed")?;
    let lists = format!(
        "allow_binaries: [{{path: /usr/lib/enforcer/enforcer-tests}}, {{path: /usr/bin/wc}}]\n    allow_delete: [{allowed}]\n    \
         network_scope: [127.0.0.1:{PORT}]"
    );
    Ok(format!(
        "version: 1\nskills:\n  watched:\n    mode: audit\n    {lists}\n  enforced:\n    {lists}\n  \
         approved:\n    require_2fa: true\n    {lists}\n  \
         careful:\n    require_2fa: [delete]\n    {lists}\n  \
         star:\n    require_2fa: [delete, connect]\n    allow_binaries: [\"*\"]\n    allow_delete: [\"*\"]\n    \
         network_scope: [\"*\"]\n"
    ))
}

/// The reason of a denied or audited act, which did or did not happen.
fn reason(scene: &Scene, mark: crate::harness::events::Mark, kind: &str, verdict: &str) -> anyhow::Result<String> {
    let event = scene
        .events()
        .wait(mark, &format!("{verdict} of {kind}"), |e| e.text("kind") == kind && e.text("verdict") == verdict)?;
    Ok(event.text("reason").to_owned())
}

fn audit(scene: &Scene) -> anyhow::Result<()> {
    let file = scene.make_file("denied/audit/file")?;
    let mark = scene.mark();
    scene.act("watched", &["unlink", &file])?.done()?;
    gone(&file)?;
    let event = scene.event(mark, "delete", "audit", &file)?;
    ensure!(event.text("reason") == NOT_LISTED, "{}", event.0);
    ensure!(event.text("skill") == "watched", "{}", event.0);
    let mark = scene.mark();
    let outcome = scene.act("watched", &["exec", "/usr/bin/id", "--version"])?;
    ensure!(outcome.done()?.out.contains("id (GNU coreutils)"), "{outcome:?}");
    ensure!(reason(scene, mark, "exec", "audit")? == "binary not listed", "another reason");
    let server = Server::start("127.0.0.2", PORT)?;
    let mark = scene.mark();
    scene.act("watched", &["tcp", &server.at()])?.done()?;
    server.got(TOKEN)?;
    ensure!(reason(scene, mark, "connect", "audit")? == "destination not listed", "another reason");
    let later = scene.mark();
    scene.act("watched", &["sendto", &server.at()])?.done()?;
    server.got(TOKEN)?;
    reason(scene, later, "connect", "audit")?;
    let told = scene.events().since(mark).iter().filter(|e| e.text("kind") == "connect").count();
    ensure!(told == 2, "one connect and one datagram are {told} events");
    let mark = scene.mark();
    scene.act("watched", &["socket", "2", "3", "1"])?.done()?;
    reason(scene, mark, "socket", "audit")?;
    let denials = scene.events().since(mark).iter().filter(|e| e.text("verdict") == "deny").count();
    ensure!(denials == 0, "{denials} acts were denied");
    Ok(())
}

fn audit_of_one(scene: &Scene) -> anyhow::Result<()> {
    let file = scene.make_file("denied/one/file")?;
    scene.act("enforced", &["unlink", &file])?.refused()?;
    there(&file)?;
    scene.act("watched", &["unlink", &file])?.done()?;
    gone(&file)
}

fn two_factor(scene: &Scene) -> anyhow::Result<()> {
    // A worker cannot even start in a skill whose every exec needs approval.
    let mark = scene.mark();
    let outcome = command(&[ENFORCER, "run", "--skill", "approved", "--", "/usr/bin/wc", "--version"])?;
    ensure!(outcome.status == 126 && outcome.out.is_empty(), "{outcome:?}");
    ensure!(reason(scene, mark, "exec", "deny")? == APPROVAL, "another reason");
    let mark = scene.mark();
    let outcome = command(&[ENFORCER, "run", "--skill", "approved", "--", "/usr/bin/id", "--version"])?;
    ensure!(outcome.status == 126 && outcome.out.is_empty(), "{outcome:?}");
    ensure!(reason(scene, mark, "exec", "deny")? == "binary not listed", "it must not sound as if asking would help");
    Ok(())
}

fn two_factor_delete(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("allowed/2fa/file")?, scene.make_file("denied/2fa/file")?);
    for (file, wanted) in [(&allowed, APPROVAL), (&denied, NOT_LISTED)] {
        let mark = scene.mark();
        scene.act("careful", &["unlink", file])?.refused()?;
        there(file)?;
        let event = scene.event(mark, "delete", "deny", file)?;
        ensure!(event.text("reason") == wanted, "the reason is {:?}", event.text("reason"));
    }
    let server = Server::start("127.0.0.1", PORT)?;
    scene.act("careful", &["tcp", &server.at()])?.done()?;
    server.got(TOKEN)?;
    scene.act("careful", &["exec", "/usr/bin/wc", "--version"])?.done()?;
    Ok(())
}

fn two_factor_star(scene: &Scene) -> anyhow::Result<()> {
    let file = scene.make_file("denied/star/file")?;
    let mark = scene.mark();
    scene.act("star", &["unlink", &file])?.refused()?;
    there(&file)?;
    ensure!(reason(scene, mark, "delete", "deny")? == APPROVAL, "another reason");
    let server = Server::start("127.0.0.7", PORT)?;
    for act in ["tcp", "sendto", "fastopen"] {
        let mark = scene.mark();
        scene.act("star", &[act, &server.at()])?.refused()?;
        ensure!(reason(scene, mark, "connect", "deny")? == APPROVAL, "another reason");
    }
    server.nothing()?;
    // A raw socket sends without asking again: it needs the approval when it is made.
    scene.act("star", &["socket", "2", "3", "1"])?.refused()?;
    scene.act("star", &["exec", "/usr/bin/id"])?.done()?;
    Ok(())
}

fn standard(scene: &Scene) -> anyhow::Result<()> {
    let (allowed, denied) = (scene.make_file("allowed/standard/file")?, scene.make_file("denied/standard/file")?);
    let mark = scene.mark();
    scene.act("enforced", &["unlink", &allowed])?.done()?;
    scene.act("enforced", &["unlink", &denied])?.refused()?;
    scene.event(mark, "delete", "deny", &denied)?;
    let allows = scene.events().since(mark).iter().filter(|e| e.text("verdict") == "allow").count();
    ensure!(allows == 0, "{allows} allowed acts were reported");
    Ok(())
}

/// A denial at every level, an entry from `standard` on, what is allowed at `strict` alone.
fn levels(scene: &Scene) -> anyhow::Result<()> {
    let manifest = policy(scene)?;
    let mut rounds = vec![];
    for (n, level) in ["basic", "standard", "strict"].iter().enumerate() {
        let text = format!(
            "{manifest}  levelled:\n    match: {{cgroup: /tests-level-{n}}}\n    \
             allow_binaries: [\"*\"]\n    allow_delete: [{}]\n",
            scene.make_dir("allowed")?
        )
        .replace("version: 1\n", &format!("version: 1\naudit_level: {level}\n"));
        let cgroup = format!("/sys/fs/cgroup/tests-level-{n}");
        std::fs::create_dir_all(&cgroup)?;
        scene.daemon(|d| d.reload(&text))?;
        let (allowed, denied) = (scene.make_file("allowed/level")?, scene.make_file(&format!("denied/level-{n}"))?);
        let mark = scene.mark();
        let worker = Worker::start(&Entry::Cgroup(&cgroup))?;
        worker.act(&["unlink", &allowed])?.done()?;
        gone(&allowed)?;
        worker.act(&["unlink", &denied])?.refused()?;
        there(&denied)?;
        // The denial comes last.
        scene.event(mark, "delete", "deny", &denied)?;
        let events = scene.events().since(mark);
        let has = |kind: &str| events.iter().any(|e| e.text("kind") == kind && e.text("verdict") == "allow");
        rounds.push((has("enter"), has("delete")));
    }
    scene.daemon(|d| d.reload(&manifest))?;
    ensure!(rounds == [(false, false), (true, false), (true, true)], "entry and allowed delete by level: {rounds:?}");
    Ok(())
}
