//! Which `architectures` entry of `config.json` is read and built by what: one line each.
//!
//! ```text
//!   LlamaForCausalLM                                     the names of ARCHITECTURES: they generate
//!   LlamaModel, LlamaForSequenceClassification           the same trunk, to be pooled
//!   BertModel, BertFor...                                a prefix of ENCODERS and a suffix that says which head
//! ```

use crate::config::encoder::{EncoderConfig, Labels};
use crate::config::families;
use crate::config::fields::Fields;
use crate::layers::{Encoder, Head};
use crate::loader::Loader;
use crate::{
    LoadError, Model, ModelConfig, albert, bert, bloom, cohere, deberta, deepseek, distilbert, falcon, gemma2, gemma4,
    glm4, gpt_neox, gpt_oss, gpt2, gptj, llama, modernbert, mpnet, mpt, nomic_bert, olmo2, opt, phi, starcoder2,
};

type ReadConfig = fn(&Fields, &'static str) -> Result<ModelConfig, LoadError>;
type Build = fn(&Loader<'_>, &ModelConfig) -> Result<Box<dyn Model>, LoadError>;

/// One supported architecture.
pub(crate) struct Architecture {
    /// As `architectures` spells it.
    pub(crate) name: &'static str,
    /// Reads the family's fields.
    pub(crate) config: ReadConfig,
    /// Puts the model together.
    pub(crate) build: Build,
    /// Whether a tensor that the model does not read is no parameter.
    pub(crate) is_buffer: fn(&str) -> bool,
}

#[rustfmt::skip]
const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "ArceeForCausalLM", config: families::arcee, build: starcoder2::build_arcee, is_buffer: llama::is_buffer },
    Architecture { name: "BloomForCausalLM", config: families::bloom, build: bloom::build, is_buffer: none },
    Architecture { name: "CodeGenForCausalLM", config: families::codegen, build: gptj::build, is_buffer: gptj::is_buffer },
    Architecture { name: "Cohere2ForCausalLM", config: families::cohere2, build: cohere::build, is_buffer: llama::is_buffer },
    Architecture { name: "CohereForCausalLM", config: families::cohere, build: cohere::build, is_buffer: llama::is_buffer },
    Architecture { name: "DeepseekV2ForCausalLM", config: families::deepseek_v2, build: deepseek::build, is_buffer: deepseek::is_buffer },
    Architecture { name: "DeepseekV3ForCausalLM", config: families::deepseek_v3, build: deepseek::build, is_buffer: deepseek::is_buffer },
    Architecture { name: "Ernie4_5ForCausalLM", config: families::ernie4_5, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "FalconForCausalLM", config: families::falcon, build: falcon::build, is_buffer: falcon::is_buffer },
    Architecture { name: "Gemma2ForCausalLM", config: families::gemma2, build: gemma2::build, is_buffer: llama::is_buffer },
    Architecture { name: "Gemma3ForCausalLM", config: families::gemma3, build: gemma2::build, is_buffer: llama::is_buffer },
    Architecture { name: "Gemma3ForConditionalGeneration", config: families::gemma3_text_of_images, build: gemma2::build_text, is_buffer: gemma2::is_image_tensor },
    Architecture { name: "Gemma4ForCausalLM", config: families::gemma4, build: gemma4::build, is_buffer: llama::is_buffer },
    Architecture { name: "Gemma4ForConditionalGeneration", config: families::gemma4_text_of_media, build: gemma4::build_text, is_buffer: gemma4::is_media_tensor },
    Architecture { name: "Gemma4UnifiedForCausalLM", config: families::gemma4_unified, build: gemma4::build, is_buffer: llama::is_buffer },
    Architecture { name: "Gemma4UnifiedForConditionalGeneration", config: families::gemma4_unified_text_of_media, build: gemma4::build_text, is_buffer: gemma4::is_media_tensor },
    Architecture { name: "GemmaForCausalLM", config: families::gemma, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "Glm4ForCausalLM", config: families::glm, build: glm4::build, is_buffer: llama::is_buffer },
    Architecture { name: "GlmForCausalLM", config: families::glm, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "GPT2LMHeadModel", config: families::gpt2, build: gpt2::build, is_buffer: gpt2::is_buffer },
    Architecture { name: "GPTBigCodeForCausalLM", config: families::gpt_bigcode, build: gpt2::build_bigcode, is_buffer: gpt2::is_buffer },
    Architecture { name: "GPTJForCausalLM", config: families::gptj, build: gptj::build, is_buffer: gptj::is_buffer },
    Architecture { name: "GPTNeoXForCausalLM", config: families::gpt_neox, build: gpt_neox::build, is_buffer: gpt_neox::is_buffer },
    Architecture { name: "GptOssForCausalLM", config: families::gpt_oss, build: gpt_oss::build, is_buffer: llama::is_buffer },
    Architecture { name: "GraniteForCausalLM", config: families::granite, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "LlamaForCausalLM", config: families::llama, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "MistralForCausalLM", config: families::mistral, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "MixtralForCausalLM", config: families::mixtral, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "MptForCausalLM", config: families::mpt, build: mpt::build, is_buffer: none },
    Architecture { name: "Olmo2ForCausalLM", config: families::olmo2, build: olmo2::build, is_buffer: llama::is_buffer },
    Architecture { name: "Olmo3ForCausalLM", config: families::olmo3, build: olmo2::build, is_buffer: llama::is_buffer },
    Architecture { name: "OlmoeForCausalLM", config: families::olmoe, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "OPTForCausalLM", config: families::opt, build: opt::build, is_buffer: none },
    Architecture { name: "Phi3ForCausalLM", config: families::phi3, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "PhiForCausalLM", config: families::phi, build: phi::build, is_buffer: llama::is_buffer },
    Architecture { name: "Qwen2ForCausalLM", config: families::qwen2, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "Qwen2MoeForCausalLM", config: families::qwen2_moe, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "Qwen3ForCausalLM", config: families::qwen3, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "Qwen3MoeForCausalLM", config: families::qwen3_moe, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "SmolLM3ForCausalLM", config: families::smollm3, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "StableLmForCausalLM", config: families::stablelm, build: cohere::build_stablelm, is_buffer: llama::is_buffer },
    Architecture { name: "Starcoder2ForCausalLM", config: families::starcoder2, build: starcoder2::build, is_buffer: llama::is_buffer },
];

