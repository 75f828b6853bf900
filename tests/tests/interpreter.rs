//! The interpreter on imported graphs against the golden logits: importer and op definitions are right, kernels aside.

use std::path::Path;

use ir::types::DType;
use moesaic_tests::golden::{self, Golden};
use moesaic_tests::interpreted::prefill;

fn check(name: &str, checkpoint: &Path, golden: &Golden) {
    for (n, prompt) in golden.prompts.iter().enumerate() {
        let error = golden::relative_rms(&prefill(checkpoint, &prompt.ids, DType::F32), &prompt.logits);
        println!("{name} prompt {n}: relative RMS {error:.1e}");
        assert!(error < golden.tolerance(), "{name} prompt {n}: relative RMS {error:.2e}");
    }
}

#[test]
fn logits_of_every_fixture_agree() {
    let fixtures = golden::fixtures();
    assert!(fixtures.len() >= 38, "only {} fixtures found", fixtures.len());
    fixtures.iter().for_each(|f| check(&f.name(), &f.folder, f));
}

#[test]
fn logits_of_gguf_conversions_agree() {
    let conversions = golden::conversions();
    assert!(conversions.len() >= 10, "only {} conversions found", conversions.len());
    conversions.iter().for_each(|(file, golden)| check(&format!("{}.gguf", golden.name()), file, golden));
}
