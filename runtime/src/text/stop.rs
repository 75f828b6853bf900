//! Ending an answer: stop strings in the text, stop tokens among the ids.
//!
//! A stop string may begin in one token and end in another, so text that could still become one is held back, and
//! nothing else is. The result depends on the text only, not on how it was cut into pieces: the stop string that
//! is complete first wins, the longest of those that end at the same place.

use std::sync::Arc;

/// A stop condition that cannot be met.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StopError {
    /// An empty stop string would stop before the first token.
    #[error("stop string {index} is empty; leave it out or give it text")]
    EmptyString {
        /// Place in the list.
        index: usize,
    },
}

/// When an answer ends. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub struct StopConditions {
    inner: Arc<Conditions>,
}

#[derive(Debug, Default)]
struct Conditions {
    strings: Vec<String>,
    /// Sorted.
    token_ids: Vec<u32>,
    keep_match: bool,
}

impl StopConditions {
    /// Stops at any of `strings` in the text or any of `token_ids`. With `keep_match` the stop string stays in the answer.
    ///
    /// # Errors
    /// An empty stop string.
    pub fn new(strings: Vec<String>, mut token_ids: Vec<u32>, keep_match: bool) -> Result<Self, StopError> {
        if let Some(index) = strings.iter().position(String::is_empty) {
            return Err(StopError::EmptyString { index });
        }
        token_ids.sort_unstable();
        token_ids.dedup();
        Ok(Self { inner: Arc::new(Conditions { strings, token_ids, keep_match }) })
    }

    /// Whether `id` ends the answer. Its text is not part of it.
    pub fn is_stop_token(&self, id: u32) -> bool {
        self.inner.token_ids.binary_search(&id).is_ok()
    }

    /// The stop strings, in the order given.
    pub fn strings(&self) -> &[String] {
        &self.inner.strings
    }

    /// Starts watching the text of one answer.
    pub fn matcher(&self) -> StopMatcher {
        StopMatcher { conditions: self.clone(), held: String::new(), matched: None }
    }
}

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StopStep {
    /// Text that is certainly part of the answer, held-back text of earlier pieces included.
    pub text: String,
    /// The stop string that ended the answer, as index into [`StopConditions::strings`].
    pub matched: Option<usize>,
}

/// Watches one streamed answer for stop strings.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    conditions: StopConditions,
    /// The longest end of the text so far that begins a stop string.
    held: String,
    matched: Option<usize>,
}

impl StopMatcher {
    /// Takes the next piece of text. After a match all further text is dropped.
    pub fn push(&mut self, piece: &str) -> StopStep {
        if self.matched.is_some() {
            return StopStep { text: String::new(), matched: self.matched };
        }
        self.held.push_str(piece);
        if let Some(Match { index, start, end }) = self.first_match() {
            let cut = if self.conditions.inner.keep_match { end } else { start };
            self.held.truncate(cut);
            self.matched = Some(index);
            return StopStep { text: std::mem::take(&mut self.held), matched: self.matched };
        }
        let kept = self.held.split_off(self.possible_start());
        StopStep { text: std::mem::replace(&mut self.held, kept), matched: None }
    }

    /// Ends the answer without a match and returns what was held back.
    pub fn finish(self) -> String {
        self.held
    }

    /// The match that ends first, the longest of those.
    fn first_match(&self) -> Option<Match> {
        let strings = self.conditions.strings().iter().enumerate();
        strings
            .filter_map(|(index, stop)| {
                self.held.find(stop.as_str()).map(|start| Match { index, start, end: start + stop.len() })
            })
            .min_by_key(|found| (found.end, found.start))
    }

    /// Where the longest end of `held` begins that is the beginning of a stop string; its length if none is.
    fn possible_start(&self) -> usize {
        let longest = self.conditions.strings().iter().map(String::len).max().unwrap_or(0);
        let tail = self.held.len().saturating_sub(longest.saturating_sub(1));
        let begins_a_stop = |&start: &usize| {
            self.held.get(start..).is_some_and(|end| self.conditions.strings().iter().any(|s| s.starts_with(end)))
        };
        (tail..self.held.len()).find(begins_a_stop).unwrap_or(self.held.len())
    }
}

