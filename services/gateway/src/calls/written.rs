//! What a node has written of an answer, and how much of it is believed. The gateway does not know the model's tokens:
//! what it can hold a node to is that tokens are text, and that few are under way when it is told to stop.

use holmes_proto::inference::v1::{TokenLogprob, Tokens, work};

/// Tokens without a byte of text between them that an answer may have beyond one for each of its bytes: those of an
/// unfinished character (an engine holds back eight at most), and a model's marks, which are no text and come one or
/// two at a time. An answer that is nothing else ends there, at whatever node it is written.
const MOST_WITHOUT_TEXT: u64 = 64;

/// Tokens that may come after the node was told to stop and reach nobody: one message of an executor and what it signs
/// at a time, 64 tokens each. That is 500 a second over a way of a quarter of a second; a node that is faster than that
/// is paid up to its last checkpoint.
const MOST_UNDER_WAY: u64 = 128;

/// One node's part of an answer.
#[derive(Debug)]
pub(crate) struct Written {
    /// Tokens that other nodes have sent before, and the most that there may be together.
    first: u64,
    most: u64,
    /// The likeliest tokens that were asked for with each, if any.
    logprobs: Option<usize>,
    /// Tokens that are believed without text.
    spare: u64,
    tokens: u64,
    bytes: u64,
    /// Tokens that came after the node was told to stop, and reached nobody.
    missed: u64,
}

impl Written {
    pub(crate) fn new(asked: &work::Work, first: u32, most: u64) -> Written {
        let (logprobs, longest_stop) = match asked {
            work::Work::Generate(generate) => (
                generate.sampling.as_ref().and_then(|sampling| sampling.logprobs),
                generate.stop.iter().map(String::len).max().unwrap_or_default(),
            ),
            work::Work::Embed(_) => (None, 0),
        };
        Written {
            first: first.into(),
            most,
            logprobs: logprobs.map(|count| count as usize),
            // A text that ends the answer is never shown, nor is what could become it before it is known not to.
            spare: MOST_WITHOUT_TEXT + longest_stop as u64,
            tokens: 0,
            bytes: 0,
            missed: 0,
        }
    }

    /// How many tokens the node has sent.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Takes in what the node has sent, or says what is wrong with it. What nobody has asked for is left out.
    pub(crate) fn take(&mut self, sent: &mut Tokens) -> Result<(), &'static str> {
        let (count, at) = (sent.ids.len() as u64, self.first + self.tokens);
        if count == 0 {
            return Err("an output without tokens");
        }
        if u64::from(sent.first) != at || at + count > self.most {
            return Err("tokens out of order, or more than were asked for");
        }
        match self.logprobs {
            None => sent.logprobs.clear(),
            Some(top) if probable(&sent.logprobs, sent.ids.len(), top) => {}
            Some(_) => return Err("probabilities that do not fit the tokens"),
        }
        self.tokens += count;
        self.bytes += sent.text.len() as u64;
        if self.tokens > self.bytes + self.spare {
            return Err("more tokens than the text can have");
        }
        Ok(())
    }

    /// So many of them came after the node was told to stop, and reach nobody.
    pub(crate) fn missed(&mut self, count: u64) -> Result<(), &'static str> {
        self.missed += count;
        if self.missed > MOST_UNDER_WAY {
            return Err("more tokens after it was told to stop than can have been under way");
        }
        Ok(())
    }
}

/// Whether there is one probability for each token, with so many of the likeliest at most, and all are numbers.
fn probable(logprobs: &[TokenLogprob], tokens: usize, top: usize) -> bool {
    let one = |token: &TokenLogprob| {
        let finite = token.logprob.is_finite() && token.top.iter().all(|likely| likely.logprob.is_finite());
        finite && token.top.len() <= top
    };
    logprobs.len() == tokens && logprobs.iter().all(one)
}

#[cfg(test)]
mod tests {
    use holmes_proto::inference::v1::{EmbedWork, GenerateWork, Sampling, TopLogprob};

    use super::*;

    fn written(generate: GenerateWork) -> Written {
        Written::new(&work::Work::Generate(generate), 10, 2_000)
    }

    fn sent(first: u32, count: u32, text: &str) -> Tokens {
        Tokens { first, ids: (0..count).collect(), text: text.to_owned(), ..Tokens::default() }
    }

    #[test]
    fn tokens_follow_each_other_and_are_no_more_than_were_asked_for() {
        let mut all = written(GenerateWork::default());
        assert!(all.take(&mut sent(9, 1, "a")).is_err() && all.take(&mut sent(10, 0, "a")).is_err());
        all.take(&mut sent(10, 2, "ab")).unwrap();
        all.take(&mut sent(12, 1_988, &"x".repeat(1_988))).unwrap();
        assert_eq!(all.tokens(), 1_990);
        assert!(all.take(&mut sent(2_000, 1, "a")).is_err());
        let texts = work::Work::Embed(EmbedWork::default());
        assert!(Written::new(&texts, 0, 0).take(&mut sent(0, 1, "a")).is_err());
    }

    #[test]
    fn a_token_has_a_byte_of_text_but_for_a_few() {
        let mut few = written(GenerateWork::default());
        few.take(&mut sent(10, 1, "word")).unwrap();
        few.take(&mut sent(11, 67, "")).unwrap();
        assert!(few.take(&mut sent(78, 1, "")).is_err());
        // A text that ends the answer may have been held back whole, and is not shown.
        let mut stopped = written(GenerateWork { stop: vec!["x".repeat(100)], ..GenerateWork::default() });
        stopped.take(&mut sent(10, 164, "")).unwrap();
        assert!(stopped.take(&mut sent(174, 1, "")).is_err());
    }

    #[test]
    fn few_tokens_are_under_way_when_the_node_is_told_to_stop() {
        let mut all = written(GenerateWork::default());
        all.missed(64).unwrap();
        all.missed(64).unwrap();
        assert!(all.missed(1).is_err());
    }

    #[test]
    fn probabilities_are_numbers_for_each_token_and_none_where_none_are_asked_for() {
        let of = |logprob: f32, top: usize| {
            let likely = TopLogprob { logprob, ..TopLogprob::default() };
            TokenLogprob { logprob, top: vec![likely; top], ..TokenLogprob::default() }
        };
        let sampling = Some(Sampling { logprobs: Some(2), ..Sampling::default() });
        let mut asked = written(GenerateWork { sampling, ..GenerateWork::default() });
        for bad in [vec![], vec![of(-1.0, 3)], vec![of(f32::NAN, 0)], vec![of(-1.0, 0); 2]] {
            assert!(asked.take(&mut Tokens { logprobs: bad, ..sent(10, 1, "a") }).is_err());
        }
        asked.take(&mut Tokens { logprobs: vec![of(-1.0, 2)], ..sent(10, 1, "a") }).unwrap();
        let mut unasked = Tokens { logprobs: vec![of(f32::NAN, 9)], ..sent(10, 1, "a") };
        written(GenerateWork::default()).take(&mut unasked).unwrap();
        assert!(unasked.logprobs.is_empty());
    }
}
