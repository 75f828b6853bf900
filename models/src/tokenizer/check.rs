//! Faults of a `tokenizer.json` that the tokenizers library meets with a panic, found before it sees the file.
//!
//! It expects valid JSON inside `decoder`, and it looks the tokens of a post-processing template up without asking whether
//! they are there.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The parts that are looked at. The rest is parsed, so the whole file is known to be JSON, but not kept.
#[derive(Deserialize)]
struct Skeleton {
    #[serde(rename = "decoder", default)]
    _decoder: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(rename = "model")]
    _model: IgnoredAny,
}

/// Says what is wrong, if anything is.
pub(super) fn check(json: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(json).map_err(|e| e.to_string())?;
    let skeleton: Skeleton = serde_json::from_str(text).map_err(|e| e.to_string())?;
    skeleton.post_processor.as_ref().map_or(Ok(()), check_processor)
}

/// Checks a processor, or those of a sequence. Their nesting is limited by the JSON parser's recursion limit.
fn check_processor(processor: &Value) -> Result<(), String> {
    if let Some(inner) = processor.get("processors").and_then(Value::as_array) {
        return inner.iter().try_for_each(check_processor);
    }
    let Some(single) = processor.get("single").and_then(Value::as_array) else { return Ok(()) };
    let pair = processor.get("pair").and_then(Value::as_array);
    for piece in single.iter().chain(pair.into_iter().flatten()) {
        let Some(id) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) else { continue };
        if processor.get("special_tokens").and_then(|known| known.get(id)).is_none() {
            return Err(format!(
                "field post_processor: the template adds the token {id:?}, which special_tokens lacks"
            ));
        }
    }
    let second = |piece: &Value| piece.pointer("/Sequence/id").is_some_and(|id| id != "A");
    match single.iter().any(second) {
        true => Err("field post_processor.single: may hold only the sequence A".to_owned()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn templates_must_name_known_tokens_and_sequences() {
        let file = |processor: &str| format!(r#"{{"post_processor":{processor},"model":{{}}}}"#);
        let template = |single: &str| format!(r#"{{"single":[{single}],"pair":[],"special_tokens":{{"<s>":{{}}}}}}"#);
        let token = |id: &str| template(&format!(r#"{{"SpecialToken":{{"id":"{id}","type_id":0}}}}"#));
        let sequence = |id: &str| template(&format!(r#"{{"Sequence":{{"id":"{id}","type_id":0}}}}"#));
        for good in ["null".to_owned(), token("<s>"), sequence("A")] {
            assert_eq!(check(file(&good).as_bytes()), Ok(()));
        }
        let nested = format!(r#"{{"processors":[{}]}}"#, token("<t>"));
        for bad in [token("<t>"), nested] {
            assert!(check(file(&bad).as_bytes()).unwrap_err().contains("adds the token \"<t>\""));
        }
        assert!(check(file(&sequence("B")).as_bytes()).unwrap_err().contains("only the sequence A"));
        assert!(check(b"{\"decoder\": {]").unwrap_err().contains("line 1"));
        assert!(check(br#"{"decoder": {"x": "\ud800"}}"#).unwrap_err().contains("line 1"));
        assert!(check(b"{\"model\": \"\xff\"}").unwrap_err().contains("utf-8"));
        assert!(check(b"{}").unwrap_err().contains("missing field `model`"));
    }
}
