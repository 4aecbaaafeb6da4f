//! Modes, owners, type changes, odd names, full and read-only disks: real files.
