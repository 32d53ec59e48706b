//! The governed numbers of scheduling: profiles fill them at genesis; from then on they live in the state.

use holmes_kernel::{BadParams, Governed};
use holmes_proto::scheduling::v1 as wire;
use prost::Message as _;
use serde::{Deserialize, Serialize};

/// How often it may begin.
pub const MOST_BEGINNINGS: Governed = Governed::new("most_beginnings", "times", 1, (1, 1_000), 1);

/// The parameters as the machine uses them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// How often it may begin.
    pub most_beginnings: u64,
}

/// The defaults as a log's opening holds them: a profile's section goes over them.
pub fn encoded_defaults() -> Vec<u8> {
    wire::Params { most_beginnings: MOST_BEGINNINGS.default }.encode_to_vec()
}

/// Reads the parameters of a log's opening.
///
/// # Errors
/// When a number is out of its bounds.
pub fn read(wire: &wire::Params) -> Result<Params, BadParams> {
    Ok(Params { most_beginnings: MOST_BEGINNINGS.check(wire.most_beginnings)? })
}
