//! Maps whose keys are no texts, for `#[serde(with = "pairs")]`: people see rows, as of a [`Table`](crate::Table); the
//! canonical form is that of the map itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes a row for each entry.
pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
    map: &BTreeMap<K, V>,
    s: S,
) -> Result<S::Ok, S::Error> {
    s.collect_seq(map)
}

/// Reads the rows back.
pub fn deserialize<'de, K, V, D>(d: D) -> Result<BTreeMap<K, V>, D::Error>
where
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Vec::<(K, V)>::deserialize(d)?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canon;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Plain(BTreeMap<(u8, u64), String>);

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Rows(#[serde(with = "super")] BTreeMap<(u8, u64), String>);

    #[test]
    fn a_map_by_principals_can_be_shown_and_read_back() {
        let who = crate::Principal::service(crate::ServiceId(7));
        let map: BTreeMap<crate::Principal, u8> = [(who, 1)].into();
        let text = serde_json::to_string(&map).unwrap();
        assert_eq!(text, "{\"service/7\":1}");
        assert_eq!(serde_json::from_str::<BTreeMap<crate::Principal, u8>>(&text).unwrap(), map);
        assert_eq!(
            canon::digest(&who),
            canon::digest(&(who.kind, who.id)),
            "the canonical form is the pair's"
        );
    }

    #[test]
    fn rows_have_the_canonical_form_of_their_map_and_can_be_shown() {
        let map: BTreeMap<_, _> = [((1, 2), "a".to_owned()), ((1, 300), "b".to_owned())].into();
        let (plain, rows) = (Plain(map.clone()), Rows(map));
        assert_eq!(canon::digest(&plain), canon::digest(&rows));
        assert_eq!(serde_json::to_string(&rows).unwrap(), "[[[1,2],\"a\"],[[1,300],\"b\"]]");
        assert_eq!(serde_json::from_str::<Rows>(&serde_json::to_string(&rows).unwrap()).unwrap(), rows);
    }
}
