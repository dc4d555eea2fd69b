//! Which `architectures` entry of `config.json` is read and built by what: one line each.

use crate::config::families;
use crate::config::fields::Fields;
use crate::loader::Loader;
use crate::{
    LoadError, Model, ModelConfig, bloom, cohere, deepseek, falcon, gemma2, gpt_neox, gpt_oss, gpt2, gptj, llama, mpt,
    olmo2, opt, phi, starcoder2,
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
    Architecture { name: "BloomForCausalLM", config: families::bloom, build: bloom::build, is_buffer: none },
    Architecture { name: "CodeGenForCausalLM", config: families::codegen, build: gptj::build, is_buffer: gptj::is_buffer },
    Architecture { name: "Cohere2ForCausalLM", config: families::cohere2, build: cohere::build, is_buffer: llama::is_buffer },
    Architecture { name: "CohereForCausalLM", config: families::cohere, build: cohere::build, is_buffer: llama::is_buffer },
    Architecture { name: "DeepseekV2ForCausalLM", config: families::deepseek_v2, build: deepseek::build, is_buffer: deepseek::is_buffer },
    Architecture { name: "DeepseekV3ForCausalLM", config: families::deepseek_v3, build: deepseek::build, is_buffer: deepseek::is_buffer },
    Architecture { name: "FalconForCausalLM", config: families::falcon, build: falcon::build, is_buffer: falcon::is_buffer },
    Architecture { name: "Gemma2ForCausalLM", config: families::gemma2, build: gemma2::build, is_buffer: llama::is_buffer },
    Architecture { name: "Gemma3ForCausalLM", config: families::gemma3, build: gemma2::build, is_buffer: llama::is_buffer },
    Architecture { name: "Gemma3ForConditionalGeneration", config: families::gemma3_text_of_images, build: gemma2::build_text, is_buffer: gemma2::is_image_tensor },
    Architecture { name: "GemmaForCausalLM", config: families::gemma, build: llama::build, is_buffer: llama::is_buffer },
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
    Architecture { name: "StableLmForCausalLM", config: families::stablelm, build: llama::build, is_buffer: llama::is_buffer },
    Architecture { name: "Starcoder2ForCausalLM", config: families::starcoder2, build: starcoder2::build, is_buffer: llama::is_buffer },
];

/// Other spellings of a name, as the authors of checkpoints wrote it before transformers did.
const ALIASES: &[(&str, &str)] = &[("MPTForCausalLM", "MptForCausalLM")];

/// Of architectures whose checkpoints store parameters only.
fn none(_: &str) -> bool {
    false
}

/// The first of `names` that is supported.
pub(crate) fn find(names: &[&str]) -> Option<&'static Architecture> {
    names.iter().find_map(|name| {
        let name = ALIASES.iter().find(|(alias, _)| alias == name).map_or(*name, |(_, known)| known);
        ARCHITECTURES.iter().find(|architecture| architecture.name == name)
    })
}

/// The `architectures` entries that load, sorted.
pub fn supported_architectures() -> Vec<&'static str> {
    let mut names: Vec<_> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
    names.sort_unstable();
    names
}
