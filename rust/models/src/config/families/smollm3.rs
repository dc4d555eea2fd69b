//! SmolLM3.

use super::llama::with_biases;
use super::rotary::{RotaryFamily, layer_types, sliding_window, with_windows};
use super::{MAX_LAYERS, Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;

/// SmolLM3: Llama with no positions on every fourth layer, or on those that `no_rope_layers` has a zero for.
pub(crate) fn smollm3(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let own = ["no_rope_layers", "no_rope_layer_interval", "use_sliding_window"];
    refuse_unless_neutral(fields, architecture, &own, &[])?;
    let family =
        RotaryFamily { rope_theta: 2_000_000.0, tie_word_embeddings: true, ..RotaryFamily::llama(architecture) };
    let mut config = with_biases(fields, family.read(fields)?)?;
    let rotates = rotating_layers(fields, config.num_layers())?;
    for (layer, _) in config.layers.iter_mut().zip(&rotates).filter(|(_, rotates)| !**rotates) {
        layer.rope = None;
    }
    let window = if fields.flag("use_sliding_window", false)? { sliding_window(fields, None)? } else { None };
    let without_rope = || rotates.iter().map(|rotates| !rotates).collect();
    let windowed = layer_types(fields, config.num_layers())?.unwrap_or_else(without_rope);
    Ok(with_windows(config, window, &windowed))
}

/// Which layers have rotary positions.
fn rotating_layers(fields: &Fields, num_layers: usize) -> Result<Vec<bool>> {
    let interval = fields.optional_size("no_rope_layer_interval", 1..=MAX_LAYERS)?.unwrap_or(4);
    let Some(list) = fields.numbers("no_rope_layers")? else {
        return Ok((0..num_layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect());
    };
    if list.len() < num_layers || list.iter().any(|entry| ![0.0, 1.0].contains(entry)) {
        let allowed = format!("a list of {num_layers} entries, 1 for layers with rotary positions and 0 for others");
        return Err(fields.invalid("no_rope_layers", allowed));
    }
    Ok(list[..num_layers].iter().map(|entry| *entry == 1.0).collect())
}
