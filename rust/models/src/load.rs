//! From a model folder to a model on its backend: which trunk, which head, and what it can be asked for.

use std::path::Path;

use rustllm_ops::{Backend, DType, WeightFormat};

use crate::checkpoint::Checkpoint;
use crate::config::encoder::Labels;
use crate::config::fields::Fields;
use crate::layers::Head;
use crate::loader::{Formats, Loader, Loading};
use crate::pooler::{Finish, PooledOutput, Pooler, Reduction};
use crate::registry::{Architecture, DecoderHead, EncoderFamily, EncoderHead, Found, HeadParts};
use crate::sentence_transformers::SentenceTransformer;
use crate::{Convert, LoadError, LoadOptions, LoadedModel, ModelConfig, Runner, config};

type Result<T> = std::result::Result<T, LoadError>;

/// Loads the Hugging Face model folder `dir` onto `backend`.
///
/// Reads `config.json`, `generation_config.json` and safetensors weights, memory-mapped, and what sentence-transformers adds
/// to a folder. Nothing in the folder is executed.
///
/// # Errors
/// [`LoadError`] naming the file, field or tensor at fault: whatever the files hold, this does not panic.
pub fn load(dir: &Path, backend: &dyn Backend, options: LoadOptions<'_>) -> Result<LoadedModel> {
    let modules = SentenceTransformer::read(dir)?;
    let root = modules.as_ref().map_or(dir, |modules| &modules.transformer);
    let fields = config::read_fields(root, &options.hf_overrides)?;
    let (name, found) = config::find_architecture(&fields)?;
    let folder = Folder { dir: root, fields: &fields, name, modules: modules.as_ref() };
    match found {
        Found::Decoder(architecture, head) => {
            let head = folder.decoder_head(head, options.runner, options.convert)?;
            load_decoder(&folder, architecture, head, backend, options)
        }
        Found::Encoder(family, head) => {
            let head = folder.encoder_head(head, options.runner, options.convert)?;
            load_encoder(&folder, family, head, backend, options)
        }
    }
}

/// Bytes that the weights in `dir` take at least, in the element type and format they would be loaded with: known from the
/// headers of the files, before anything is loaded.
///
/// # Errors
/// [`LoadError`] for a folder without a readable configuration or checkpoint.
pub fn weight_bytes(dir: &Path, options: &LoadOptions<'_>) -> Result<u64> {
    let modules = SentenceTransformer::read(dir)?;
    let root = modules.as_ref().map_or(dir, |modules| &modules.transformer);
    let fields = config::read_fields(root, &options.hf_overrides)?;
    let checkpoint = Checkpoint::open(root)?;
    let dtype = match options.dtype {
        Some(dtype) => dtype,
        None => config::families::dtype(&fields)?.unwrap_or_else(|| checkpoint.dtype()),
    };
    Ok(Formats::new(dtype, options.quantization).least_bytes(&checkpoint))
}

/// A model folder's descriptions.
struct Folder<'a> {
    dir: &'a Path,
    fields: &'a Fields,
    /// The entry of `architectures` that is supported.
    name: &'a str,
    modules: Option<&'a SentenceTransformer>,
}

