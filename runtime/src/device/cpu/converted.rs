//! Weights in the layout of GPU devices, converted to the panels that the kernels of the processor read.
//!
//! An artifact for a GPU is executed here as well: its programs are the same, only its matrices lie otherwise. They are
//! converted once, when it is loaded, by as many threads as will compute, into memory that then takes the place of the
//! mapped file, whose pages are not touched again. That costs the time and the memory of a copy; an artifact for the
//! processor costs neither.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ir::quant::{PANEL_ROWS, QuantError, fragments};
use ir::types::DType;

use super::region::Region;
use crate::artifact::{Artifact, Fault, Layout, Manifest, WeightInfo};
use crate::device::DeviceError;

/// Bytes of panels that a thread converts at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The converted matrices of an artifact.
pub(super) struct Converted {
    region: Region,
    /// Where each begins.
    places: HashMap<String, usize>,
}

/// Whole tiles of one matrix and the panels that they become.
struct Piece<'a> {
    weight: &'a WeightInfo,
    dtype: DType,
    cols: usize,
    /// Bytes of a tile and of a panel.
    sizes: (usize, usize),
    tiles: &'a [u8],
    panels: &'a mut [u8],
}

/// Bytes of memory that converted weights take; 0 for an artifact whose matrices are panels. Saturates.
pub(super) fn converted_bytes(manifest: &Manifest) -> u64 {
    to_convert(manifest).map(|weight| panel_bytes(weight).unwrap_or(u64::MAX)).fold(0, u64::saturating_add)
}

/// Bytes of an artifact's weights as the device holds them: converted, or as they lie in the files. Saturates.
pub fn weight_bytes(manifest: &Manifest) -> u64 {
    let as_stored = manifest.weights.iter().filter(|weight| weight.layout != Layout::Fragments);
    as_stored.map(|weight| weight.bytes).fold(converted_bytes(manifest), u64::saturating_add)
}

fn to_convert(manifest: &Manifest) -> impl Iterator<Item = &WeightInfo> {
    manifest.weights.iter().filter(|weight| weight.layout == Layout::Fragments)
}

/// Bytes of a weight in panels.
fn panel_bytes(weight: &WeightInfo) -> Option<u64> {
    Layout::Rows16.bytes(DType::from_name(&weight.dtype)?, &weight.shape)
}

impl Converted {
    /// Converts what has to be.
    ///
    /// # Errors
    /// Memory or threads that the system refuses, or a weights file that was cut off.
    pub fn of(artifact: &Artifact, threads: usize) -> Result<Converted, DeviceError> {
        let manifest = artifact.manifest();
        let mut region = Region::new("converted weights", converted_bytes(manifest))?;
        let mut places = HashMap::new();
        if region.bytes() == 0 {
            return Ok(Converted { region, places });
        }
        artifact.check_intact()?;
        let (mut pieces, mut rest, mut offset) = (Vec::new(), region.as_mut_slice(), 0);
        for weight in to_convert(manifest) {
            let bytes = panel_bytes(weight).and_then(|bytes| usize::try_from(bytes).ok());
            let panels = bytes.and_then(|bytes| rest.split_off_mut(..bytes)).ok_or_else(|| unfit(artifact, weight))?;
            places.insert(weight.name.clone(), offset);
            offset += panels.len();
            pieces.extend(cut(artifact, weight, panels)?);
        }
        convert(pieces, threads).map_err(|error| error.named(artifact))?;
        // What was read while a file was cut off is worth nothing.
        artifact.check_intact()?;
        Ok(Converted { region, places })
    }

    /// The panels of a converted weight.
    pub fn address(&self, name: &str) -> Option<*const u8> {
        let offset = *self.places.get(name)?;
        // SAFETY: the offset lies in the region.
        Some(unsafe { self.region.base().byte_add(offset) }.cast_const())
    }
}

/// The pieces of a weight, which may be a stack: its tiles and its panels follow each other alike.
fn cut<'a>(
    artifact: &'a Artifact,
    weight: &'a WeightInfo,
    panels: &'a mut [u8],
) -> Result<impl Iterator<Item = Piece<'a>>, DeviceError> {
    let unfit = || unfit(artifact, weight);
    let dtype = DType::from_name(&weight.dtype).ok_or_else(unfit)?;
    let cols = *weight.shape.last().ok_or_else(unfit)?;
    let sixteen = [PANEL_ROWS as u64, cols];
    let bytes = |layout: Layout| layout.bytes(dtype, &sixteen).and_then(|bytes| usize::try_from(bytes).ok());
    let (tile, panel) = (bytes(Layout::Fragments).ok_or_else(unfit)?, bytes(Layout::Rows16).ok_or_else(unfit)?);
    // A matrix without columns has tiles of no bytes, and no pieces.
    let (sizes, count) = ((tile.max(1), panel.max(1)), (PIECE_BYTES / panel.max(1)).max(1));
    let tiles = artifact.weight(&weight.name).ok_or_else(unfit)?;
    let pieces = tiles.chunks(count * sizes.0).zip(panels.chunks_mut(count * sizes.1));
    Ok(pieces.map(move |(tiles, panels)| Piece { weight, dtype, cols: cols as usize, sizes, tiles, panels }))
}

/// Why pieces were not converted.
enum Failure<'a> {
    Thread(usize, std::io::Error),
    Piece(&'a WeightInfo, QuantError),
}

impl Failure<'_> {
    fn named(self, artifact: &Artifact) -> DeviceError {
        match self {
            Failure::Thread(thread, source) => DeviceError::Thread { thread, source },
            Failure::Piece(weight, error) => fault(artifact, weight, error.to_string()),
        }
    }
}

/// Converts pieces on `threads` threads, the caller's included; each takes the next when it is done with one.
fn convert(pieces: Vec<Piece<'_>>, threads: usize) -> Result<(), Failure<'_>> {
    let threads = threads.min(pieces.len());
    let pieces = Mutex::new(pieces.into_iter());
    let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(piece) = next() {
            piece.convert()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers = (1..threads).map(|thread| {
            let name = format!("convert-{thread}");
            let worker = std::thread::Builder::new().name(name).spawn_scoped(scope, work);
            worker.map_err(|source| Failure::Thread(thread, source))
        });
        let workers = workers.collect::<Result<Vec<_>, _>>()?;
        let own = work();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })?;
        own
    })
}

impl<'a> Piece<'a> {
    fn convert(self) -> Result<(), Failure<'a>> {
        let tiles = self.tiles.chunks_exact(self.sizes.0);
        tiles.zip(self.panels.chunks_exact_mut(self.sizes.1)).try_for_each(|(tile, panel)| {
            fragments::to_panel(self.dtype, tile, self.cols, panel).map_err(|error| Failure::Piece(self.weight, error))
        })
    }
}

/// The error of a weight that is not what its entry in the manifest says.
fn unfit(artifact: &Artifact, weight: &WeightInfo) -> DeviceError {
    fault(artifact, weight, format!("shape {:?} of {} cannot be converted", weight.shape, weight.dtype))
}

fn fault(artifact: &Artifact, weight: &WeightInfo, message: String) -> DeviceError {
    Fault::Invalid(message).at(&artifact.path().join(&weight.file), &weight.name).into()
}