/// Other spellings of a name, as the authors of checkpoints wrote it before transformers did.
const ALIASES: &[(&str, &str)] = &[("MPTForCausalLM", "MptForCausalLM")];

/// Of architectures whose checkpoints store parameters only.
fn none(_: &str) -> bool {
    false
}

/// What a head is put together from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadParts<'l, 'a> {
    pub(crate) kind: EncoderHead,
    /// Of all tensors.
    pub(crate) loader: &'l Loader<'a>,
    /// Of the model's without the head.
    pub(crate) base: &'l Loader<'a>,
    pub(crate) config: &'l EncoderConfig,
    pub(crate) labels: Labels,
}

/// A family of encoders.
pub(crate) struct EncoderFamily {
    /// What its names in `architectures` start with.
    pub(crate) prefix: &'static str,
    /// Where checkpoints with a head have the model without it, and a tensor of that.
    pub(crate) base: (&'static str, &'static str),
    /// Reads the family's fields.
    pub(crate) config: fn(&Fields, &str) -> Result<EncoderConfig, LoadError>,
    /// Puts the model together, from the loader of the base.
    pub(crate) build: fn(&Loader<'_>, &EncoderConfig) -> Result<Encoder, LoadError>,
    /// Puts a head together.
    pub(crate) head: fn(&HeadParts<'_, '_>) -> Result<Head, LoadError>,
}

const WORDS: &str = "embeddings.word_embeddings.weight";
const TOKENS: &str = "embeddings.tok_embeddings.weight";

#[rustfmt::skip]
const ENCODERS: [EncoderFamily; 11] = [
    EncoderFamily { prefix: "Albert", base: ("albert", WORDS), config: families::albert, build: albert::build, head: albert::head },
    EncoderFamily { prefix: "Bert", base: ("bert", WORDS), config: families::bert, build: bert::build, head: bert::head },
    EncoderFamily { prefix: "Camembert", base: ("roberta", WORDS), config: families::roberta, build: bert::build, head: bert::roberta_head },
    EncoderFamily { prefix: "DebertaV2", base: ("deberta", WORDS), config: families::deberta_v2, build: deberta::build, head: deberta::head },
    EncoderFamily { prefix: "DistilBert", base: ("distilbert", WORDS), config: families::distilbert, build: distilbert::build, head: distilbert::head },
    EncoderFamily { prefix: "Electra", base: ("electra", WORDS), config: families::electra, build: bert::build, head: bert::electra_head },
    EncoderFamily { prefix: "MPNet", base: ("mpnet", WORDS), config: families::mpnet, build: mpnet::build, head: bert::roberta_head },
    EncoderFamily { prefix: "ModernBert", base: ("model", TOKENS), config: families::modernbert, build: modernbert::build, head: modernbert::head },
    EncoderFamily { prefix: "NomicBert", base: ("nomic_bert", WORDS), config: families::nomic_bert, build: nomic_bert::build, head: nomic_bert::head },
    EncoderFamily { prefix: "Roberta", base: ("roberta", WORDS), config: families::roberta, build: bert::build, head: bert::roberta_head },
    EncoderFamily { prefix: "XLMRoberta", base: ("roberta", WORDS), config: families::roberta, build: bert::build, head: bert::roberta_head },
];

/// What stands on an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EncoderHead {
    /// Nothing.
    Base,
    /// Scores of classes for a prompt.
    SequenceClassification,
    /// Scores of classes for each token.
    TokenClassification,
    /// For each token, the scores of an answer starting and of it ending there.
    QuestionAnswering,
    /// Scores of the vocabulary for each token.
    MaskedLm,
}

