//! Tests over loopback: a whole server, and clients that behave well or badly.

mod access;
mod connections;
pub(in crate::server) mod harness;
mod info;
mod models;
mod upstream;
