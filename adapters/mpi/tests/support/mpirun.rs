//! Starts `mpirun` on this machine, for any number of cores and any user.

use std::process::Command;

/// The message if `mpirun` is missing.
pub const MISSING: &str = "cannot start mpirun; on Debian: \
                           apt-get install openmpi-bin libopenmpi-dev libclang-dev";

/// The command for a job with this number of ranks and threads per rank, without the program.
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
        // A waiting rank yields its core to the ranks that compute.
        .env("OMPI_MCA_mpi_yield_when_idle", "1");
    command
}