const ENCODER_HEADS: [(&str, EncoderHead); 5] = [
    ("Model", EncoderHead::Base),
    ("ForSequenceClassification", EncoderHead::SequenceClassification),
    ("ForTokenClassification", EncoderHead::TokenClassification),
    ("ForQuestionAnswering", EncoderHead::QuestionAnswering),
    ("ForMaskedLM", EncoderHead::MaskedLm),
];

/// What stands on a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecoderHead {
    /// Scores of the next token.
    CausalLm,
    /// Nothing.
    Base,
    /// Scores of classes for a prompt.
    SequenceClassification,
}

const CAUSAL_LM_SUFFIXES: [&str; 2] = ["ForCausalLM", "LMHeadModel"];

const DECODER_HEADS: [(&str, DecoderHead); 2] =
    [("Model", DecoderHead::Base), ("ForSequenceClassification", DecoderHead::SequenceClassification)];

/// What an `architectures` entry stands for.
#[derive(Clone, Copy)]
pub(crate) enum Found {
    Decoder(&'static Architecture, DecoderHead),
    Encoder(&'static EncoderFamily, EncoderHead),
}

impl Architecture {
    /// The name without what it says of the head; `None` for one that has no names without or with another.
    fn prefix(&self) -> Option<&'static str> {
        CAUSAL_LM_SUFFIXES.iter().find_map(|suffix| self.name.strip_suffix(suffix))
    }
}

/// The first of `names` that is supported, and what it is.
pub(crate) fn find<'a>(names: &[&'a str]) -> Option<(&'a str, Found)> {
    let known = |name: &&'a str| ALIASES.iter().find(|(alias, _)| alias == name).map_or(*name, |(_, known)| *known);
    names.iter().map(known).find_map(|name| Some((name, find_one(name)?)))
}

fn find_one(name: &str) -> Option<Found> {
    if let Some(architecture) = ARCHITECTURES.iter().find(|architecture| architecture.name == name) {
        return Some(Found::Decoder(architecture, DecoderHead::CausalLm));
    }
    let encoders = ENCODER_HEADS.iter().filter_map(|(suffix, head)| Some((name.strip_suffix(suffix)?, *head)));
    let encoder = |(prefix, head)| Some(Found::Encoder(ENCODERS.iter().find(|family| family.prefix == prefix)?, head));
    let decoders = DECODER_HEADS.iter().filter_map(|(suffix, head)| Some((name.strip_suffix(suffix)?, *head)));
    let decoder = |(prefix, head)| {
        Some(Found::Decoder(ARCHITECTURES.iter().find(|architecture| architecture.prefix() == Some(prefix))?, head))
    };
    encoders.map(encoder).chain(decoders.map(decoder)).flatten().next()
}

/// The `architectures` entries that load, sorted.
pub fn supported_architectures() -> Vec<String> {
    let decoders = ARCHITECTURES.iter().flat_map(|architecture| {
        let named = |prefix| DECODER_HEADS.iter().map(move |(suffix, _)| format!("{prefix}{suffix}"));
        architecture.prefix().into_iter().flat_map(named).chain([architecture.name.to_owned()])
    });
    let encoders =
        ENCODERS.iter().flat_map(|family| ENCODER_HEADS.iter().map(|(suffix, _)| format!("{}{suffix}", family.prefix)));
    let mut names: Vec<_> = decoders.chain(encoders).collect();
    names.sort_unstable();
    names
}