struct Match {
    index: usize,
    start: usize,
    end: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn conditions(strings: &[&str], keep_match: bool) -> StopConditions {
        let strings = strings.iter().map(|s| s.to_string()).collect();
        StopConditions::new(strings, vec![7, 2, 7], keep_match).expect("no empty string")
    }

    /// The answer and the match for text that arrives in `pieces`.
    fn answer<'a>(conditions: &StopConditions, pieces: impl IntoIterator<Item = &'a str>) -> (String, Option<usize>) {
        let (mut matcher, mut text, mut matched) = (conditions.matcher(), String::new(), None);
        for piece in pieces {
            let step = matcher.push(piece);
            text.push_str(&step.text);
            matched = step.matched;
        }
        text.push_str(&matcher.finish());
        (text, matched)
    }

    #[test]
    fn a_stop_string_across_pieces_is_found_and_removed() {
        let stops = conditions(&["\nUser:", "END"], false);
        assert_eq!(answer(&stops, ["Hello\n", "Us", "er", ": hi"]), ("Hello".to_owned(), Some(0)));
        assert_eq!(answer(&stops, ["Hello\n", "Us", "ual"]), ("Hello\nUsual".to_owned(), None));
        assert_eq!(answer(&stops, ["a", "E", "N"]), ("aEN".to_owned(), None), "held text is not lost at the end");
        let keeping = conditions(&["END"], true);
        assert_eq!(answer(&keeping, ["so EN", "D and more"]), ("so END".to_owned(), Some(0)));
    }

    #[test]
    fn only_possible_beginnings_are_held_back() {
        let mut matcher = conditions(&["</s>", "STOP"], false).matcher();
        assert_eq!(matcher.push("text <").text, "text ");
        assert_eq!(matcher.push("b> ST").text, "<b> ");
        assert_eq!(matcher.push("ART").text, "START");
        assert_eq!(matcher.push("STOP").matched, Some(1));
        assert_eq!(matcher.push("more"), StopStep { text: String::new(), matched: Some(1) });
    }

    #[test]
    fn the_first_complete_string_wins_and_the_longest_at_one_place() {
        assert_eq!(answer(&conditions(&["abcd", "bc"], false), ["xabcd"]), ("xa".to_owned(), Some(1)));
        assert_eq!(answer(&conditions(&["c", "abc"], false), ["xabc"]), ("x".to_owned(), Some(1)));
    }

    #[test]
    fn stop_tokens_and_empty_strings() {
        let stops = conditions(&[], false);
        assert!(stops.is_stop_token(2) && stops.is_stop_token(7) && !stops.is_stop_token(3));
        assert_eq!(answer(&stops, ["a", "b"]), ("ab".to_owned(), None));
        let error = StopConditions::new(vec!["x".into(), String::new()], vec![], false).expect_err("empty");
        assert_eq!(error, StopError::EmptyString { index: 1 });
    }

    proptest! {
        #[test]
        fn the_cut_into_pieces_does_not_matter(
            pieces in prop::collection::vec("[abé]{0,4}", 0..8),
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            keep_match in any::<bool>(),
        ) {
            let stops = conditions(&stops.iter().map(String::as_str).collect::<Vec<_>>(), keep_match);
            let whole = pieces.concat();
            let expected = answer(&stops, [whole.as_str()]);
            prop_assert_eq!(&answer(&stops, pieces.iter().map(String::as_str)), &expected);
            prop_assert!(whole.starts_with(&expected.0));
            if expected.1.is_none() {
                prop_assert!(stops.strings().iter().all(|stop| !whole.contains(stop.as_str())));
                prop_assert_eq!(expected.0, whole);
            }
        }
    }
}
