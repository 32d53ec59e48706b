//! The kernel through its public face: a toy machine under a seeded, hostile schedule, golden bytes, and the attacks
//! that were once possible.

#[path = "it/apportion.rs"]
mod apportion;
#[path = "it/attacks.rs"]
mod attacks;
#[path = "it/audit.rs"]
pub mod audit;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/harness.rs"]
pub mod harness;
#[path = "it/hostile.rs"]
mod hostile;
#[path = "it/schedules.rs"]
mod schedules;
#[path = "it/till.rs"]
pub mod till;
