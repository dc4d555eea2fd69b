//! What encoders' fields and leftover tensors mean where the goldens do not reach.

use serde_json::{Value, json};

use crate::folder::{Folder, TestTensor};
use crate::{refused, try_load};

fn deberta() -> Folder {
    Folder::golden("deberta_v3_classifier")
}

#[test]
fn deberta_without_its_distances_is_refused() {
    refused(&deberta().without("relative_attention"), &["relative_attention", "DebertaV2ForSequenceClassification"]);
    refused(&deberta().with("pos_att_type", json!(["c2p", "p2p"])), &["pos_att_type must be c2p, p2c or both", "p2p"]);
    refused(&deberta().with("norm_rel_ebd", json!("batch_norm")), &["norm_rel_ebd must be none or layer_norm"]);
    refused(&deberta().with("position_buckets", json!(1)), &["position_buckets must be at least 2"]);
    refused(&deberta().with("max_relative_positions", json!(5)), &["position_buckets must be", "below"]);
    refused(&deberta().with("position_buckets", json!(9)), &["rel_embeddings.weight", "[16, 32]", "[18, 32]"]);
}

#[test]
fn deberta_of_widths_that_do_not_fit_is_refused() {
    refused(&deberta().with("attention_head_size", json!(7)), &["attention_head_size must be"]);
    refused(&deberta().with("pooler_hidden_size", json!(20)), &["pooler_hidden_size must be"]);
    let convolved = || deberta().with("conv_kernel_size", json!(3));
    refused(&convolved(), &["encoder.conv.conv.weight"]);
    refused(&convolved().with("conv_groups", json!(2)), &["conv_groups must be"]);
    refused(&convolved().with("conv_kernel_size", json!(4)), &["conv_kernel_size must be an odd number"]);
}

#[test]
fn deberta_may_say_what_it_has_in_other_words_or_not_at_all() {
    let folder = deberta()
        .with("pos_att_type", json!("c2p | p2c"))
        .with("conv_kernel_size", json!(0))
        .with("attention_head_size", json!(8))
        .with("pooler_hidden_act", Value::Null)
        .with("pooler_hidden_size", Value::Null);
    try_load(&folder).unwrap();
}

#[test]
fn deberta_keeps_tensors_of_its_training_unread() {
    let folder = deberta().edit(|tensors| {
        for (name, shape) in [
            ("deberta.embeddings.position_embeddings.weight", vec![64, 32]),
            ("lm_predictions.lm_head.dense.weight", vec![32, 32]),
            ("mask_predictions.classifier.bias", vec![1]),
        ] {
            tensors.insert(name.into(), TestTensor::f32(&shape));
        }
    });
    try_load(&folder).unwrap();
}
