//! Agents' own runtimes, as Debian has them: a script that does what agents do, under a manifest that `policy pin` wrote.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};

use crate::harness::{
    ENFORCER, Output, command, eventually,
    runner::Suite,
    scene::{Scene, gone, holds, there},
    succeed,
};

pub(super) const SUITE: Suite = Suite {
    name: "runtime",
    policy: Some(policy),
    tests: &[("python", python), ("node", node), ("node_without_allow_jit", node_strict), ("perl", perl), ("git", git)],
};

/// Has no `allow_jit`.
const SKILL: &str = "agent";
/// Has it.
const JIT: &str = "compiler";
const PORT: u16 = 18_080;
const OTHER: u16 = 18_081;

/// Paths as people write them; the digests are the tool's.
fn policy(scene: &Scene) -> anyhow::Result<String> {
    let work = scene.make_dir("work")?;
    let file = scene.make_file("policy.yaml")?;
    let rest = format!(
        "allow_delete: [{work}]\n    allow_write: [{work}, /dev/null]\n    network_scope: [\"127.0.0.1:{PORT}/tcp\"]\n"
    );
    let text = format!(
        "version: 1\nskills:\n  {SKILL}:\n    allow_binaries: # the agents\n      - /usr/bin/python3\n      \
         - path: /usr/bin/node # and their tool\n      - /usr/bin/perl\n      - /usr/bin/git\n    {rest}  \
         {JIT}:\n    allow_binaries:\n      - /usr/bin/node\n      - /usr/bin/git\n    allow_jit: true\n    {rest}"
    );
    fs::write(&file, &text)?;
    succeed(&[ENFORCER, "policy", "pin", &file])?;
    let pinned = fs::read_to_string(&file)?;
    for path in ["/usr/bin/python3", "/usr/bin/node", "/usr/bin/git"] {
        let digest = format!("sha256: \"sha256:{}\"\n", &succeed(&["sha256sum", path])?[..64]);
        ensure!(pinned.contains(&digest), "{path} in {pinned}");
    }
    ensure!(pinned.contains("# the agents\n") && pinned.contains("# and their tool\n"), "{pinned}");
    succeed(&[ENFORCER, "policy", "check", "--strict", &file])?;
    Ok(pinned)
}

/// A web server that the agents talk to, and one that they may not reach; each keeps a log of its own.
struct Nginx {
    child: Child,
    dir: String,
}

impl Nginx {
    fn start(dir: String) -> anyhow::Result<Self> {
        let server = |port: u16| {
            format!("server {{ listen 127.0.0.1:{port}; access_log {dir}/{port}.log; return 200 answer; }} ")
        };
        let conf = format!("{dir}/nginx.conf");
        let text = format!(
            "daemon off; pid {dir}/pid; error_log {dir}/error.log; events {{}} http {{ {}{} }}",
            server(PORT),
            server(OTHER)
        );
        fs::write(&conf, text)?;
        let child =
            Command::new("nginx").args(["-c", &conf]).stdin(Stdio::null()).spawn().context("cannot start nginx")?;
        let nginx = Self { child, dir };
        let is_up = eventually(Duration::from_secs(20), || {
            command(&["curl", "--silent", &format!("http://127.0.0.1:{PORT}/up")]).is_ok_and(|o| o.out == "answer")
        });
        ensure!(is_up, "nginx does not answer: {:?}", fs::read_to_string(format!("{}/error.log", nginx.dir)));
        Ok(nginx)
    }

    fn log(&self, port: u16) -> anyhow::Result<String> {
        fs::read_to_string(format!("{}/{port}.log", self.dir)).context("nginx's log")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // SAFETY: kill has no memory preconditions; the pid is a child of ours that was not waited for.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        let _ = self.child.wait();
    }
}

/// Both scripts do the same: each line that they print is an act's outcome.
const EXPECTED: &str = "committed\nEPERM\nEPERM\nanswer\nEPERM\n";

const PYTHON: &str = r#"
import errno, os, requests, subprocess, sys
work = sys.argv[1]
git = ["/usr/bin/git", "-C", work + "/tree", "-c", "user.name=a", "-c", "user.email=a@localhost"]
subprocess.run(["/usr/bin/git", "init", "--quiet", work + "/tree"], check=True)
open(work + "/tree/note", "w").write("written")
subprocess.run(git + ["add", "note"], check=True)
subprocess.run(git + ["commit", "--quiet", "--message", "a"], check=True)
print("committed")
os.unlink(work + "/scrap")
for act in (lambda: subprocess.run(["/usr/bin/curl", "--version"]), lambda: os.unlink(work + "/../keep")):
    try:
        act()
        print("done")
    except OSError as e:
        print(errno.errorcode[e.errno])
print(requests.get("http://127.0.0.1:18080/python").text)
try:
    requests.get("http://127.0.0.1:18081/python")
    print("reached")
except requests.ConnectionError as e:
    print("EPERM" if "Errno 1]" in str(e) else e)
"#;

