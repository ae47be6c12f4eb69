//! One QEMU: started, listened to, and gone when this function returns.
//!
//! Three virtio ports carry the command's stdout, its stderr and the status, each over a socket of its own; the kernel's
//! console goes to a file. A guest writes to a port only when the host has taken what came before, so the status is
//! there only after all output is.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write},
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{Ending, Job, Root, console, image::ROOTFS_INIT_PATH};
use crate::ui;

/// From power-on until the session says hello; systemd has more to do until then.
const BOOT_LIMIT: Duration = Duration::from_mins(2);
const BOOT_LIMIT_SYSTEMD: Duration = Duration::from_mins(5);
/// Memory, in MiB, where nobody asks for another amount.
const MEMORY: u32 = 1024;
const MEMORY_ROOTFS: u32 = 2048;
/// How often signals and the guest's death are looked for.
const TICK: Duration = Duration::from_millis(100);
/// Lines of the console that an error shows.
const CONSOLE_LINES: usize = 25;

enum Event {
    Hello,
    Status(u8),
    Out(Vec<u8>),
    Err(Vec<u8>),
}

/// Kills QEMU, by its own process id, however we leave.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots `initrd`, with `disk` for the root where there is one, and returns how it ended, and whether the guest got as far as init.
pub(super) fn run(
    dir: &TempDir,
    initrd: &Path,
    disk: Option<&Path>,
    job: &Job,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(Ending, bool)> {
    let interrupted = watch_signals()?;
    let log = dir.path().join("console.log");
    let _ = fs::remove_file(&log);
    let (send, receive) = sync_channel(64);
    let gone = Arc::new(AtomicBool::new(false));
    let mut command = command(dir, initrd, disk, job, &log);
    for (port, listen) in [
        ("control", control as fn(UnixStream, &SyncSender<Event>)),
        ("out", |stream, send| relay(stream, send, Event::Out)),
        ("err", |stream, send| relay(stream, send, Event::Err)),
    ] {
        let path = dir.path().join(port);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        command
            .arg("-chardev")
            .arg(format!("socket,id={port},path={}", path.display()))
            .arg("-device")
            .arg(format!("virtserialport,chardev={port},name={port}"));
        let (send, gone) = (send.clone(), Arc::clone(&gone));
        thread::spawn(move || {
            if let Some(stream) = accept(&listener, &gone) {
                listen(stream, &send);
            }
        });
    }
    drop(send);
    let mut guest = Guest(command.spawn().context("cannot start qemu-system-x86_64")?);
    let result = Listener {
        guest: &mut guest,
        receive: &receive,
        interrupted,
        gone: &gone,
        boot_limit: if job.root == Some(Root::Systemd) { BOOT_LIMIT_SYSTEMD } else { BOOT_LIMIT },
        timeout: job.machine.timeout,
        started: false,
    }
    .listen(out, err);
    drop(guest);
    gone.store(true, Ordering::Relaxed);
    let (ending, started) = result?;
    Ok(match ending {
        Ending::Lost(why) => {
            let text = console(&log);
            let why = match complaint(&text) {
                Some(line) => format!("{why}: {line}"),
                None => why,
            };
            let last = ui::last_lines(&text, CONSOLE_LINES);
            let last = if last.trim().is_empty() {
                "(its console is empty)".to_owned()
            } else {
                format!("its console ends with:\n{last}")
            };
            (Ending::Lost(format!("{why}; {last}")), started)
        }
        other => (other, started),
    })
}

fn command(dir: &TempDir, initrd: &Path, disk: Option<&Path>, job: &Job, log: &Path) -> Command {
    let machine = &job.machine;
    let memory = machine.memory.unwrap_or(if disk.is_some() { MEMORY_ROOTFS } else { MEMORY });
    // An oops leaves the kernel in a state that no test result means anything in.
    let mut words = vec!["console=ttyS0 quiet panic=-1 oops=panic lsm=landlock,lockdown,yama,integrity,bpf".to_owned()];
    // setpriv becomes QEMU: should we be killed outright, the kernel takes the guest with us.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-nic", "none", "-device", "virtio-serial-pci"])
        .args(["-cpu", job.kernel.series.cpu()])
        .args(["-m", &memory.to_string()]);
    if machine.icount {
        command.args(["-accel", "tcg,thread=single", "-smp", "1"]);
        command.args(["-icount", "shift=0,sleep=off"]);
    } else {
        let threads = if machine.in_turns { "single" } else { "multi" };
        command.args(["-accel", &format!("tcg,thread={threads}"), "-smp", "2"]);
    }
    if let Some(disk) = disk {
        // What the guest writes goes to a temporary file, so that guests share the disk.
        command.args(["-device", "virtio-blk-pci,drive=root", "-drive"]);
        command.arg(format!("id=root,if=none,format=raw,snapshot=on,file={}", disk.display()));
        words.push(format!("rdinit={ROOTFS_INIT_PATH}"));
    }
    words.extend(machine.append.clone());
    command
        .arg("-kernel")
        .arg(&job.kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .arg("-serial")
        .arg(format!("file:{}", log.display()))
        .args(["-append", &words.join(" ")])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        // Ctrl-C is ours to deal with.
        .process_group(0);
    command
}

/// A flag that Ctrl-C and its like set; at the second time they end the process as usual.
fn watch_signals() -> Result<&'static AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if FLAG.get().is_none() {
        let flag = Arc::new(AtomicBool::new(false));
        if FLAG.set(Arc::clone(&flag)).is_ok() {
            for signal in signal_hook::consts::TERM_SIGNALS {
                signal_hook::flag::register_conditional_shutdown(*signal, 130, Arc::clone(&flag))?;
                signal_hook::flag::register(*signal, Arc::clone(&flag))?;
            }
        }
    }
    Ok(FLAG.get().context("signals are not watched")?)
}

