//! What several test files share.
#![allow(dead_code)] // each test file uses its own part

pub mod golden;