impl Folder<'_> {
    fn decoder_head(&self, head: DecoderHead, runner: Runner, convert: Convert) -> Result<DecoderHead> {
        let generates = head == DecoderHead::CausalLm && matches!(convert, Convert::Auto | Convert::None);
        match (runner, convert) {
            (Runner::Generate, _) if !generates => Err(self.refuse_runner(runner, convert, "pooling")),
            (Runner::Generate, _) => Ok(head),
            (Runner::Auto, _) if generates && self.modules.is_none() => Ok(head),
            (_, Convert::Embed) => Ok(DecoderHead::Base),
            (_, Convert::Classify) => Ok(DecoderHead::SequenceClassification),
            (_, Convert::None) if generates => Err(self.refuse_runner(runner, convert, "generate")),
            (_, _) if generates => Ok(DecoderHead::Base),
            _ => Ok(head),
        }
    }

    fn encoder_head(&self, head: EncoderHead, runner: Runner, convert: Convert) -> Result<EncoderHead> {
        match (runner, convert) {
            (Runner::Generate, _) => Err(self.refuse_runner(runner, convert, "pooling")),
            (_, Convert::Embed) => Ok(EncoderHead::Base),
            (_, Convert::Classify) => Ok(EncoderHead::SequenceClassification),
            (_, Convert::Auto | Convert::None) => Ok(head),
        }
    }

    fn refuse_runner(&self, runner: Runner, convert: Convert, works: &'static str) -> LoadError {
        LoadError::Runner { architecture: self.name.into(), runner, convert, works }
    }

    /// The longest prompt: what was asked for, or what the model and the folder say.
    fn max_model_len(&self, requested: Option<usize>, usual: usize, limit: usize) -> Result<usize> {
        let usual = self.modules.and_then(|modules| modules.max_seq_length).unwrap_or(usual).min(limit);
        match requested {
            None => Ok(usual),
            Some(requested) if (1..=limit).contains(&requested) => Ok(requested),
            Some(requested) => Err(LoadError::MaxModelLen { requested, limit }),
        }
    }

    /// Embeddings of hidden states of `width` columns; without sentence-transformers' word on it, `reduction`'s, of length 1.
    fn embeddings(&self, context: &Context<'_>, width: usize, reduction: Reduction) -> Result<Pooler> {
        let (mut reductions, mut normalizes, mut head) = (vec![reduction], true, Head::default());
        if let Some(modules) = self.modules {
            (reductions, normalizes) = (modules.reductions.clone(), modules.normalizes);
            head = modules.head(context.backend, context.formats, width)?;
        }
        if let Some(reduction) = context.reduction {
            reductions = vec![reduction];
        }
        let normalizes = context.finishes.unwrap_or(normalizes);
        let each = PooledOutput::new(&[], width, Head::default(), Finish::Normalize, normalizes);
        Ok(Pooler {
            embed: Some(PooledOutput::new(&reductions, width, head, Finish::Normalize, normalizes)),
            token_embed: Some(each),
            matryoshka_dimensions: self.matryoshka_dimensions()?,
            ..Pooler::default()
        })
    }

    /// Scores of classes for a prompt, from the vector that `reduction` makes.
    fn classes(&self, context: &Context<'_>, width: usize, reduction: Reduction, head: Head) -> Result<Pooler> {
        let finish = Finish::from(Labels::read(self.fields)?.activation);
        let reduction = context.reduction.unwrap_or(reduction);
        let classify = PooledOutput::new(&[reduction], width, head, finish, context.finishes.unwrap_or(true));
        Ok(Pooler { classify: Some(classify), ..Pooler::default() })
    }

    /// `matryoshka_dimensions`, or any size where `is_matryoshka` says no more.
    fn matryoshka_dimensions(&self) -> Result<Option<Vec<usize>>> {
        if let Some(sizes) = self.fields.sizes("matryoshka_dimensions")? {
            return Ok(Some(sizes));
        }
        Ok(self.fields.flag("is_matryoshka", false)?.then(Vec::new))
    }
}

/// What poolers are made with.
struct Context<'a> {
    backend: &'a dyn Backend,
    formats: Formats,
    /// Asked for in place of the folder's.
    reduction: Option<Reduction>,
    /// The same for the last step.
    finishes: Option<bool>,
}

fn load_decoder(
    folder: &Folder<'_>,
    architecture: &'static Architecture,
    head: DecoderHead,
    backend: &dyn Backend,
    options: LoadOptions<'_>,
) -> Result<LoadedModel> {
    let mut config = ModelConfig::read(folder.dir, folder.fields, architecture)?;
    let usual = config.default_max_model_len();
    config.max_model_len = folder.max_model_len(options.max_model_len, usual, config.max_model_len)?;
    let checkpoint = Checkpoint::open(folder.dir)?;
    let dtype = options.dtype.or(config.dtype).unwrap_or_else(|| checkpoint.dtype());
    let formats = Formats::new(dtype, options.quantization);
    formats.all().into_iter().try_for_each(|format| supported(backend, format))?;
    let mut ignored = |_, _| {};
    let generates = head == DecoderHead::CausalLm;
    let mut loading = Loading::new(backend, &checkpoint, formats, generates, options.progress.unwrap_or(&mut ignored));
    loading.fp8 = config.fp8;
    let loader = Loader::new(&loading);
    let model = (architecture.build)(&loader, &config)?;
    let context = Context { backend, formats, reduction: options.pooler.reduction, finishes: options.pooler.finishes };
    let width = config.hidden_size;
    let pooler = match head {
        DecoderHead::CausalLm => None,
        DecoderHead::Base => Some(folder.embeddings(&context, width, Reduction::Last)?),
        DecoderHead::SequenceClassification => {
            let labels = Labels::read(folder.fields)?;
            let score = Head::of([loader.head_linear_with("score", labels.count, width, false)?.into()]);
            Some(folder.classes(&context, width, Reduction::Last, score)?)
        }
    };
    // What activations would be scaled by if they were in FP8 too.
    let of_inputs = |name: &str| config.fp8.is_some() && name.ends_with(".input_scale");
    let unused = |name: &str| {
        (architecture.is_buffer)(name) || of_inputs(name) || (head == DecoderHead::Base && name == "score.weight")
    };
    let num_parameters = loading.finish(folder.name, unused)?;
    let (max_model_len, eos_token_ids) = (config.max_model_len, config.eos_token_ids);
    let architecture = folder.name.to_owned();
    Ok(LoadedModel { model, pooler, architecture, dtype, max_model_len, num_parameters, eos_token_ids })
}

