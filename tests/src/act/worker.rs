//! Takes acts on standard input, one JSON array a line, does each in a child, and answers with its status and its output.
//!
//! A child for each act, so that no act changes where the next one starts from. The worker itself has one thread.

use std::{
    fs::File,
    io::{self, BufRead as _, Read as _, Write as _},
    os::fd::FromRawFd as _,
    process::ExitCode,
};

/// Serves until the input ends.
pub(crate) fn serve() -> ExitCode {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let answer = match serde_json::from_str::<Vec<String>>(&line) {
            // A child needs what its parent may not have: room.
            Ok(words) if words.first().is_some_and(|word| word == "here") => {
                let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
                (super::status(&words).into(), String::new())
            }
            Ok(words) => in_child(&words),
            Err(e) => (-1, format!("the order {line:?}: {e}")),
        };
        let answer = serde_json::json!({ "status": answer.0, "out": answer.1 });
        let mut out = io::stdout().lock();
        if writeln!(out, "{answer}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

fn in_child(words: &[String]) -> (i32, String) {
    let mut pipe = [0; 2];
    // SAFETY: the array takes the two descriptors.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return (-1, format!("pipe: {}", io::Error::last_os_error()));
    }
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        -1 => (-1, format!("fork: {}", io::Error::last_os_error())),
        0 => {
            // SAFETY: descriptors of this process; standard input must not be read by two.
            unsafe {
                libc::dup2(pipe[1], 1);
                libc::dup2(pipe[1], 2);
                libc::close(0);
                libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
            }
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let status = super::status(&words);
            let _ = io::stdout().flush();
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(i32::from(status)) }
        }
        child => {
            // SAFETY: the write end is the child's alone now, the read end ours.
            let mut output = unsafe {
                libc::close(pipe[1]);
                File::from_raw_fd(pipe[0])
            };
            let mut text = Vec::new();
            let _ = output.read_to_end(&mut text);
            (wait(child), String::from_utf8_lossy(&text).into_owned())
        }
    }
}

/// Waits for a child; its status as a shell gives it.
pub(crate) fn wait(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the pointer is to a local.
    let waited = unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) };
    if waited != child {
        return -1;
    }
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}
