//! What is held against what clients were told.

use std::time::Duration;

use holmes_kernel::{Call, Way};
use holmes_ledger::command::{Command, Transfer, Via};
use holmes_sim::client::{Clients, Said};
use holmes_sim::journal::Append;
use holmes_sim::watch::Watch;
use holmes_sim::world::{COIN, HOL, World, account, log, party};

/// A network, and an order of one of its clients that was not sent.
struct Asked {
    world: World,
    clients: Clients,
    watch: Watch,
    order: usize,
    way: Way,
    command: Command,
}

impl Asked {
    fn new() -> Asked {
        let mut world = World::peopled();
        let (way, command) = payment(&mut world);
        let mut clients = Clients::default();
        let order = clients.note(party(4), way, Said::Ledger(command.clone()));
        Asked { world, clients, watch: Watch::default(), order, way, command }
    }

    /// Sends the order, and says what is wrong with what is heard.
    fn send(&mut self) -> Vec<String> {
        self.clients.send(&self.world, &self.watch, self.order);
        self.hear()
    }

    fn hear(&mut self) -> Vec<String> {
        assert_eq!(self.watch.look(self.world.journal.kept()), Vec::<String>::new());
        self.clients.hear(&mut self.world, &self.watch)
    }

    /// Two hours pass, and the ledger writes: what was asked before is forgotten.
    fn is_forgotten(&mut self) {
        self.world.rig.leap(Duration::from_secs(2 * 3_600));
        let (way, command) = payment(&mut self.world);
        let ticket = self.world.ledger.post(call(way), command);
        assert!(self.world.ledger.answer(ticket).is_some_and(|answer| answer.is_ok()));
    }
}

fn call(way: Way) -> Call {
    Call { way, ..Call::request(party(4), Default::default()) }
}

fn payment(world: &mut World) -> (Way, Command) {
    let kind = world.single(account(4, HOL), account(5, HOL), COIN);
    let transfers = vec![Transfer { id: world.fresh(), linked: false, tag: 0, kind }];
    (Way::Request(world.fresh()), Command::CreateTransfers { via: Via::Call, transfers })
}

#[test]
fn what_is_refused_and_stands_in_the_log_as_done_is_wrong() {
    let mut asked = Asked::new();
    // Carried out, though by no copy of this client's: the only one that it sends is refused.
    asked.world.ledger.post(call(asked.way), asked.command.clone());
    asked.is_forgotten();
    let wrong = asked.send();
    assert!(wrong.len() == 1 && wrong[0].contains("refused, and stands in the log as done"), "{wrong:?}");
    assert!(wrong[0].contains("ID_EXPIRED"), "{wrong:?}");
    let wrong = asked.clients.belied(&asked.watch);
    assert!(wrong.len() == 1 && wrong[0].contains("was refused"), "{wrong:?}");
}

#[test]
fn a_copy_of_which_nobody_knows_may_have_done_what_another_is_refused() {
    let mut asked = Asked::new();
    asked.world.journal.will(log(1), Append::LostAfter, 1);
    assert_eq!(asked.send(), Vec::<String>::new());
    assert!(asked.world.ledger.restart(true).is_ok(), "whoever waits hears nothing");
    asked.is_forgotten();
    assert_eq!(asked.send(), Vec::<String>::new());
    assert_eq!(asked.clients.belied(&asked.watch), Vec::<String>::new());
}
