//! Weights on their way from mapped files to the GPU: through two page-locked buffers, so that one is filled while the other is copied.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};

use super::resources::{Block, Event, Gpu, Pinned, Stream};
use crate::artifact::Artifact;
use crate::device::DeviceError;

/// Bytes of a buffer: long enough that nothing but bandwidth counts.
const STAGING_BYTES: u64 = 32 << 20;

/// Threads that fill a buffer: reading a mapped file for the first time takes the system longer than the copy to the GPU.
const FILLERS: usize = 4;

/// A buffer and the mark behind its last copy.
struct Staging {
    buffer: Pinned,
    copied: Event,
}

/// Copies each weights file of an artifact into its block, and waits for the last copy.
///
/// # Errors
/// The driver's, or a file that was cut off meanwhile.
pub(super) fn upload_weights(
    artifact: &Artifact,
    gpu: &Arc<Gpu>,
    stream: &Stream,
    blocks: &[Block],
) -> Result<(), DeviceError> {
    let total = blocks.iter().map(Block::bytes).sum();
    let bar = progress(total);
    let longest = blocks.iter().map(Block::bytes).max().unwrap_or(0).min(STAGING_BYTES);
    let staging = |_| Ok(Staging { buffer: Pinned::new(gpu, "staging weights", longest)?, copied: Event::new(gpu)? });
    let mut buffers = (0..2).map(staging).collect::<Result<Vec<_>, DeviceError>>()?;
    let copied = copy_files(artifact, stream, blocks, &mut buffers, &bar);
    // Buffers are returned only when nothing reads them any more, also after a failure.
    let finished = stream.synchronize();
    bar.finish_and_clear();
    copied?;
    finished?;
    // What was copied while a file was cut off is worth nothing.
    Ok(artifact.check_intact()?)
}

fn copy_files(
    artifact: &Artifact,
    stream: &Stream,
    blocks: &[Block],
    buffers: &mut [Staging],
    bar: &ProgressBar,
) -> Result<(), DeviceError> {
    let mut turn = 0;
    for (file, block) in artifact.weight_files().zip(blocks) {
        artifact.check_intact()?;
        let mut at = block.at();
        for piece in file.chunks(STAGING_BYTES as usize) {
            let count = buffers.len();
            let staging = &mut buffers[turn % count];
            staging.copied.wait()?;
            fill(&mut staging.buffer.bytes_mut()[..piece.len()], piece);
            stream.upload(at, &staging.buffer, 0, piece.len() as u64)?;
            stream.record(&staging.copied)?;
            at = at.offset(piece.len() as u64);
            turn += 1;
            bar.inc(piece.len() as u64);
        }
    }
    Ok(())
}

/// Copies by several threads.
fn fill(to: &mut [u8], from: &[u8]) {
    let part = from.len().div_ceil(FILLERS).max(1 << 20);
    if from.len() <= part {
        to.copy_from_slice(from);
        return;
    }
    std::thread::scope(|scope| {
        for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
            scope.spawn(move || to.copy_from_slice(from));
        }
    });
}

/// A bar on a terminal, nothing elsewhere.
fn progress(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    if let Ok(style) = ProgressStyle::with_template("loading weights {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}")
    {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_threads_copy_every_byte() {
        for length in [0, 1, (1 << 20) + 1, (5 << 20) + 3] {
            let from: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut to = vec![0; length];
            fill(&mut to, &from);
            assert!(to == from, "{length}");
        }
    }
}
