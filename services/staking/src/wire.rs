//! Between the wire's messages and the types of staking.

use holmes_kernel::{Amount, Id, Principal, PrincipalKind, Time};
pub use holmes_proto::edge::{Malformed, parsed_id as id};
use holmes_proto::edge::{Needs, Parsed, malformed};
use holmes_proto::staking::v1 as wire;
use holmes_proto::staking::v1::{NodeKind, NodeState};

use crate::collateral::{self, Inputs};
use crate::command::{Command, RegisterNode};
use crate::state::{Node, State};

/// An owner of nodes in a text field, as it prints.
pub fn owner(field: &'static str, text: &str) -> Parsed<Principal> {
    let id = text.strip_prefix("account/").and_then(|id| id.parse().ok());
    id.map_or_else(|| malformed(field, "account/<id>"), |id| Ok(Principal::new(PrincipalKind::Account, id)))
}

/// A node to make known.
pub fn register_node(request: &wire::RegisterNodeRequest) -> Parsed<Command> {
    let Ok(public_key) = request.public_key.as_ref().try_into() else {
        return malformed("public_key", "an Ed25519 public key of 32 bytes");
    };
    let kind = match request.kind() {
        NodeKind::Unspecified => return malformed("kind", "COMPUTE or VERIFIER"),
        kind => kind as u8,
    };
    let halves = request.possession.split_at_checked(32);
    let halves = halves.and_then(|(r, s)| Some([r.try_into().ok()?, s.try_into().ok()?]));
    let Some(possession) = halves else {
        return malformed("possession", "an Ed25519 signature of 64 bytes");
    };
    let claim_milli_cu = request.rating_milli_cu;
    Ok(Command::RegisterNode(RegisterNode { public_key, kind, claim_milli_cu, possession }))
}

/// What registering a node asks of its owner's proof.
pub fn needs_of(request: &wire::RegisterNodeRequest) -> Needs {
    match request.kind() {
        NodeKind::Verifier => Needs::Verifier,
        NodeKind::Compute | NodeKind::Unspecified => Needs::Operator,
    }
}

/// A rating to attest.
pub fn set_rating(request: &wire::SetRatingRequest) -> Parsed<Command> {
    Ok(Command::SetRating {
        node: id("node_id", &request.node_id)?,
        rating_milli_cu: request.rating_milli_cu,
    })
}

/// A hold to bond.
pub fn bond(request: &wire::BondRequest) -> Parsed<Command> {
    Ok(Command::Bond { node: id("node_id", &request.node_id)?, hold: id("hold_id", &request.hold_id)? })
}

/// A bond to ask back.
pub fn unbond(request: &wire::UnbondRequest) -> Parsed<Command> {
    let amount = match (request.amount_units, request.all) {
        (0, true) => None,
        (units, false) if units > 0 => Some(Amount::new(units)),
        (0, false) => return malformed("amount_units", "at least 1 base unit, or `all`"),
        _ => return malformed("amount_units", "nothing beside `all`"),
    };
    let account = match request.account_id.as_str() {
        "" => None,
        text => Some(id("account_id", text)?),
    };
    Ok(Command::Unbond { node: id("node_id", &request.node_id)?, amount, account })
}

/// An account for payouts.
pub fn set_payout(request: &wire::SetPayoutAccountRequest) -> Parsed<Command> {
    let node = id("node_id", &request.node_id)?;
    Ok(Command::SetPayoutAccount { node, account: id("account_id", &request.account_id)? })
}

/// A node to jail.
pub fn jail(request: &wire::JailRequest) -> Parsed<Command> {
    Ok(Command::Jail { node: id("node_id", &request.node_id)?, cause: request.cause.clone() })
}

/// A node to release.
pub fn unjail(request: &wire::UnjailRequest) -> Parsed<Command> {
    Ok(Command::Unjail { node: id("node_id", &request.node_id)? })
}

/// An owner to bar.
pub fn tombstone(request: &wire::TombstoneRequest) -> Parsed<Command> {
    Ok(Command::Tombstone { node: id("node_id", &request.node_id)?, cause: request.cause.clone() })
}

/// What a base follows from.
pub fn inputs(inputs: &Inputs) -> wire::CollateralInputs {
    wire::CollateralInputs {
        next_emission_units: inputs.next_emission.units(),
        circulating_units: inputs.circulating.units(),
        bonded_units: inputs.bonded.units(),
        nodes: inputs.nodes,
        network_milli_cu: inputs.network_milli_cu,
        bonded_share_ppb: inputs.bonded_share.ppb(),
        reward_days: inputs.reward_days,
        target_nodes: inputs.target_nodes,
        target_milli_cu: inputs.target_milli_cu,
    }
}

