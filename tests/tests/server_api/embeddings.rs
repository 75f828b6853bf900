//! `POST /v1/embeddings`.

use compiler::target::Activations;
use moesaic_tests::artifacts;
use moesaic_tests::golden::{self, Golden};
use moesaic_tests::served::Served;
use serde_json::{Value, json};

use super::{MODEL, ok, server, with};

const PATH: &str = "/v1/embeddings";

fn vector(value: &Value) -> Vec<f32> {
    value.as_array().expect("a vector").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

fn embedding(more: Value) -> Vec<f32> {
    vector(&ok(PATH, &with(json!({"model": MODEL}), &more))["data"][0]["embedding"])
}

#[test]
fn pooled_states_agree_with_the_reference() {
    let golden = Golden::read(&golden::folder().join(MODEL));
    let (ids, states) = (&golden.prompts[1].ids, &golden.final_norm);
    let width = states.len() / ids.len();
    let rows: Vec<&[f32]> = states.chunks_exact(width).collect();
    let mean: Vec<f32> = (0..width).map(|i| rows.iter().map(|row| row[i]).sum::<f32>() / rows.len() as f32).collect();
    let cases = [("last", rows[rows.len() - 1]), ("cls", rows[0]), ("mean", &mean)];
    for (pooling, expected) in cases {
        let plain = embedding(json!({"input": ids, "pooling": pooling, "normalize": false}));
        let error = golden::relative_rms(&plain, expected);
        assert!(error < golden.tolerance(), "{pooling}: relative RMS {error:.1e}");
        let unit = embedding(json!({"input": ids, "pooling": pooling}));
        let length = unit.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-5, "{pooling}: {length}");
    }
}

#[test]
fn inputs_in_every_form_give_the_same_vectors() {
    let text = "a short text";
    let tokens = ok("/tokenize", &json!({"model": MODEL, "prompt": text}))["tokens"].clone();
    let one = embedding(json!({"input": text}));
    assert_eq!(embedding(json!({"input": tokens, "dimensions": one.len()})), one);
    let both = ok(PATH, &json!({"input": ["another", text], "user": "me"}));
    assert_eq!((vector(&both["data"][1]["embedding"]), &both["data"][1]["index"]), (one.clone(), &json!(1)));
    assert_eq!(both["usage"]["total_tokens"], both["usage"]["prompt_tokens"]);
    let coded = ok(PATH, &json!({"input": text, "encoding_format": "base64"}))["data"][0]["embedding"].clone();
    // Four bytes a number, four characters three bytes.
    assert_eq!(coded.as_str().expect("base64").len(), (one.len() * 4).div_ceil(3) * 4);
}

#[test]
fn what_cannot_be_given_is_refused() {
    let refused = |server: &Served, more: Value| {
        let answer = server.post(PATH, &with(json!({"input": "a"}), &more));
        let error = answer.json()["error"].clone();
        assert_eq!(answer.status, 400, "{error}");
        (error["param"].as_str().expect("a field").to_owned(), error["message"].as_str().expect("a message").to_owned())
    };
    for (more, param) in [
        (json!({"dimensions": 8}), "dimensions"),
        (json!({"encoding_format": "int8"}), "encoding_format"),
        (json!({"pooling": "max"}), "pooling"),
        (json!({"input": []}), "input"),
        (json!({"input": [[]]}), "input"),
        (json!({"input": [1_000_000]}), "input"),
        (json!({"input": "long ".repeat(5000)}), "input"),
        (json!({"truncate": true}), "truncate"),
    ] {
        assert_eq!(refused(server(), more.clone()).0, param, "{more}");
    }
    let plain = Served::start(MODEL, &artifacts::options(Activations::F32), |_| {});
    let (param, message) = refused(&plain, json!({}));
    assert!(param == "model" && message.contains("--embeddings"), "{message}");
}
