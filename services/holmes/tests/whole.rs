//! The whole economy on virtual time, every machine as it is: what one service says and another does comes to the same.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

#[path = "whole/across.rs"]
mod across;
#[path = "../src/verify/across.rs"]
mod checks;
#[path = "whole/conservation.rs"]
mod conservation;
#[path = "whole/epochs.rs"]
mod epochs;
#[path = "whole/idle.rs"]
mod idle;
#[path = "whole/leaving.rs"]
mod leaving;
#[path = "whole/life.rs"]
mod life;
