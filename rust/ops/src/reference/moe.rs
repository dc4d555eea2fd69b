//! Mixture of experts on candle: every chosen expert computes its rows, one after another.

use candle_core::{D, Device, Tensor as Candle};

use super::{ReferenceBackend, activate, candle, wrap};
use crate::moe::MIN_SCORE_SUM;
use crate::{
    Backend, Expert, ExpertGroups, GatedActivation, GroupScore, Result, Routing, RoutingParams, Scoring, Tensor, check,
};

/// Defines [`Backend::route`].
pub(super) fn route(logits: &Tensor, bias: Option<&Tensor>, params: &RoutingParams) -> Result<Routing> {
    check::route(logits, bias, params)?;
    let scores = scores(&candle(logits)?.contiguous()?, params.scoring)?;
    let biased = match bias {
        Some(bias) => scores.broadcast_add(&candle(bias)?)?,
        None => scores.clone(),
    };
    let chosen: Vec<Vec<u32>> = biased.to_vec2::<f32>()?.iter().map(|row| choose(row, params)).collect();
    let shape = (chosen.len(), params.top_k);
    let chosen = Candle::from_vec(chosen.concat(), shape, &Device::Cpu)?;
    let mut weights = scores.gather(&chosen, 1)?;
    if params.renormalize {
        weights = weights.broadcast_div(&(weights.sum_keepdim(1)? + f64::from(MIN_SCORE_SUM))?)?;
    }
    let weights = (weights * f64::from(params.scaling_factor))?;
    Ok(Routing { experts: wrap(chosen.to_dtype(candle_core::DType::F32)?)?, weights: wrap(weights)? })
}

/// Defines [`Backend::scale_experts`].
pub(super) fn scale_experts(routing: &mut Routing, scales: &Tensor) -> Result<()> {
    let table = candle(scales)?.to_vec2::<f32>()?.concat();
    let experts = candle(&routing.experts)?.to_vec2::<f32>()?.concat();
    let scale = |expert: &f32| Ok(table[check::scale_of_expert(*expert, scales)?]);
    let factors: Vec<f32> = experts.iter().map(scale).collect::<Result<_>>()?;
    let weights = candle(&routing.weights)?;
    routing.weights = wrap((&weights * Candle::from_vec(factors, weights.shape(), &Device::Cpu)?)?)?;
    Ok(())
}

fn scores(logits: &Candle, scoring: Scoring) -> Result<Candle> {
    Ok(match scoring {
        Scoring::Softmax => {
            let weights = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
            weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?
        }
        Scoring::Sigmoid => sigmoid(logits)?,
    })
}

fn sigmoid(x: &Candle) -> Result<Candle> {
    Ok((x.neg()?.exp()? + 1.0)?.recip()?)
}

/// The numbers of the best, best first; of equals the first.
fn best(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

fn choose(scores: &[f32], params: &RoutingParams) -> Vec<u32> {
    let mut scores = scores.to_vec();
    if let Some(ExpertGroups { num_groups, topk_group, score }) = params.groups {
        let size = scores.len() / num_groups;
        let of_group = |group: &[f32]| match score {
            GroupScore::Best => group[best(group)[0]],
            GroupScore::TwoBest => best(group).iter().take(2).map(|i| group[*i]).sum(),
        };
        let groups: Vec<f32> = scores.chunks(size).map(of_group).collect();
        for group in &best(&groups)[topk_group..] {
            scores[group * size..(group + 1) * size].fill(f32::NEG_INFINITY);
        }
    }
    best(&scores).into_iter().take(params.top_k).map(|expert| expert as u32).collect()
}

/// Defines [`Backend::moe`].
pub(super) fn moe(x: &Tensor, routing: &Routing, experts: &[Expert], activation: GatedActivation) -> Result<Tensor> {
    check::moe(x, routing, experts)?;
    let chosen = candle(&routing.experts)?.to_vec2::<f32>()?;
    check::expert_numbers(chosen.iter().flatten().copied(), experts.len())?;
    let (x, weights) = (candle(x)?.contiguous()?, candle(&routing.weights)?.contiguous()?.flatten_all()?);
    let mut sum = x.zeros_like()?;
    for (number, expert) in experts.iter().enumerate() {
        // Where in the routing this expert stands: row and place.
        let places: Vec<u32> = (0u32..)
            .zip(chosen.iter().flatten())
            .filter_map(|(at, chosen)| (*chosen as usize == number).then_some(at))
            .collect();
        if places.is_empty() {
            continue;
        }
        let rows: Vec<u32> = places.iter().map(|at| at / routing.experts.cols() as u32).collect();
        let (rows, places) = (indices(&rows)?, indices(&places)?);
        let y = forward(&wrap(x.index_select(&rows, 0)?)?, expert, activation)?;
        let weighted = candle(&y)?.broadcast_mul(&weights.index_select(&places, 0)?.unsqueeze(1)?)?;
        sum = sum.index_add(&rows, &weighted, 0)?;
    }
    wrap(sum)
}

fn indices(values: &[u32]) -> Result<Candle> {
    Ok(Candle::from_slice(values, values.len(), &Device::Cpu)?)
}

fn forward(x: &Tensor, expert: &Expert, activation: GatedActivation) -> Result<Tensor> {
    let gate_up = ReferenceBackend.linear(x, &expert.gate_up, expert.gate_up_bias.as_ref())?;
    let inner = gated(&candle(&gate_up)?, activation)?;
    ReferenceBackend.linear(&wrap(inner)?, &expert.down, expert.down_bias.as_ref())
}

fn gated(gate_up: &Candle, activation: GatedActivation) -> Result<Candle> {
    let half = gate_up.dim(1)? / 2;
    let (gate, up) = (gate_up.narrow(1, 0, half)?, gate_up.narrow(1, half, half)?);
    Ok(match activation {
        GatedActivation::Plain(activation) => (activate(&gate, activation)? * up)?,
        GatedActivation::ClampedSwiglu { alpha, limit } => {
            let (gate, up) = (gate.minimum(limit)?, up.clamp(-limit, limit)?);
            let glu = (&gate * sigmoid(&(&gate * f64::from(alpha))?)?)?;
            ((up + 1.0)? * glu)?
        }
    })
}
