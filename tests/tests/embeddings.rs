//! Artifacts compiled with embeddings give, beside the logits, the rows that the output projection reads.

use compiler::pipeline::CompileOptions;
use compiler::target::Activations;
use moesaic_tests::artifacts::{compile_with, engine, logits, options};
use moesaic_tests::golden;
use runtime::engine::{Chunk, Engine, EngineOptions, Rows};

/// Hidden states of every position, `[tokens, hidden]`, the prompt given in pieces.
fn hidden(engine: &mut Engine, ids: &[u32], chunk: usize) -> Vec<f32> {
    let sequence = engine.open_sequence_for(ids.len() as u64);
    let mut all = Vec::new();
    for tokens in ids.chunks(chunk.min(engine.max_logit_rows())) {
        engine.step_each(&[Chunk { sequence, tokens, logits: Rows::All }], |_| ()).expect("a step");
        all.extend_from_slice(engine.output("hidden").expect("hidden states"));
    }
    engine.close_sequence(sequence).expect("an open sequence");
    all
}

#[test]
fn hidden_states_agree_with_the_reference_and_leave_the_logits_as_they_are() {
    let asked = CompileOptions { embeddings: true, ..options(Activations::F32) };
    for fixture in golden::fixtures() {
        let Some(prompt) = fixture.prompts.get(1) else { continue };
        let (_folder, artifact) = compile_with(&fixture.folder, &asked);
        let mut engine = engine(&artifact, 128, EngineOptions { threads: Some(1), ..EngineOptions::default() });
        let whole = hidden(&mut engine, &prompt.ids, usize::MAX);
        let error = golden::relative_rms(&whole, &fixture.final_norm);
        println!("{}: relative RMS {error:.1e}", fixture.name());
        assert!(error < fixture.tolerance(), "{}: relative RMS {error:.2e}", fixture.name());
        assert_eq!(hidden(&mut engine, &prompt.ids, 3), whole, "{} in chunks", fixture.name());
        let error = golden::relative_rms(&logits(&mut engine, &prompt.ids, 7), &prompt.logits);
        assert!(error < fixture.tolerance(), "{}: logits differ by {error:.2e}", fixture.name());
    }
}
