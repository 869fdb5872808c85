//! From the outputs of two models to the answers that the verdict compares: alarm, score and forecast of each row.
//!
//! What an alarm is, is decided here and nowhere else.

use std::iter::zip;

use half::{bf16, f16};

use crate::model::signature::Signature;
use crate::model::tensor::Tensor;
use crate::verdict::state::Answer;

/// Classes that are no alarm, in any case, where a decision is text: what a detector's first class is called.
const QUIET: [&str; 5] = ["normal", "false", "0", "no", ""];

/// Which of a model's outputs are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outputs {
    decision: Option<usize>,
    /// From where on a decision that is a float is an alarm; `None` for any but zero.
    threshold: Option<f64>,
    score: Option<usize>,
    forecast: Option<usize>,
}

impl Outputs {
    /// Those of a model by itself, as its manifest or its element types tell.
    #[must_use]
    pub fn of(signature: &Signature) -> Self {
        let decision = signature.decision();
        Self {
            decision,
            threshold: threshold(signature, decision),
            score: signature.score(),
            forecast: signature.forecast(),
        }
    }

    /// Those of a challenger: the outputs with the names of the champion's, whatever its own manifest says, so that a
    /// challenger without a manifest is compared too.
    #[must_use]
    pub fn twins(champion: &Signature, challenger: &Signature) -> Self {
        let twin = |output: Option<usize>| {
            let name = &champion.outputs.get(output?)?.name;
            challenger.outputs.iter().position(|output| output.name == *name)
        };
        let decision = champion.decision();
        Self {
            decision: twin(decision),
            threshold: threshold(champion, decision),
            score: twin(champion.score()),
            forecast: twin(champion.forecast()),
        }
    }

    /// The answers to all rows, in their order; of an output with several elements a row, the first one counts.
    ///
    /// An alarm is `true`, a number other than zero, or text other than `normal`, `false`, `0`, `no` and nothing, however it is
    /// written; a float is one from its output's `threshold` in the manifest on, if it has one. A NaN or an infinity is
    /// no answer, and neither is text where a number is compared.
    #[must_use]
    pub fn answers(&self, outputs: &[Tensor], rows: usize) -> Vec<Answer> {
        let mut answers = vec![Answer::default(); rows];
        let of = |place: Option<usize>| place.and_then(|place| outputs.get(place));
        if let Some(tensor) = of(self.decision) {
            alarms(tensor, self.threshold, &mut answers);
        }
        if let Some(tensor) = of(self.score) {
            numbers(tensor, &mut answers, |answer, value| answer.score = Some(value));
        }
        if let Some(tensor) = of(self.forecast) {
            numbers(tensor, &mut answers, |answer, value| answer.forecast = Some(value));
        }
        answers
    }
}

/// The answers of one model; see [`Outputs::answers`].
#[must_use]
pub fn answers(signature: &Signature, outputs: &[Tensor], rows: usize) -> Vec<Answer> {
    Outputs::of(signature).answers(outputs, rows)
}

/// The answers of both models to the same rows, champion's first; the challenger's outputs are found by the champion's names.
pub fn pairs(
    champion: (&Signature, &[Tensor]),
    challenger: (&Signature, &[Tensor]),
    rows: usize,
) -> impl Iterator<Item = (Answer, Answer)> + use<> {
    let theirs = answers(champion.0, champion.1, rows);
    let mine = Outputs::twins(champion.0, challenger.0).answers(challenger.1, rows);
    zip(theirs, mine)
}

fn threshold(signature: &Signature, decision: Option<usize>) -> Option<f64> {
    let output = signature.outputs.get(decision?)?;
    output.semantics.as_ref().filter(|_| output.dtype.is_float())?.threshold
}

/// The first element of each row; none where the elements are not as many in each.
fn first<T>(values: Option<&[T]>, rows: usize) -> impl Iterator<Item = &T> {
    let values = values.unwrap_or_default();
    let step = values.len() / rows.max(1);
    let fits = step > 0 && values.len() == step * rows;
    if fits { values } else { &[] }.iter().step_by(step.max(1))
}

fn alarms(tensor: &Tensor, threshold: Option<f64>, answers: &mut [Answer]) {
    let rows = answers.len();
    let quiet = |text: &String| QUIET.iter().any(|quiet| text.trim().eq_ignore_ascii_case(quiet));
    match tensor {
        Tensor::Bool(array) => {
            zip(answers, first(array.as_slice(), rows)).for_each(|(answer, alarm)| answer.alarm = Some(*alarm));
        }
        Tensor::Text(array) => {
            zip(answers, first(array.as_slice(), rows)).for_each(|(answer, text)| answer.alarm = Some(!quiet(text)));
        }
        _ => numbers(tensor, answers, |answer, value| {
            answer.alarm = Some(threshold.map_or(value != 0.0, |threshold| value >= threshold));
        }),
    }
}

/// Hands the first number of each row to `set`, where it is finite.
fn numbers(tensor: &Tensor, answers: &mut [Answer], mut set: impl FnMut(&mut Answer, f64)) {
    let rows = answers.len();
    macro_rules! each {
        ($array:expr, $to:expr) => {
            for (answer, value) in zip(answers, first($array.as_slice(), rows)) {
                let value: f64 = $to(*value);
                if value.is_finite() {
                    set(answer, value);
                }
            }
        };
    }
    match tensor {
        Tensor::F16(array) => each!(array, f16::to_f64),
        Tensor::BF16(array) => each!(array, bf16::to_f64),
        Tensor::F32(array) => each!(array, f64::from),
        Tensor::F64(array) => each!(array, f64::from),
        Tensor::I8(array) => each!(array, f64::from),
        Tensor::I16(array) => each!(array, f64::from),
        Tensor::I32(array) => each!(array, f64::from),
        Tensor::U8(array) => each!(array, f64::from),
        Tensor::U16(array) => each!(array, f64::from),
        Tensor::U32(array) => each!(array, f64::from),
        Tensor::I64(array) => each!(array, |value| wide(i128::from(value))),
        Tensor::U64(array) => each!(array, |value| wide(i128::from(value))),
        Tensor::Bool(array) => each!(array, |value| f64::from(u8::from(value))),
        Tensor::Text(_) => {}
    }
}

