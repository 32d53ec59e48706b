//! What one service takes over from another otherwise than that has said it is told, field by field.

use super::*;

#[test]
fn what_is_noted_otherwise_than_it_was_said_is_told() {
    let (read, other) = (Read(day()), "was said");
    read.placed(other, only!(Placed::NodesNoted, e => now_is(&mut e.nodes.first_mut()?.required_units, 7)));
    read.placed(other, only!(Placed::NodesNoted, e => turned(&mut e.nodes.first_mut()?.owner)));
    read.placed(other, only!(Placed::NodesNoted, e => turned(&mut e.nodes.first_mut()?.public_key)));
    read.placed(
        other,
        only!(Placed::NodesNoted, e => e.nodes.first_mut().map(|node| node.qualified = !node.qualified)),
    );
    read.placed(other, only!(Placed::SessionNoted, e => turned(&mut e.cap_pico_usd)));
    read.placed(other, only!(Placed::SessionNoted, e => turned(&mut e.renter)));
    read.placed(other, only!(Placed::SessionNoted, e => now_is(&mut e.expires_at_us, 7)));
    read.placed(other, only!(Placed::ModelNoted, e => now_is(&mut e.input_micro_units, 7)));
    read.placed(other, only!(Placed::SessionDraining, e => now_is(&mut e.drains_until_us, 7)));
    read.placed(other, only!(Placed::SessionDrained, e => id_is(&mut e.session, [7; 16])));
    read.sold(other, only!(Sold::CallsNoted, e => turned(&mut e.owner)));
    read.sold(other, only!(Sold::CallsNoted, e => turned(&mut e.node)));
    read.sold(other, only!(Sold::CallsNoted, e => now_is(&mut e.output_tokens, 7)));
    read.sold(other, only!(Sold::CallsNoted, e => turned(&mut e.billed_pico_usd)));
    read.sold(other, only!(Sold::CallsNoted, e => turned(&mut e.billed_micro_units)));
    read.sold(other, only!(Sold::CallsNoted, e => { e.credit = 3 - e.credit; Some(()) }));
    read.staked(other, only!(Staked::LeasesNoted, e => more(&mut e.granted_until_us)));
    read.staked(other, only!(Staked::LeasesNoted, e => turned(&mut e.nodes)));
    read.staked(other, only!(Staked::EmissionNoted, e => now_is(&mut e.next_emission_units, 7)));
    read.staked(other, only!(Staked::HoldsOffered, e => more(&mut e.amounts_units)));
    read.staked(other, only!(Staked::BondPosted, e => now_is(&mut e.amount_units, 7)));
    read.emitted(other, only!(Emitted::NodeNoted, e => now_is(&mut e.required_units, 7)));
    read.emitted(other, only!(Emitted::NodeNoted, e => turned(&mut e.owner)));
    read.emitted(other, only!(Emitted::NodeNoted, e => { e.kind = 3 - e.kind; Some(()) }));
    read.emitted(other, |event| match event {
        Emitted::NodeNoted(e) if e.rating_milli_cu > 0 => now_is(&mut e.slashable_units, 7),
        _ => None,
    });
    read.emitted(other, only!(Emitted::PayoutNoted, e => turned(&mut e.account)));
    read.emitted(other, only!(Emitted::WorkNoted, e => more(&mut e.fees_micro_usd)));
    read.emitted(other, only!(Emitted::WorkNoted, e => more(&mut e.units)));
    read.emitted(other, only!(Emitted::WorkNoted, e => turned(&mut e.owners)));
    read.emitted(
        other,
        only!(Emitted::AttendanceNoted, e => e.beats_seen.first_mut().map(|beats| *beats += 1)),
    );
    read.emitted(
        other,
        only!(Emitted::AttendanceNoted, e => e.active.first_mut().map(|active| *active = !*active)),
    );
    read.emitted(other, only!(Emitted::SourceSealed, e => now_is(&mut e.epoch, 99)));
}

#[test]
fn what_is_said_and_noted_nowhere_is_told() {
    let read = Read(day());
    read.emitted("is noted, and", only!(Emitted::NodeNoted, e => id_is(&mut e.node, [7; 16])));
    read.emitted("is noted, and", only!(Emitted::RequiredNoted, e => id_is(&mut e.nodes, [7; 16])));
}

#[test]
fn calls_that_are_metered_otherwise_than_signed_or_granted_are_told() {
    // E-9.2
    let read = Read(day());
    let line = |change: fn(&mut scheduling::v1::CallLine) -> Option<()>| {
        move |event: &mut Placed| match event {
            Placed::CallsMetered(e) => change(e.lines.first_mut()?),
            _ => None,
        }
    };
    read.placed("than it was signed", line(|line| now_is(&mut line.output_tokens, 7)));
    read.placed("than it was signed", line(|line| turned(&mut line.gateway_signature)));
    read.placed("than it was signed", line(|line| turned(&mut line.node_signature)));
    read.placed("than it was signed", line(|line| turned(&mut line.output_commitment)));
    read.placed("granted was", only!(Placed::CallsMetered, e => { e.credit = 3 - e.credit; Some(()) }));
    read.placed("granted was", only!(Placed::CallsMetered, e => turned(&mut e.owner)));
    read.placed("granted was", only!(Placed::CallsMetered, e => now_is(&mut e.output_micro_units, 7)));
    read.placed("a lease of another's session", only!(Placed::LeaseGranted, e => turned(&mut e.renter)));
}
