//! Routing: a row's scores, the choice among them and its weights. A row is a few hundred numbers: plain Rust.

use rustllm_ops::moe::MIN_SCORE_SUM;
use rustllm_ops::{ExpertGroups, GroupScore, RoutingParams, Scoring};

/// Writes the experts of a row of `logits` and their weights, as many as both are long. `scratch` is twice as long as the
/// row. Numbers that are not, NaN, choose any experts.
pub(crate) fn route_row(
    logits: &[f32],
    bias: Option<&[f32]>,
    params: &RoutingParams,
    scratch: &mut [f32],
    experts: &mut [f32],
    weights: &mut [f32],
) {
    let (scores, choice) = scratch.split_at_mut(logits.len());
    score(logits, params.scoring, scores);
    choice.copy_from_slice(scores);
    if let Some(bias) = bias {
        choice.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
    }
    if let Some(groups) = params.groups {
        keep_groups(choice, groups);
    }
    for (expert, weight) in experts.iter_mut().zip(weights.iter_mut()) {
        let best = best_of(choice);
        choice[best] = f32::NEG_INFINITY;
        (*expert, *weight) = (best as f32, scores[best]);
    }
    let sum = if params.renormalize { weights.iter().sum::<f32>() + MIN_SCORE_SUM } else { 1.0 };
    weights.iter_mut().for_each(|weight| *weight = *weight / sum * params.scaling_factor);
}

fn score(logits: &[f32], scoring: Scoring, scores: &mut [f32]) {
    match scoring {
        Scoring::Softmax => {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().zip(logits).for_each(|(score, logit)| *score = (logit - largest).exp());
            let sum: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|score| *score /= sum);
        }
        Scoring::Sigmoid => {
            scores.iter_mut().zip(logits).for_each(|(score, logit)| *score = 1.0 / (1.0 + (-logit).exp()));
        }
    }
}

/// Puts the experts of all but the best groups out of reach.
fn keep_groups(choice: &mut [f32], groups: ExpertGroups) {
    let size = choice.len() / groups.num_groups;
    // Each round removes the worst group that is left.
    for _ in groups.topk_group..groups.num_groups {
        let kept = choice.chunks(size).enumerate().filter(|(_, group)| group[0] != f32::NEG_INFINITY);
        let worst = kept.map(|(i, group)| (group_score(group, groups.score), i)).reduce(|worst, other| {
            // Of equals the first group is the better one.
            if other.0 <= worst.0 { other } else { worst }
        });
        if let Some((_, worst)) = worst {
            choice[worst * size..(worst + 1) * size].fill(f32::NEG_INFINITY);
        }
    }
}

fn group_score(group: &[f32], score: GroupScore) -> f32 {
    let best = best_of(group);
    match score {
        GroupScore::Best => group[best],
        GroupScore::TwoBest => {
            let others = group.iter().enumerate().filter(|(i, _)| *i != best).map(|(_, score)| *score);
            group[best] + others.reduce(f32::max).unwrap_or(0.0)
        }
    }
}

/// Where the largest stands, the first of equals.
fn best_of(scores: &[f32]) -> usize {
    let mut best = 0;
    for (i, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: RoutingParams =
        RoutingParams { top_k: 2, scoring: Scoring::Softmax, groups: None, renormalize: true, scaling_factor: 1.0 };

    fn route(logits: &[f32], params: &RoutingParams) -> (Vec<f32>, Vec<f32>) {
        let (mut experts, mut weights) = (vec![0.0; params.top_k], vec![0.0; params.top_k]);
        route_row(logits, None, params, &mut vec![0.0; 2 * logits.len()], &mut experts, &mut weights);
        (experts, weights)
    }

    #[test]
    fn equal_scores_choose_the_first() {
        let (experts, weights) = route(&[1.0, 3.0, 3.0, 3.0], &PLAIN);
        assert_eq!((experts, weights), (vec![1.0, 2.0], vec![0.5, 0.5]));
    }

    #[test]
    fn equal_groups_keep_the_first() {
        let groups = Some(ExpertGroups { num_groups: 3, topk_group: 1, score: GroupScore::Best });
        let (experts, _) = route(&[1.0, 2.0, 2.0, 1.0, 0.0, 2.0], &RoutingParams { groups, ..PLAIN });
        assert_eq!(experts, [1.0, 0.0]);
    }

    #[test]
    fn numbers_that_are_not_still_choose_experts_there_are() {
        for logits in [[f32::NAN; 4], [f32::NEG_INFINITY; 4], [f32::INFINITY; 4]] {
            let (experts, _) = route(&logits, &PLAIN);
            assert!(experts.iter().all(|expert| (0.0..4.0).contains(expert)));
        }
    }
}
