//! `mpirun` on this machine, whatever its size and whoever runs it.

use std::process::Command;

/// What to do where there is no `mpirun`.
pub const MISSING: &str = "cannot start mpirun; on Debian: \
                           apt-get install openmpi-bin libopenmpi-dev libclang-dev";

/// A job of so many ranks with so many threads each; what it runs is yet to be said.
pub fn mpirun(ranks: usize, threads: usize) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["-n", &ranks.to_string(), "--oversubscribe", "--bind-to", "none"])
        .env("RAYON_NUM_THREADS", threads.to_string())
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        // Shared memory only, copied twice: containers forbid reading another process's memory.
        .env("OMPI_MCA_pml", "ob1")
        .env("OMPI_MCA_btl", "self,vader")
        .env("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        // A rank that waits leaves its core to those that compute.
        .env("OMPI_MCA_mpi_yield_when_idle", "1");
    command
}