/// Waits for QEMU to connect, for as long as there is one.
fn accept(listener: &UnixListener, gone: &AtomicBool) -> Option<UnixStream> {
    listener.set_nonblocking(true).ok()?;
    while !gone.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).ok()?;
                return Some(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(_) => return None,
        }
    }
    None
}

/// The first line in which the kernel says what went wrong; a long backtrace may hide it from the last lines.
fn complaint(console: &str) -> Option<&str> {
    console
        .lines()
        .find(|line| ["BUG:", "Oops:", "Kernel panic", "general protection"].iter().any(|sign| line.contains(sign)))
        .map(str::trim)
}

/// Reads what init says.
fn control(stream: UnixStream, send: &SyncSender<Event>) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if let Some(event) = parse_control(&line)
            && send.send(event).is_err()
        {
            return;
        }
    }
}

fn parse_control(line: &str) -> Option<Event> {
    match line.split_once(' ') {
        Some(("status", number)) => number.parse().ok().map(Event::Status),
        None if line == "hello" => Some(Event::Hello),
        _ => None,
    }
}

/// Passes on what the command writes.
fn relay(mut stream: UnixStream, send: &SyncSender<Event>, event: fn(Vec<u8>) -> Event) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if send.send(event(buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The state of one conversation with a guest.
struct Listener<'a> {
    guest: &'a mut Guest,
    receive: &'a Receiver<Event>,
    interrupted: &'a AtomicBool,
    gone: &'a AtomicBool,
    boot_limit: Duration,
    timeout: Duration,
    started: bool,
}

impl Listener<'_> {
    fn listen(&mut self, out: &mut dyn Write, err: &mut dyn Write) -> Result<(Ending, bool)> {
        let power_on = Instant::now();
        let mut deadline = power_on + self.boot_limit;
        let mut status = None;
        let mut exit = None;
        loop {
            match self.receive.recv_timeout(TICK) {
                Ok(Event::Hello) => {
                    self.started = true;
                    deadline = Instant::now() + self.timeout;
                }
                Ok(Event::Status(number)) => {
                    status = Some(number);
                    // All output is on our side by now, so there is nothing to wait for: not even for its power-off.
                    self.stop();
                }
                Ok(Event::Out(bytes)) => write(out, &bytes).context("cannot write to stdout")?,
                Ok(Event::Err(bytes)) => write(err, &bytes).context("cannot write to stderr")?,
                Err(RecvTimeoutError::Timeout) => {}
                // All three connections are closed, and everything was read.
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if exit.is_none() {
                exit = self.guest.0.try_wait()?;
                if exit.is_some() {
                    self.gone.store(true, Ordering::Relaxed);
                }
            }
            if self.interrupted.load(Ordering::Relaxed) {
                return Ok((Ending::Interrupted, self.started));
            }
            if status.is_none() && exit.is_none() && Instant::now() > deadline {
                let why = if self.started {
                    format!("the command was not done after {} s", self.timeout.as_secs())
                } else {
                    format!("the guest did not boot within {} s", self.boot_limit.as_secs())
                };
                return Ok((Ending::Lost(why), self.started));
            }
        }
        let ending = match status {
            Some(number) => Ending::Exited(number),
            None => Ending::Lost(format!(
                "the guest died {} ({:.1} s after power-on)",
                if self.started { "before the command ended" } else { "while booting" },
                power_on.elapsed().as_secs_f32()
            )),
        };
        Ok((ending, self.started))
    }

    fn stop(&mut self) {
        // Fails only when it is gone already.
        let _ = self.guest.0.kill();
    }
}

fn write(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_complaint_is_found() {
        let text = "[1] up\n[2] BUG: kernel NULL pointer dereference\n[3] Kernel panic - not syncing\n";
        assert_eq!(complaint(text), Some("[2] BUG: kernel NULL pointer dereference"));
        assert_eq!(complaint("[1] all is well\n"), None);
    }

    #[test]
    fn control_lines_are_read() {
        assert!(matches!(parse_control("hello"), Some(Event::Hello)));
        assert!(matches!(parse_control("status 0"), Some(Event::Status(0))));
        assert!(matches!(parse_control("status 255"), Some(Event::Status(255))));
        for wrong in ["status", "status 256", "status x", "status ", "", "hello there"] {
            assert!(parse_control(wrong).is_none(), "{wrong}");
        }
    }
}