#[expect(clippy::cast_precision_loss, reason = "zero stays zero; a score or a forecast needs no more than 53 bits")]
const fn wide(value: i128) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::{Role, Semantics};
    use crate::model::signature::{GraphIo, Port};
    use crate::model::tensor::DType;
    use ndarray::array;

    /// A model with these outputs; a role makes it one that a manifest declares.
    fn signature(outputs: &[(&str, DType, Option<Role>)]) -> Signature {
        let port = |name: &str, dtype| Port { name: name.into(), tensor: Ok((dtype, vec![-1])) };
        let graph = GraphIo {
            inputs: vec![port("x", DType::F32)],
            outputs: outputs.iter().map(|(name, dtype, _)| port(name, *dtype)).collect(),
            ..GraphIo::default()
        };
        let mut signature = Signature::new(&graph, None).expect("a signature");
        for (output, (_, _, role)) in zip(&mut signature.outputs, outputs) {
            let semantics = serde_json::json!({"role": role});
            output.semantics = role.map(|_| serde_json::from_value(semantics).expect("a meaning"));
        }
        signature
    }

    fn detector() -> Signature {
        signature(&[
            ("anomaly", DType::Bool, Some(Role::Decision)),
            ("score", DType::F32, Some(Role::Score)),
            ("forecast", DType::F32, Some(Role::Forecast)),
        ])
    }

    fn alarms_of(dtype: DType, tensor: Tensor) -> Vec<Option<bool>> {
        let rows = tensor.rows().expect("rows");
        answers(&signature(&[("y", dtype, Some(Role::Decision))]), &[tensor], rows).iter().map(|a| a.alarm).collect()
    }

    #[test]
    fn alarm_score_and_forecast_are_taken_row_by_row() {
        let outputs = [
            Tensor::from(array![true, false].into_dyn()),
            Tensor::from(array![0.5_f32, f32::NAN].into_dyn()),
            Tensor::from(array![[1.5_f32, 9.0], [2.5, 9.0]].into_dyn()),
        ];
        let expected = [
            Answer { alarm: Some(true), score: Some(0.5), forecast: Some(1.5) },
            Answer { alarm: Some(false), score: None, forecast: Some(2.5) },
        ];
        assert_eq!(answers(&detector(), &outputs, 2), expected);
    }

    #[test]
    fn an_alarm_is_what_is_not_the_first_class() {
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(alarms_of(DType::I64, Tensor::from(array![0_i64, 1, 2, -1].into_dyn())), [no, yes, yes, yes]);
        assert_eq!(alarms_of(DType::U8, Tensor::from(array![[1_u8], [0]].into_dyn())), [yes, no]);
        let words = ["normal", "Normal ", "FALSE", "0", "no", "", "attack", "1"].map(String::from);
        let found = alarms_of(DType::Text, Tensor::Text(ndarray::arr1(&words).into_dyn()));
        assert_eq!(found, [no, no, no, no, no, no, yes, yes]);
        assert_eq!(alarms_of(DType::F32, Tensor::from(array![0.0_f32, 0.1, f32::NAN].into_dyn())), [no, yes, None]);
    }

    #[test]
    fn a_float_that_decides_does_so_at_its_threshold() {
        let mut signature = signature(&[("y", DType::F64, Some(Role::Decision))]);
        let meaning = Semantics { threshold: Some(0.5), ..signature.outputs[0].semantics.clone().expect("a meaning") };
        signature.outputs[0].semantics = Some(meaning);
        let found = answers(&signature, &[Tensor::from(array![0.4, 0.5].into_dyn())], 2);
        assert_eq!(found.iter().map(|a| a.alarm).collect::<Vec<_>>(), [Some(false), Some(true)]);
    }

    /// The order of a challenger's outputs and what its manifest calls them do not matter, their names do.
    #[test]
    fn a_challenger_is_read_by_the_champions_names() {
        let challenger = signature(&[("forecast", DType::F64, None), ("anomaly", DType::I64, None)]);
        let theirs = [
            Tensor::from(array![true].into_dyn()),
            Tensor::from(array![0.9_f32].into_dyn()),
            Tensor::from(array![3.0_f32].into_dyn()),
        ];
        let mine = [Tensor::from(array![4.0].into_dyn()), Tensor::from(array![0_i64].into_dyn())];
        let pair = pairs((&detector(), &theirs), (&challenger, &mine), 1).next().expect("one row");
        assert_eq!(pair.1, Answer { alarm: Some(false), score: None, forecast: Some(4.0) });
        assert_eq!((pair.0.alarm, pair.0.forecast), (Some(true), Some(3.0)));
    }

    #[test]
    fn outputs_of_another_size_are_no_answers() {
        let outputs = [Tensor::from(array![true, false, true].into_dyn())];
        assert_eq!(answers(&detector(), &outputs, 2), [Answer::default(); 2]);
        assert_eq!(answers(&detector(), &[], 1), [Answer::default()]);
    }
}
