//! Hosts of one machine, and jobs over them. What a test makes is removed when it ends, even if it
//! fails.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write, stderr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{ON_A_RANK, arguments};

/// The program that makes the hosts.
const HOSTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hosts/hosts");

/// The status of [`HOSTS`] where the system lets nobody make hosts.
const REFUSED: i32 = 77;

/// The options by which `mpirun` and its daemons notice within six seconds that a host is lost.
/// Without them they need eight minutes.
const KEEPALIVE: [&str; 9] = [
    "--mca",
    "oob_tcp_keepalive_time",
    "1",
    "--mca",
    "oob_tcp_keepalive_intvl",
    "1",
    "--mca",
    "oob_tcp_keepalive_probes",
    "5",
];

/// The names of hosts start with this and the number of this process.
const PREFIX: &str = "msoftmax";

/// One at a time: two jobs on few cores could miss each other's deadlines.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static LANS: AtomicUsize = AtomicUsize::new(0);

/// A network of hosts, numbered from 1. Rank r of a job runs on host r + 1.
pub struct Lan {
    name: String,
    pub size: usize,
    _turn: MutexGuard<'static, ()>,
}

impl Lan {
    /// `None`, and a line that says why, where this machine cannot have hosts.
    pub fn new(size: usize) -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let number = LANS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", process::id());
        let made = match missing() {
            Some(reason) => Err((Some(REFUSED), reason)),
            None => {
                remove_left_ones();
                hosts("up", &name, &[&size.to_string()])
            }
        };
        match made {
            Ok(_) => Some(Lan { name, size, _turn: turn }),
            Err((Some(REFUSED), reason)) => {
                // Not `eprintln`, which a test that passes does not show.
                let line = format!("skipped: no hosts on this machine: {}\n", reason.trim());
                stderr().write_all(line.as_bytes()).ok();
                None
            }
            Err((_, reason)) => panic!("{name} cannot be made: {reason}"),
        }
    }

    /// Starts the test on all hosts, one rank each.
    pub fn start(&self, test: &str) -> Running<'_> {
        let directory = TempDir::new().unwrap();
        let mut command = Command::new(HOSTS);
        command
            .env("TMPDIR", directory.path())
            .args(["run", &self.name, &self.size.to_string()])
            .args(KEEPALIVE)
            .args(["-x", ON_A_RANK, "-x", "RAYON_NUM_THREADS"])
            .arg(env::current_exe().unwrap())
            .args(arguments(test))
            .env(ON_A_RANK, "1")
            .env("RAYON_NUM_THREADS", "1");
        let mut mpirun = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        read(mpirun.stdout.take().unwrap(), sender.clone());
        read(mpirun.stderr.take().unwrap(), sender);
        Running { lan: self, mpirun, lines, printed: Vec::new(), _directory: directory }
    }

    pub fn cut_cable_of(&self, host: usize) {
        hosts("cut", &self.name, &[&host.to_string()]).unwrap();
    }

    /// The processes on all hosts.
    fn processes(&self) -> String {
        hosts("processes", &self.name, &[]).unwrap()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if let Err((_, reason)) = hosts("down", &self.name, &[]) {
            writeln!(stderr(), "{} is not removed: {reason}", self.name).ok();
        }
    }
}

/// What this machine lacks.
fn missing() -> Option<String> {
    if fs::metadata("/proc/self").map_or(true, |process| process.uid() != 0) {
        return Some("this user is not root".into());
    }
    let programs = [("ip", "-V", "iproute2"), ("unshare", "-V", "util-linux")];
    let programs = programs.into_iter().chain([("mpirun", "-V", "openmpi-bin")]);
    let mut absent = programs.filter(|(program, version, _)| {
        let run = Command::new(program).arg(version).stdout(Stdio::null()).status();
        !run.is_ok_and(|status| status.success())
    });
    absent.next().map(|(program, _, package)| format!("{program} is missing: install {package}"))
}

/// Removes the hosts of tests that were killed.
fn remove_left_ones() {
    let Ok(listed) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for host in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = host.split_whitespace().next().and_then(|host| host.rsplit_once('-'));
        let Some((name, _)) = name.filter(|(name, _)| name.starts_with(PREFIX)) else { continue };
        let process = name[PREFIX.len()..].split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            hosts("down", name, &[]).ok();
        }
    }
}

/// What an action of [`HOSTS`] prints, or the status and the reason of its failure.
fn hosts(action: &str, name: &str, arguments: &[&str]) -> Result<String, (Option<i32>, String)> {
    let output = Command::new(HOSTS).args([action, name]).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err((output.status.code(), text(&output.stderr)))
}

/// Sends the lines of a stream.
fn read(stream: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.send(line).ok();
        }
    });
}

/// A job over hosts.
pub struct Running<'a> {
    lan: &'a Lan,
    mpirun: Child,
    lines: Receiver<String>,
    printed: Vec<String>,
    /// For the files of `mpirun` and its daemons.
    _directory: TempDir,
}

impl Running<'_> {
    /// What follows `text` on the line that contains it. Ranks print in any order, and the first
    /// line of each follows the name of the test.
    pub fn rest_of_line(&mut self, text: &str, limit: Duration) -> String {
        let end = Instant::now() + limit;
        loop {
            let rest = self.printed.iter().find_map(|line| line.split_once(text));
            if let Some((_, rest)) = rest {
                return rest.into();
            }
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line with {text:?} within {limit:?}: {:#?}", self.printed);
            };
            self.printed.push(line);
        }
    }

    /// Waits for the end of `mpirun` and of every process on the hosts. Returns the status of
    /// `mpirun` and all that was printed.
    pub fn end(mut self, limit: Duration) -> (ExitStatus, Vec<String>) {
        let start = Instant::now();
        let mut status = None;
        loop {
            // The lines end when the last process that could print has ended.
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => self.printed.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(100)),
            }
            status = status.or_else(|| self.mpirun.try_wait().unwrap());
            let left = self.lan.processes();
            if let Some(status) = status
                && left.is_empty()
            {
                self.printed.extend(self.lines.iter());
                return (status, self.printed);
            }
            assert!(
                start.elapsed() < limit,
                "mpirun: {status:?} after {limit:?}, with processes {:?}: {:#?}",
                left.split_whitespace(),
                self.printed
            );
        }
    }
}
