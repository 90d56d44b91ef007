//! The ground of a step, for the head and for steps whose sweeps run elsewhere: settings, the checks
//! and everything that is known before the sweeps, what lies between these, the buffers, and the
//! exchange with other ranks.

mod agreement;
mod coefficients;
mod collective;
mod exchange;
mod input;
mod nearest;
mod pairs;
mod plan;
mod prepare;
mod settings;
mod target_gradients;
mod workspace;

pub use collective::{Collective, SingleProcess};
pub(crate) use exchange::Ranks;
pub(crate) use input::StepInput;
pub(crate) use nearest::{Apart, NearestLogit, NearestPair};
pub(crate) use pairs::PreparedSample;
pub(crate) use plan::{Plan, update_step};
pub use settings::{Settings, ZeroEmbedding};
pub(crate) use workspace::{ChunkStats, Scratch, Workspace, WorkspaceCache};
