//! The rules of a log's head: who may append, and what. Memory and disk share them, so they cannot drift apart.

use holmes_kernel::frame::Damage;
use holmes_kernel::ports::{Claim, JournalError};
use holmes_kernel::weak::{Guard, is_off};
use holmes_kernel::{Chain, Frame, LogId, Tail};

/// What a journal knows of a log without reading its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Chain of the first frame: equal chains are equal bytes, so it tells whether provisioning repeats itself.
    pub(super) first: Chain,
    /// The term of the last claim; 0 before the first.
    pub(super) term: u64,
    /// The last claim's nonce.
    pub(super) nonce: [u8; 16],
    /// Where the log ends.
    pub(super) tail: Tail,
}

/// What to do with a frame that may be appended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Write it; the head is then this.
    Next(Head),
    /// It is the last frame already.
    Repeated,
    /// It begins where the log has been: perhaps it is there, byte for byte. Otherwise it does not follow.
    Earlier(Damage),
}

impl Head {
    /// The head of a log that begins with `first`.
    pub(super) fn opened(first: &Frame) -> Result<Head, JournalError> {
        let log = first.header().log;
        first.follows(log, &Tail::default()).map_err(|why| JournalError::Broken { log, why })?;
        Ok(Head { first: *first.chain(), term: 0, nonce: [0; 16], tail: first.tail() })
    }

    /// Whether provisioning with `first` again is no change.
    pub(super) fn opened_again(&self, first: &Frame) -> Result<(), JournalError> {
        if self.first == *first.chain() { Ok(()) } else { Err(JournalError::Exists(first.header().log)) }
    }

    /// The head after a new claim: its term is above every earlier claim's and every frame's.
    pub(super) fn claimed(&self, nonce: [u8; 16]) -> Head {
        Head { term: self.term.max(self.tail.term) + 1, nonce, ..*self }
    }

    /// The claim that a head stands for.
    pub(super) fn claim(&self, log: LogId) -> Claim {
        Claim { log, term: self.term, nonce: self.nonce, tail: self.tail }
    }

    /// Whether a claim still holds.
    pub(super) fn confirm(&self, claim: &Claim) -> Result<(), JournalError> {
        if (self.term == claim.term && self.nonce == claim.nonce) || is_off(Guard::Fence) {
            Ok(())
        } else {
            Err(JournalError::Fenced { log: claim.log, by: self.term })
        }
    }

    /// Whether a claim's owner may append a frame here.
    pub(super) fn admit(&self, claim: &Claim, frame: &Frame) -> Result<Admitted, JournalError> {
        self.confirm(claim)?;
        let log = claim.log;
        let header = frame.header();
        let broken = |why| JournalError::Broken { log, why };
        if header.log == log && *frame.chain() == self.tail.chain {
            return Ok(Admitted::Repeated);
        }
        if header.log == log && header.last <= self.tail.seq {
            return Ok(Admitted::Earlier(Damage::Sequence {
                found: header.first,
                expected: self.tail.seq + 1,
            }));
        }
        frame.follows(log, &self.tail).map_err(broken)?;
        if header.term != claim.term {
            // A frame above its claim would let a later claim collide with it.
            let why = format!("it carries term {}, its owner has {}", header.term, claim.term);
            return Err(broken(Damage::Body(why)));
        }
        Ok(Admitted::Next(Head { tail: frame.tail(), ..*self }))
    }
}

/// A claim's nonce: nobody else draws the same.
pub(super) fn nonce() -> Result<[u8; 16], JournalError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)
        .map_err(|why| JournalError::Io(format!("the system gives no random numbers: {why}")))?;
    Ok(nonce)
}
