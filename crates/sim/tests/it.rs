//! The simulator in the ordinary tests: 200 days, every kept case, and that a day is the same twice.

#[path = "it/cases.rs"]
mod cases;
#[path = "it/clients.rs"]
mod clients;
#[path = "it/days.rs"]
mod days;
#[path = "it/rig.rs"]
mod rig;
