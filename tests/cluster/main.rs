//! The product on a real cluster: API server, kubelet, containerd, real pods.
//!
//! `tests/cluster/run` starts the cluster, makes the images and runs these. Without it
//! (`E2EK_CLUSTER_TESTS` is not set) each test says that it was left out.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]
#![allow(clippy::zombie_processes, reason = "a wait that is not reached is a test that failed")]

mod example;
mod faults;
mod follow;
mod join;
mod pod;
mod pod_ends;
mod pod_files;
mod pod_hub;
mod pod_id;
mod pod_inside;
mod pod_modes;
mod pod_replay;
mod pod_safety;
mod pod_wrapper;
mod pods;
mod proxy;
mod refused;
mod relay;
mod rig;
mod rights;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../e2e/said.rs"]
mod said;
mod signin;
mod skew;
mod watch;
