//! A node that is killed in the middle of an answer: another one goes on where it was.

use anyhow::{Context as _, Result, bail};
use holmes_proto::inference::v1::generate_response::Part;
use holmes_proto::inference::v1::{Ended, Started};

use super::requests::{LONG, Work, generate, long_prompt};
use super::tell::{Teller, short, start_of};
use super::world::{OWN, World};
use crate::ask::unsigned;

/// After how many tokens a node dies. One of a large model has signed for the first 64 by then; the model in the binary writes
/// so fast that as many again are on their way when the first are seen.
fn into_it(model: &str) -> usize {
    if model == OWN { 16 } else { 72 }
}

/// How often it is tried: an answer may be over before its node is dead, and then nothing was shown.
const TRIES: u64 = 10;

/// What an attempt has heard so far.
#[derive(Default)]
struct Attempt {
    /// After so many tokens the node dies.
    into_it: usize,
    started: Started,
    /// Tokens that the renter has.
    seen: usize,
    said: String,
    /// The operator whose node was killed, by its number.
    killed: Option<usize>,
    /// Whether the call has gone on elsewhere since.
    moved: bool,
}

/// What follows from a part of the answer.
#[derive(Debug, PartialEq)]
enum Next {
    Listen,
    /// The renter has seen enough of it: its node dies now, and never before.
    Kill,
    /// The call goes on at a node, behind so many tokens.
    Elsewhere(String),
    /// The whole answer is there, and a node died in the middle of it.
    Shown(Ended),
    /// The answer was over too soon: the death of its node, if it is dead, was not in the middle of it.
    TooSoon,
}

impl Attempt {
    fn hears(&mut self, part: Option<Part>) -> Next {
        match part {
            Some(Part::Started(started)) => self.started = started,
            Some(Part::Tokens(tokens)) => {
                self.seen += tokens.ids.len();
                self.said.push_str(&tokens.text);
                if self.killed.is_none() && self.seen >= self.into_it {
                    return Next::Kill;
                }
            }
            Some(Part::Moved(moved)) => {
                self.moved |= self.killed.is_some();
                self.started.node_id = moved.node_id.clone();
                self.started.lease_id = moved.lease_id;
                return Next::Elsewhere(moved.node_id);
            }
            Some(Part::Ended(ended)) if self.moved => return Next::Shown(ended),
            Some(Part::Ended(_)) => return Next::TooSoon,
            None => {}
        }
        Next::Listen
    }
}

/// Kills a node in the middle of an answer, and follows the answer to its end.
pub(super) async fn survived(tell: &Teller, world: &mut World) -> Result<()> {
    for attempt in 0..TRIES {
        let (killed, shown) = tried(tell, world, 11 + attempt).await?;
        if let Some(at) = killed {
            let pid = world.attach(at)?;
            super::people::attached(world, at).await?;
            let of = world.operators[at].name;
            tell.line(&format!("{of}'s executor runs again, as process {pid}"))?;
        }
        if shown {
            return Ok(());
        }
        tell.line("the answer was over before its node was dead: once more")?;
    }
    bail!("{TRIES} answers were over before their node could be killed: is this machine that fast?")
}

/// The same when the story is over: executors that a visitor has killed run again first.
pub(super) async fn again(tell: &Teller, world: &mut World) -> Result<()> {
    for at in 0..world.operators.len() {
        if world.processes.forget_ended(&world.operators[at].process())? {
            world.attach(at)?;
            super::people::attached(world, at).await?;
        }
    }
    survived(tell, world).await
}

