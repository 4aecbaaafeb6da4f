//! (being written)
use serde::{Deserialize, Serialize};
/// stub
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {}
/// stub
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ActionSet {}
