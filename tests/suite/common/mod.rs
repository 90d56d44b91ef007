//! What several test files share.
#![allow(dead_code)] // an adapter's tests use a part of it

pub mod compare;
pub mod golden;
pub mod layout;
pub mod naive;
pub mod oracle;
pub mod random;
pub mod ranks;
pub mod refuse;
pub mod run;
pub mod spec;
pub mod wide;