/// One attempt: whose node was killed, and whether that was in the middle of an answer that became whole.
async fn tried(tell: &Teller, world: &mut World, seed: u64) -> Result<(Option<usize>, bool)> {
    let renter = &world.renters[1];
    let (client, name, asset) = (renter.client.clone(), renter.name, renter.asset);
    let model = world.models.speaker.name.clone();
    let (prompt, into_it) = (long_prompt(&model), into_it(&model));
    let work = Work { model, prompt, most: LONG, seed };
    let mut stream = generate(&client, work, asset).await?;
    let mut attempt = Attempt { into_it, ..Attempt::default() };
    while let Some(message) = client.next(&mut stream).await.context("the call did not survive its node")? {
        let on = world.node_name(&attempt.started.node_id);
        match attempt.hears(message.part) {
            Next::Listen => {}
            Next::Kill => attempt.killed = Some(kill(tell, world, &attempt.started, prompt).await?),
            Next::Elsewhere(node) => {
                let (to, seen) = (world.node_name(&node), attempt.seen);
                tell.line(&format!("{on} is lost: the call goes on at {to}, from token {seen}"))?;
            }
            Next::Shown(ended) => {
                let billed = ended.usage.unwrap_or_default().output_tokens;
                let (tokens, said) = (counted(attempt.seen, billed), start_of(&attempt.said, 60));
                let receipts = ended.receipts.join(" and ");
                tell.line(&format!("{name} has the whole answer, {tokens}, with {receipts}: {said}"))?;
                return Ok((attempt.killed, true));
            }
            Next::TooSoon => return Ok((attempt.killed, false)),
        }
    }
    bail!("the answer to {prompt:?} broke off")
}

/// What the renter has of an answer, and what he pays of it.
fn counted(delivered: usize, billed: u32) -> String {
    match unsigned(delivered, billed) {
        0 => format!("{billed} tokens, all billed (the dead node's were signed, or written anew elsewhere)"),
        free => format!(
            "{delivered} tokens of which {billed} are billed (the dead node had not signed the other {free}: he keeps them, and \
             nobody is paid for them)"
        ),
    }
}

async fn kill(tell: &Teller, world: &mut World, started: &Started, prompt: &str) -> Result<usize> {
    let at = world.operators.iter().position(|of| of.node_id().to_string() == started.node_id);
    let at = at.context("the call runs on no node of ours")?;
    let process = world.operators[at].process();
    let pid = world.processes.pid(&process).unwrap_or_default();
    let (node, lease) = (world.node_name(&started.node_id), short(&started.lease_id).to_owned());
    world.processes.kill(&process).await?;
    let asked = start_of(prompt, 40);
    tell.line(&format!("{node} (process {pid}, lease {lease}) is killed while it answers \"{asked}\""))?;
    Ok(at)
}

#[cfg(test)]
mod tests {
    use holmes_proto::inference::v1::{Moved, Tokens};

    use super::*;

    fn tokens(count: usize) -> Option<Part> {
        Some(Part::Tokens(Tokens { ids: vec![1; count], text: "a ".repeat(count), ..Tokens::default() }))
    }

    fn moved() -> Option<Part> {
        Some(Part::Moved(Moved { node_id: "other".into(), ..Moved::default() }))
    }

    #[test]
    fn a_node_dies_only_when_words_of_it_were_seen_and_once() {
        let mut attempt = Attempt { into_it: 72, ..Attempt::default() };
        assert_eq!(attempt.hears(Some(Part::Started(Started::default()))), Next::Listen);
        assert_eq!(attempt.hears(tokens(71)), Next::Listen);
        assert_eq!(attempt.hears(tokens(1)), Next::Kill);
        attempt.killed = Some(0);
        assert_eq!(attempt.hears(tokens(9)), Next::Listen, "what was on its way");
        assert_eq!(attempt.hears(moved()), Next::Elsewhere("other".into()));
        assert_eq!((attempt.seen, attempt.started.node_id.as_str()), (72 + 9, "other"));
        assert_eq!(attempt.hears(tokens(200)), Next::Listen);
        assert_eq!(attempt.hears(Some(Part::Ended(Ended::default()))), Next::Shown(Ended::default()));
    }

    #[test]
    fn what_was_delivered_and_what_is_billed_of_it_are_both_told() {
        let told = counted(180, 172);
        assert!(
            told.starts_with("180 tokens of which 172 are billed (the dead node had not signed the other 8"),
            "{told}"
        );
        assert!(counted(14, 14).starts_with("14 tokens, all billed"));
    }

    #[test]
    fn an_answer_that_was_over_before_its_node_was_dead_shows_nothing() {
        let ended = || Some(Part::Ended(Ended::default()));
        assert_eq!(Attempt::default().hears(ended()), Next::TooSoon);
        let mut killed = Attempt { killed: Some(1), seen: 72, ..Attempt::default() };
        assert_eq!(killed.hears(ended()), Next::TooSoon);
        let mut lost = Attempt::default();
        lost.hears(moved()); // a node that was lost by itself is not what was to be shown
        assert_eq!(lost.hears(ended()), Next::TooSoon);
    }
}
