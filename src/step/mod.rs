//! The ground of a step, for the head and for steps whose sweeps run elsewhere: settings, the checks
//! and everything that is known before the sweeps, what lies between these, the buffers, and the
//! exchange with other ranks.

mod agreement;
mod collective;
mod exchange;
mod hard_samples;
mod input;
mod lift;
mod nearest;
mod pairs;
mod plan;
mod prepare;
mod settings;
mod target_gradients;
mod update_step;
mod workspace;

pub use collective::{Collective, SingleProcess};
pub(crate) use exchange::Ranks;
pub(crate) use input::StepInput;
pub(crate) use nearest::{Apart, NearestLogit, NearestPair, NearestPairs};
pub(crate) use plan::Plan;
pub(crate) use prepare::{Prepared, PreparedSample};
pub use settings::{Settings, ZeroEmbedding};
pub(crate) use update_step::{check_update, update_step};
pub(crate) use workspace::{ChunkStats, Coefficients, Scratch, Workspace, WorkspaceCache};
