//! Calls with a deadline: a thread of their own makes them.
//!
//! A call that misses its deadline has to return, but the buffers of its MPI request must stay. On
//! the calling thread the two exclude each other: rsmpi ends the process where a request outlives
//! its scope. Here the buffers are those of another thread, which stops for good while it owns
//! them.

use std::cell::{Cell, OnceCell};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use margin_softmax::Error;
use mpi::Threading;
use mpi::environment::threading_support;
use mpi::topology::{Rank, SimpleCommunicator};
use mpi::traits::{Communicator, Group};

use crate::deadline::Deadline;
use crate::report::report;
use crate::roll::{PATIENCE, Roll};

type Job = Box<dyn FnOnce(&Roll) + Send>;

/// A thread that calls MPI, while this one waits for it: at no time do both call MPI.
pub struct Worker {
    pub rank: usize,
    pub size: usize,
    pub timeout: Duration,
    /// `None` when the thread is to end.
    jobs: Option<Sender<Job>>,
    /// For each job, that it is done or missed its deadline.
    done: Receiver<Result<(), Error>>,
    thread: Option<JoinHandle<()>>,
    /// The error of the call that missed its deadline.
    missed: OnceCell<Error>,
    left: Cell<bool>,
}

impl Worker {
    pub fn start(communicator: &SimpleCommunicator, timeout: Duration) -> Result<Self, Error> {
        if timeout.is_zero() {
            let (parameter, expected) = ("timeout in seconds", "> 0");
            return Err(Error::Parameter { parameter, value: 0.0, expected });
        }
        let (rank, size) = (communicator.rank() as usize, communicator.size());
        let refused = |reason| Error::Collective { rank, reason };
        let threading = threading_support();
        if threading < Threading::Serialized {
            return Err(refused(format!(
                "a timeout needs MPI_THREAD_SERIALIZED, and MPI was initialized as {threading:?}"
            )));
        }
        // A communicator cannot be sent to another thread, but its ranks can.
        let (own, world) = (communicator.group(), SimpleCommunicator::world().group());
        let ranks: Vec<Rank> = (0..size).collect();
        let ranks: Option<Vec<Rank>> = own.translate_ranks(&ranks, &world).into_iter().collect();
        let Some(ranks) = ranks else {
            return Err(refused("a timeout needs ranks that are all in MPI_COMM_WORLD".into()));
        };
        let (jobs, queue) = mpsc::channel();
        let (sender, done) = mpsc::channel();
        let work = move || serve(&ranks, (rank, timeout), &queue, &sender);
        let thread = thread::Builder::new()
            .name("margin-softmax-mpi".into())
            .spawn(work)
            .map_err(|error| refused(format!("cannot start a thread for MPI: {error}")))?;
        let (jobs, thread) = (Some(jobs), Some(thread));
        let (missed, left) = (OnceCell::new(), Cell::new(false));
        let size = size as usize;
        let worker = Worker { rank, size, timeout, jobs, done, thread, missed, left };
        if let Err(error) = worker.wait() {
            worker.left.set(true);
            return Err(error);
        }
        Ok(worker)
    }

    /// The result of `job` on the thread, or the error of the first call that missed its deadline.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Roll) -> T + Send + 'static,
    ) -> Result<T, Error> {
        if let Some(error) = self.missed.get() {
            return Err(error.clone());
        }
        let (sender, answer) = mpsc::channel();
        let job = move |roll: &Roll| {
            sender.send(job(roll)).ok();
        };
        if let Some(jobs) = &self.jobs {
            jobs.send(Box::new(job)).ok();
        }
        if let Err(error) = self.wait() {
            self.missed.set(error.clone()).ok();
            return Err(error);
        }
        answer.recv().map_err(|_| self.ended())
    }

    fn wait(&self) -> Result<(), Error> {
        self.done.recv().unwrap_or_else(|_| Err(self.ended()))
    }

    /// The thread ends early only by a panic.
    fn ended(&self) -> Error {
        Error::Collective { rank: self.rank, reason: "the thread that calls MPI panicked".into() }
    }

    /// As [`Roll::leave`]. After a missed deadline there is no call in which the ranks could meet,
    /// and MPI cannot be finalized: prints the error and aborts the job.
    ///
    /// It does so after a while, in which other ranks print theirs, and in which `mpirun` may
    /// notice the loss of a host by itself: once it has tried to stop the ranks of a lost host, it
    /// waits for that host as long as the kernel repeats what it sent, about 15 minutes.
    pub fn leave(&self, complaint: Option<&str>) -> Vec<u64> {
        self.left.set(true);
        let own = complaint.map(String::from);
        self.run(move |roll| roll.leave(own.as_deref())).unwrap_or_else(|error| {
            let complaint = complaint.map_or_else(|| error.to_string(), String::from);
            report(&format!("error on rank {}: {complaint}", self.rank));
            thread::sleep(PATIENCE);
            SimpleCommunicator::world().abort(1)
        })
    }
}

/// Does jobs until there are no more.
fn serve(
    ranks: &[Rank],
    (rank, timeout): (usize, Duration),
    jobs: &Receiver<Job>,
    done: &Sender<Result<(), Error>>,
) {
    let world = SimpleCommunicator::world();
    let Some(communicator) = world.split_by_subgroup(&world.group().include(ranks)) else {
        let reason = "MPI made no communicator of these ranks".into();
        done.send(Err(Error::Collective { rank, reason })).ok();
        return;
    };
    let roll = Roll::new(communicator, Some(Deadline::new(timeout, done.clone())));
    done.send(Ok(())).ok();
    while let Ok(job) = jobs.recv() {
        job(&roll);
        done.send(Ok(())).ok();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.left.get() {
            self.leave(None);
        }
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
