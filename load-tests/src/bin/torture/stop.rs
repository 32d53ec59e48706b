//! SIGSTOP in the middle of a load, and SIGCONT later: callers give up with a reason, and nothing happens twice.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tonic::Code;

use crate::books::Books;
use crate::load::{Load, Manner};
use crate::order::Payer;
use crate::plan::Trials;
use crate::world::World;

/// How long a caller waits: shorter than any standstill.
const DEADLINE: Duration = Duration::from_millis(400);
/// Standstills of one network.
const STOPS: u64 = 10;

/// The campaign.
pub(crate) async fn run(trials: &mut Trials<'_>) -> Result<()> {
    while trials.more() {
        let world = World::new(&trials.plan.bin, trials.place(), "all")?;
        let server = world.serve(&[])?;
        let (payer, mut books) = (Payer::new(&world, &server)?, Books::default());
        server.terminate()?;
        for _ in 0..STOPS {
            if !trials.more() {
                break;
            }
            let mut dice = trials.dice();
            let stood = stand_still(&world, &payer, &mut books, &mut dice).await;
            trials.counts.merge(books.counted());
            if !trials.over(stood, world.dir()) {
                break;
            }
        }
        std::fs::remove_dir_all(world.dir())?;
    }
    Ok(())
}

async fn stand_still(
    world: &World,
    payer: &Payer,
    books: &mut Books,
    dice: &mut fastrand::Rng,
) -> Result<()> {
    let server = world.serve(&[])?;
    // Callers go on through the standstill: each tries again until it is told to stop.
    let manner = Manner { deadline: DEADLINE, refusals: u32::MAX, largest: 8, ..Manner::default() };
    let load = Load::start(&server, payer, dice.u64(..), manner).await?;
    tokio::time::sleep(Duration::from_millis(dice.u64(1..300))).await;
    server.signal(Signal::STOP)?;
    tokio::time::sleep(DEADLINE + Duration::from_millis(dice.u64(200..1_500))).await;
    server.signal(Signal::CONT)?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asked = load.end().await?;
    let orders = &asked.orders;
    let gave_up = orders.iter().filter_map(|order| order.why_not.as_ref());
    let codes: Vec<Code> = gave_up.map(tonic::Status::code).collect();
    ensure!(!codes.is_empty(), "nobody waited in vain for a process that stood still");
    ensure!(
        codes.iter().all(|code| matches!(code, Code::DeadlineExceeded | Code::Cancelled)),
        "callers of a process that stood still heard {codes:?}"
    );
    ensure!(orders.iter().any(|order| order.answer.is_some()), "nobody was answered at all");
    books.note(asked);
    books.ask_again(&server, payer, dice, 1.0).await?;
    books.all_answered()?;
    let arrived = payer.arrived(world, &server)?;
    if dice.bool() {
        server.kill()?
    } else {
        server.terminate()?
    };
    let (_, logs) = books.check(world)?;
    books.balances(&logs, arrived)
}