fn load_encoder(
    folder: &Folder<'_>,
    family: &'static EncoderFamily,
    head: EncoderHead,
    backend: &dyn Backend,
    options: LoadOptions<'_>,
) -> Result<LoadedModel> {
    let mut config = (family.config)(folder.fields, folder.name)?;
    config.max_model_len = folder.max_model_len(options.max_model_len, config.max_model_len, config.max_model_len)?;
    let labels = Labels::read(folder.fields)?;
    let checkpoint = Checkpoint::open(folder.dir)?;
    let dtype = options.dtype.or(config.dtype).unwrap_or_else(|| checkpoint.dtype());
    let formats = Formats::new(dtype, options.quantization);
    formats.all().into_iter().try_for_each(|format| supported(backend, format))?;
    let mut ignored = |_, _| {};
    let loading = Loading::new(backend, &checkpoint, formats, false, options.progress.unwrap_or(&mut ignored));
    let loader = Loader::new(&loading);
    let base = loader.base_model(family.base.0, family.base.1);
    let model = Box::new((family.build)(&base, &config)?);
    let layers = (family.head)(&HeadParts { kind: head, loader: &loader, base: &base, config: &config, labels })?;
    let context = Context { backend, formats, reduction: options.pooler.reduction, finishes: options.pooler.finishes };
    let width = config.hidden_size;
    let each = |layers, finish, finishes| Some(PooledOutput::new(&[], width, layers, finish, finishes));
    let pooler = match head {
        EncoderHead::Base => folder.embeddings(&context, width, Reduction::Cls)?,
        EncoderHead::MaskedLm => Pooler {
            fill_mask: each(layers, Finish::Softmax, false),
            ..folder.embeddings(&context, width, Reduction::Cls)?
        },
        EncoderHead::SequenceClassification => folder.classes(&context, width, config.classifier_pooling, layers)?,
        EncoderHead::TokenClassification => {
            let finishes = context.finishes.unwrap_or(true);
            Pooler { token_classify: each(layers, labels.activation.into(), finishes), ..Pooler::default() }
        }
        EncoderHead::QuestionAnswering => {
            Pooler { token_classify: each(layers, Finish::Identity, false), ..Pooler::default() }
        }
    };
    let num_parameters = loading.finish(folder.name, |name| is_unused(name, family.base.0))?;
    let architecture = folder.name.to_owned();
    let max_model_len = config.max_model_len;
    Ok(LoadedModel {
        model,
        pooler: Some(pooler),
        architecture,
        dtype,
        max_model_len,
        num_parameters,
        eos_token_ids: Vec::new(),
    })
}

/// What encoders' checkpoints have besides the model that is asked for: position numbers, and the layers of heads.
fn is_unused(name: &str, base: &str) -> bool {
    const HEADS: [&str; 16] = [
        "classifier.",
        "cls.",
        "decoder.",
        "discriminator_predictions.",
        "generator_lm_head.",
        "generator_predictions.",
        "head.",
        "lm_head.",
        "lm_predictions.",
        "mask_predictions.",
        "pooler.",
        "pre_classifier.",
        "predictions.",
        "qa_outputs.",
        "sop_classifier.",
        "vocab_",
    ];
    let name = name.strip_prefix(base).and_then(|name| name.strip_prefix('.')).unwrap_or(name);
    name.ends_with(".position_ids") || HEADS.iter().any(|head| name.starts_with(head))
}

fn supported(backend: &dyn Backend, format: WeightFormat) -> Result<()> {
    if backend.supports(format) {
        return Ok(());
    }
    let all = [DType::F32, DType::F16, DType::BF16].map(WeightFormat::Dense).into_iter().chain([WeightFormat::Int8]);
    let allowed: Vec<_> = all.filter(|format| backend.supports(*format)).map(|format| format.to_string()).collect();
    Err(LoadError::UnsupportedFormat { format, backend: backend.name(), allowed: allowed.join(", ") })
}
