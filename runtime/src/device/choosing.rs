//! Steps whose tokens the device chooses by itself, so that the next step can be handed to it before they are known.

use kernels::abi::SampleSettings;

use super::{InputError, InputLimits, StepInputs};

/// Most steps that may be submitted and not collected.
pub const MOST_UNDER_WAY: usize = 2;

/// A token of a step that the step submitted just before it chooses. Where that finds none, the step computes something that nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Index among the step's tokens; what [`StepInputs::ids`] says of it does not count.
    pub token: usize,
    /// Row of logits of the step before that it is chosen from.
    pub row: usize,
}

/// A step and how its tokens are chosen.
#[derive(Clone, Copy, Debug)]
pub struct ChoosingStep<'a> {
    /// The step.
    pub inputs: StepInputs<'a>,
    /// How a token is chosen from each row of logits, `[R]`. The penalties do nothing: they would need the history.
    pub settings: &'a [SampleSettings],
    /// Tokens that are not known yet, in rising order; only while the step before is not collected.
    pub carried: &'a [Carried],
    /// Bring the outputs to the host too: [`super::Device::output`] once the step is collected. No other step may then be under way.
    pub outputs: bool,
}

impl ChoosingStep<'_> {
    /// Checks lengths and every index, also that it may follow the steps that are under way, the last of them of `before` rows.
    ///
    /// # Errors
    /// The first input out of range.
    pub fn check(&self, limits: &InputLimits, under_way: usize, before: usize) -> Result<(), InputError> {
        self.inputs.check(limits)?;
        let most = if self.outputs { 0 } else { MOST_UNDER_WAY - 1 };
        within("steps under way", under_way, 0, most + 1)?;
        let rows = self.inputs.logit_rows.len();
        if self.settings.len() != rows {
            let expected = format!("length {rows}");
            return Err(InputError { input: "settings", expected, found: format!("length {}", self.settings.len()) });
        }
        let before = if under_way == 0 { 0 } else { before };
        let mut least = 0;
        for carried in self.carried {
            within("carried rows", carried.row, 0, before)?;
            within("carried tokens", carried.token, least, self.inputs.ids.len())?;
            least = carried.token + 1;
        }
        Ok(())
    }

    /// Carried tokens that stand next to each other as their rows do: the first of them, and how many there are.
    pub fn carried_runs(&self) -> impl Iterator<Item = (Carried, usize)> {
        let follows = |a: &Carried, b: &Carried| b.token == a.token + 1 && b.row == a.row + 1;
        self.carried.chunk_by(follows).map(|run| (run[0], run.len()))
    }
}

fn within(input: &'static str, found: usize, least: usize, bound: usize) -> Result<(), InputError> {
    match (least..bound).contains(&found) {
        true => Ok(()),
        false => {
            Err(InputError { input, expected: format!("from {least} to below {bound}"), found: found.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: InputLimits =
        InputLimits { tokens: 4, logit_rows: 3, sequences: 3, page_columns: 1, vocabulary: 10, pages: 5 };

    fn carried(pairs: &[(usize, usize)]) -> Vec<Carried> {
        pairs.iter().map(|(token, row)| Carried { token: *token, row: *row }).collect()
    }

    fn inputs() -> StepInputs<'static> {
        StepInputs {
            ids: &[0, 0, 0],
            positions: &[3, 4, 5],
            sequences: &[0, 1, 2],
            page_table: &[0, 1, 2],
            page_columns: 1,
            logit_rows: &[0, 1, 2],
            rope_tables: &[0; 3],
        }
    }

    #[test]
    fn what_may_not_follow_is_named() {
        let settings = [SampleSettings::default(); 3];
        let check = |pairs: &[(usize, usize)], outputs, settings, under_way, before| {
            let step = ChoosingStep { inputs: inputs(), settings, carried: &carried(pairs), outputs };
            step.check(&LIMITS, under_way, before).map_err(|e| e.input)
        };
        assert_eq!(check(&[(0, 2), (2, 0)], false, &settings, 1, 3), Ok(()));
        assert_eq!(check(&[], true, &settings, 0, 0), Ok(()));
        assert_eq!(check(&[], true, &settings, 1, 3), Err("steps under way"));
        assert_eq!(check(&[], false, &settings, 2, 3), Err("steps under way"));
        assert_eq!(check(&[], false, &settings[..2], 0, 0), Err("settings"));
        assert_eq!(check(&[(0, 3)], false, &settings, 1, 3), Err("carried rows"));
        assert_eq!(check(&[(0, 0)], false, &settings, 0, 3), Err("carried rows"));
        assert_eq!(check(&[(3, 0)], false, &settings, 1, 3), Err("carried tokens"));
        assert_eq!(check(&[(1, 0), (1, 1)], false, &settings, 1, 3), Err("carried tokens"));
    }

    #[test]
    fn tokens_that_stand_as_their_rows_do_are_one_run() {
        let carried = carried(&[(0, 1), (1, 2), (3, 3), (4, 4), (5, 0)]);
        let step = ChoosingStep { inputs: inputs(), settings: &[], carried: &carried, outputs: false };
        let runs: Vec<_> = step.carried_runs().map(|(first, count)| (first.token, first.row, count)).collect();
        assert_eq!(runs, [(0, 1, 2), (3, 3, 2), (5, 0, 1)]);
    }
}
