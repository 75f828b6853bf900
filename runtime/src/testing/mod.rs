//! What tests share: a tiny model as an artifact folder, its scalar definition, and a device that checks its inputs.

mod fake;
mod faulty;
mod reference;
mod tiny;

pub use fake::FakeDevice;
pub use faulty::{Faults, FaultyDevice};
pub use reference::reference_logits;
pub use tiny::{TinyModel, shapes, write_manifest};
