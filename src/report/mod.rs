//! Everything that can be said, and the only place that says it.
