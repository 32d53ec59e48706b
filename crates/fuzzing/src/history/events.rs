//! Events that somebody else has written: those of a log at another place, changed in a field or in their bytes, or new.

use arbitrary::Unstructured;
use holmes_kernel::Event;
use prost_reflect::prost::bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value};

use crate::bytes::garbled;

type Drawn<T> = arbitrary::Result<T>;

/// Fields of messages in messages are drawn so deep.
const DEPTH: usize = 3;

/// The bytes of an event.
pub(super) fn forged(of: &MessageDescriptor, known: &[Bytes], u: &mut Unstructured<'_>) -> Drawn<Bytes> {
    let known = u.choose(known)?;
    Ok(match u.int_in_range(0..=7u8)? {
        0 => known.clone(),
        1 => garbled(known.to_vec(), u)?.into(),
        2 => {
            let mut event = DynamicMessage::new(of.clone());
            let variants: Vec<FieldDescriptor> = of.fields().collect();
            let variant = u.choose(&variants)?;
            event.set_field(variant, drawn(variant, u, DEPTH)?);
            bytes_of(&event)
        }
        _ => {
            let mut event = DynamicMessage::decode(of.clone(), known.clone()).unwrap();
            for _ in 0..u.int_in_range(1..=2u8)? {
                change(&mut event, u)?;
            }
            bytes_of(&event)
        }
    })
}

/// Events as people read them.
pub(super) fn words<E: Event>(of: &MessageDescriptor, events: &[E]) -> String {
    let words = events.iter().map(|event| {
        let event = DynamicMessage::decode(of.clone(), event.encode_to_vec().as_slice());
        event.map_or_else(|why| why.to_string(), |event| format!("{event:?}"))
    });
    words.collect::<Vec<_>>().join("\n")
}

fn bytes_of(event: &DynamicMessage) -> Bytes {
    prost_reflect::prost::Message::encode_to_vec(event).into()
}

/// Changes one field of the variant that an event is.
fn change(event: &mut DynamicMessage, u: &mut Unstructured<'_>) -> Drawn<()> {
    let Some((variant, value)) = event.fields().next().map(|(field, value)| (field, value.clone())) else {
        return Ok(());
    };
    let Value::Message(mut inner) = value else { return Ok(()) };
    let fields: Vec<FieldDescriptor> = inner.descriptor().fields().collect();
    if fields.is_empty() {
        return Ok(());
    }
    let field = u.choose(&fields)?;
    let before = inner.get_field(field).into_owned();
    inner.set_field(field, changed(field, before, u)?);
    event.set_field(&variant, Value::Message(inner));
    Ok(())
}

fn changed(field: &FieldDescriptor, before: Value, u: &mut Unstructured<'_>) -> Drawn<Value> {
    Ok(match before {
        Value::List(mut row) if !row.is_empty() && u.ratio(7u8, 8u8)? => {
            let at = u.int_in_range(0..=row.len() - 1)?;
            match u.int_in_range(0..=3u8)? {
                0 => drop(row.remove(at)),
                1 => row.push(row[at].clone()),
                _ => row[at] = one(field, u, DEPTH)?,
            }
            Value::List(row)
        }
        Value::Bytes(bytes) if u.ratio(7u8, 8u8)? => Value::Bytes(garbled(bytes.to_vec(), u)?.into()),
        Value::U64(before) if u.ratio(1u8, 2u8)? => Value::U64(before ^ (1 << u.int_in_range(0..=63u8)?)),
        Value::U32(before) if u.ratio(1u8, 2u8)? => Value::U32(before ^ (1 << u.int_in_range(0..=31u8)?)),
        Value::Message(mut inner) => {
            let fields: Vec<FieldDescriptor> = inner.descriptor().fields().collect();
            if !fields.is_empty() {
                let field = u.choose(&fields)?;
                let before = inner.get_field(field).into_owned();
                inner.set_field(field, changed(field, before, u)?);
            }
            Value::Message(inner)
        }
        _ => drawn(field, u, DEPTH)?,
    })
}

fn drawn(field: &FieldDescriptor, u: &mut Unstructured<'_>, depth: usize) -> Drawn<Value> {
    if !field.is_list() {
        return one(field, u, depth);
    }
    let row: Drawn<Vec<Value>> = (0..u.int_in_range(0..=3u8)?).map(|_| one(field, u, depth)).collect();
    row.map(Value::List)
}

fn one(field: &FieldDescriptor, u: &mut Unstructured<'_>, depth: usize) -> Drawn<Value> {
    Ok(match field.kind() {
        Kind::String => {
            Value::String(u.choose(&["", "x", "HOL", "bonds/HOL", "a rather long text"])?.to_string())
        }
        Kind::Bytes => {
            let each = *u.choose(&[1usize, 8, 16, 17, 20, 32])?;
            let byte: u8 = u.arbitrary()?;
            Value::Bytes(vec![byte; each * u.int_in_range(0..=3usize)?].into())
        }
        Kind::Bool => Value::Bool(u.arbitrary()?),
        Kind::Uint32 => Value::U32(number(u)? as u32),
        Kind::Uint64 => Value::U64(number(u)?),
        Kind::Enum(of) => Value::EnumNumber(u.int_in_range(-1..=of.values().len() as i32)?),
        Kind::Message(inner) => {
            let mut message = DynamicMessage::new(inner.clone());
            for field in inner.fields().filter(|_| depth > 0) {
                message.set_field(&field, drawn(&field, u, depth - 1)?);
            }
            Value::Message(message)
        }
        other => panic!("{}: say here how {other:?} is drawn", field.full_name()),
    })
}

/// Numbers at the edges, and between.
fn number(u: &mut Unstructured<'_>) -> Drawn<u64> {
    let edges = [0, 1, 2, 1_000_000, u64::from(u32::MAX), 1 << 53, 1 << 63, u64::MAX - 1, u64::MAX];
    if u.ratio(3u8, 4u8)? { Ok(*u.choose(&edges)?) } else { u.arbitrary() }
}