/// Loops long enough to be compiled, and has code of its own compiled.
const NODE: &str = r#"
const { execFileSync } = require("child_process"), fs = require("fs"), http = require("http");
let sum = 0;
for (let i = 0; i < 3e6; i++) sum = (sum + i * i) % 1000003;
new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));
const work = process.argv[2], git = "/usr/bin/git";
const at = ["-C", work + "/tree", "-c", "user.name=a", "-c", "user.email=a@localhost"];
execFileSync(git, ["init", "--quiet", work + "/tree"]);
fs.writeFileSync(work + "/tree/note", "written");
execFileSync(git, at.concat(["add", "note"]));
execFileSync(git, at.concat(["commit", "--quiet", "--message", "a"]));
console.log("committed");
fs.unlinkSync(work + "/scrap");
for (const act of [() => execFileSync("/usr/bin/curl", ["--version"]), () => fs.unlinkSync(work + "/../keep")]) {
  try { act(); console.log("done"); } catch (e) { console.log(e.code); }
}
http.get("http://127.0.0.1:18080/node", (answer) => {
  let text = "";
  answer.on("data", (piece) => (text += piece));
  answer.on("end", () => {
    console.log(text);
    http.get("http://127.0.0.1:18081/node", () => console.log("reached")).on("error", (e) => console.log(e.code));
  });
});
"#;

fn python(scene: &Scene) -> anyhow::Result<()> {
    script(scene, SKILL, "python", "/usr/bin/python3", PYTHON)
}

fn node(scene: &Scene) -> anyhow::Result<()> {
    script(scene, JIT, "node", "/usr/bin/node", NODE)
}

/// Runs a program in a skill.
fn run(skill: &str, words: &[&str]) -> anyhow::Result<Output> {
    command(&[&[ENFORCER, "run", "--skill", skill, "--"], words].concat())
}

fn script(scene: &Scene, skill: &str, name: &str, runtime: &str, script: &str) -> anyhow::Result<()> {
    let nginx = Nginx::start(scene.make_dir(&format!("{name}-nginx"))?)?;
    let work = scene.make_dir(&format!("work/{name}"))?;
    let (scrap, keep) = (scene.make_file(&format!("work/{name}/scrap"))?, scene.make_file("keep")?);
    // `..` of its own directory is the skill's directory: what it may not delete lies above that.
    let script = script.replace("/../keep", "/../../keep");
    let file = scene.make_file(name)?;
    fs::write(&file, script)?;
    let mark = scene.mark();
    let outcome = run(skill, &[runtime, &file, &work])?;
    ensure!(outcome.status == 0 && outcome.out == EXPECTED, "{outcome:?}");
    let commits = succeed(&["git", "-C", &format!("{work}/tree"), "log", "--format=%s"])?;
    ensure!(commits == "a\n", "{commits:?}");
    holds(&format!("{work}/tree/note"), "written")?;
    gone(&scrap)?;
    there(&keep)?;
    ensure!(nginx.log(PORT)?.contains(&format!("GET /{name} ")), "{}", nginx.log(PORT)?);
    ensure!(nginx.log(OTHER)?.is_empty(), "{}", nginx.log(OTHER)?);
    scene.event(mark, "exec", "deny", "/usr/bin/curl")?;
    scene.event(mark, "delete", "deny", &keep)?;
    scene.events().wait(mark, "a connect", |e| e.text("kind") == "connect" && e.port() == u64::from(OTHER)).map(drop)
}

/// Its compiler gets no memory to write code into; without the compiler it runs.
fn node_strict(scene: &Scene) -> anyhow::Result<()> {
    let hello = ["-e", "console.log('hello')"];
    let mark = scene.mark();
    let outcome = run(SKILL, &[&["/usr/bin/node"], &hello[..]].concat())?;
    ensure!(outcome.status != 0 && outcome.out.is_empty(), "{outcome:?}");
    scene.events().wait(mark, "the refusal", |e| {
        e.text("kind") == "map" && e.text("verdict") == "deny" && e.text("reason") == "memory may not become executable"
    })?;
    let outcome = run(SKILL, &[&["/usr/bin/node", "--jitless"], &hello[..]].concat())?;
    ensure!(outcome.status == 0 && outcome.out == "hello\n", "{outcome:?}");
    Ok(())
}

/// Its modules with code of their own are libraries.
fn perl(scene: &Scene) -> anyhow::Result<()> {
    let work = scene.make_dir("work")?;
    let program = "use POSIX; use List::Util 'sum'; use Socket; \
                   open(my $out, '>', \"$ARGV[0]/note.pl\") or die; print $out sum(1..4), ' ', floor(2.5); close $out; \
                   exec '/usr/bin/curl', '--version'; print $!{EPERM} ? 'refused' : 'other'";
    let mark = scene.mark();
    let outcome = run(SKILL, &["/usr/bin/perl", "-e", program, &work])?;
    ensure!(outcome.out == "refused", "{outcome:?}");
    holds(&format!("{work}/note.pl"), "10 2")?;
    scene.event(mark, "exec", "deny", "/usr/bin/curl").map(drop)
}

/// It runs itself for what it does in parts.
fn git(scene: &Scene) -> anyhow::Result<()> {
    let tree = format!("{}/repository", scene.make_dir("work")?);
    let user = ["/usr/bin/git", "-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "safe.directory=*"];
    let git = |words: &[&str]| -> anyhow::Result<String> {
        let outcome = run(SKILL, &[&user[..], words].concat())?;
        ensure!(outcome.status == 0, "{words:?}: {outcome:?}");
        Ok(outcome.out)
    };
    git(&["init", "--quiet", &tree])?;
    fs::write(format!("{tree}/file"), "one\n")?;
    git(&["-C", &tree, "add", "file"])?;
    git(&["-C", &tree, "commit", "--quiet", "--message", "first"])?;
    git(&["-C", &tree, "switch", "--quiet", "--create", "other"])?;
    git(&["-C", &tree, "gc", "--quiet"])?;
    let log = git(&["-C", &tree, "log", "--format=%s", "other"])?;
    ensure!(log == "first\n", "{log:?}");
    there(&format!("{tree}/.git/packed-refs"))
}