/// A base, factor by factor.
fn formula(of: &Inputs, base: Amount, at: Time) -> wire::CollateralFormula {
    let ((m_numerator, m_denominator), (g_numerator, g_denominator)) = (collateral::m(of), collateral::g(of));
    wire::CollateralFormula {
        inputs: Some(inputs(of)),
        m_numerator: m_numerator.to_string(),
        m_denominator: m_denominator.to_string(),
        g_numerator,
        g_denominator,
        power_milli_cu: collateral::power(of),
        formula_units: collateral::base(of).units(),
        base_units: base.units(),
        computed_at_us: at.micros(),
    }
}

fn rises(state: &State, node: &Node, now: Time) -> Vec<wire::Rise> {
    if node.kind() == NodeKind::Verifier {
        return Vec::new();
    }
    let rise = |(at, base): (Time, Amount)| wire::Rise {
        at_us: at.micros(),
        required_units: node.required_by(&state.params, base).units(),
    };
    node.bases.rises_after(now).map(rise).collect()
}

/// A node as it stands, at the log's time.
pub fn node(state: &State, id: Id, node: &Node) -> wire::Node {
    let offer = |offer: &crate::state::Offer| wire::Offer {
        hold_id: offer.hold.to_string(),
        account_id: offer.account.to_string(),
        amount_units: offer.amount,
    };
    wire::Node {
        node_id: id.to_string(),
        owner: node.owner.to_string(),
        public_key: node.public_key.to_vec().into(),
        kind: node.kind().into(),
        state: node.state().into(),
        qualified: node.qualified,
        bond_units: node.bond,
        unbonding_units: node.unbonding,
        required_units: node.required(&state.params, state.at).units(),
        rises: rises(state, node, state.at),
        rating_milli_cu: node.rating_milli_cu,
        hardware_until_us: node.hardware_until.micros(),
        payout_account_id: node.payout.map(|account| account.to_string()).unwrap_or_default(),
        pending_bonds: node.pending,
        bond_refused: node.bond_refused.clone(),
        note: node.note.clone(),
        unbondings: node.unbondings.iter().filter_map(|number| unbonding(state, *number)).collect(),
        offers: node.offers.iter().map(offer).collect(),
        leases: state.leases.get(&id).map_or(0, |leases| leases.len() as u32),
    }
}

fn unbonding(state: &State, number: u64) -> Option<wire::Unbonding> {
    let unbonding = state.unbondings.get(&number)?;
    Some(wire::Unbonding {
        unbonding: number,
        left_units: unbonding.left,
        amount_units: unbonding.amount,
        ready_at_us: unbonding.ready_at.micros(),
        paying_units: unbonding.paying,
        refused: unbonding.refused.clone(),
    })
}

/// What is required of a node, and why (E-6.2).
pub fn required_of(state: &State, node: &Node) -> wire::GetRequiredResponse {
    wire::GetRequiredResponse {
        required_units: node.required(&state.params, state.at).units(),
        rises: rises(state, node, state.at),
        kind: node.kind().into(),
        base_units: node.bases.at(state.at).units(),
        ..required(state, node.rating_milli_cu)
    }
}

/// What would be required of a rating, and why (E-6.2).
pub fn required(state: &State, rating_milli_cu: u32) -> wire::GetRequiredResponse {
    let (params, base) = (&state.params, &state.base);
    let now = state.inputs();
    let old = base.computed.map(|_| base.units);
    let next = collateral::next_base(collateral::base(&now), old, params.base_step);
    let (last, at) = base.computed.map_or((params.inputs, Time::default()), |last| (last.inputs, last.at));
    wire::GetRequiredResponse {
        required_units: collateral::required(
            rating_milli_cu,
            base.units,
            params.least_per_cu,
            params.most_per_cu,
        )
        .units(),
        rises: Vec::new(),
        kind: NodeKind::Compute.into(),
        rating_milli_cu,
        base_units: base.units.units(),
        least_per_cu_units: params.least_per_cu.units(),
        most_per_cu_units: params.most_per_cu.units(),
        formula: Some(formula(&last, base.units, at)),
        now: Some(formula(&now, next, state.at)),
        bonds_account_id: state.vault.account.to_string(),
    }
}

/// Most nodes that one page looks at, so that a rare state does not make a page long.
const MOST_LOOKED_AT: usize = 10_000;

/// A page of nodes: of an owner or of all, in a state or in any, from a place on; and where the next page begins.
pub fn page(
    state: &State,
    owner: Option<Principal>,
    only: NodeState,
    from: usize,
    size: usize,
) -> (Vec<wire::Node>, Option<usize>) {
    let owned =
        owner.map(|owner| state.owners.get(&owner).map(|owner| owner.nodes.as_slice()).unwrap_or_default());
    let total = owned.map_or(state.nodes.len(), <[u32]>::len);
    let mut nodes = Vec::new();
    let mut at = from;
    while at < total && nodes.len() < size && at - from < MOST_LOOKED_AT {
        let place = owned.map_or(at as u32, |places| places[at]);
        at += 1;
        let row =
            state.nodes.at(place).filter(|(_, node)| only == NodeState::Unspecified || node.state() == only);
        nodes.extend(row.map(|(id, row)| node(state, *id, row)));
    }
    (nodes, (at < total).then_some(at))
}
