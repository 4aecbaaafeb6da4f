//! Cases to follow.
