//! Row 8: the terminal is kept.
