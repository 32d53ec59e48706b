//! What comes from outside, whatever it is: each target is a function of bytes that must return. The fuzzer (`fuzz/`)
//! feeds them with what reaches new code, and a test of this crate with what was found so far, so that whatever went wrong
//! once is tried again by every test run, without a fuzzer.

#![allow(clippy::unwrap_used)] // a target fails as a test does

mod bytes;
mod forged;
mod history;
mod models;
mod network;
mod proofs;
mod texts;

/// A kind of input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: the binary of the fuzzer, and the directory of what is kept for it.
    pub name: &'static str,
    /// What is fed, in a few words.
    pub about: &'static str,
    /// Takes an input; panics when something is wrong with what came of it.
    pub run: fn(&[u8]),
}

/// Every target, by name.
pub const TARGETS: [Target; 10] = [
    Target { name: "chat_template", about: "a model's chat template, rendered", run: models::chat_template },
    Target {
        name: "commands",
        about: "requests of everybody to every machine, in a network on virtual time",
        run: network::commands,
    },
    Target { name: "config", about: "a configuration file", run: texts::config },
    Target {
        name: "frames",
        about: "a log: frames, their entries and events, read and replayed",
        run: forged::frames,
    },
    Target { name: "gguf", about: "a GGUF file: tensors, description, tokenizer", run: models::gguf },
    Target {
        name: "history",
        about: "events that no machine decided, in the logs of the services' own machines",
        run: history::history,
    },
    Target {
        name: "hugging_face",
        about: "config.json and tokenizer.json of a model",
        run: models::hugging_face,
    },
    Target { name: "openai", about: "bodies as OpenAI's clients send them", run: texts::openai },
    Target {
        name: "proofs",
        about: "API keys and signatures in front of a call, and statements of nodes and gateways",
        run: proofs::proofs,
    },
    Target { name: "safetensors", about: "a safetensors file", run: models::safetensors },
];

/// A target by its name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
