//! The simulator in the ordinary tests: 200 days, every kept case, that a day is the same twice, and that what the rules of the
//! economy forbid is told.

#[path = "it/audit.rs"]
mod audit;
#[path = "it/cases.rs"]
mod cases;
#[path = "it/clients.rs"]
mod clients;
#[path = "it/days.rs"]
mod days;
#[path = "it/rig.rs"]
mod rig;
