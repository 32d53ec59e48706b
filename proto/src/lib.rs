//! Generated wire types.
