//! `modules.json`: the steps that a sentence-transformers folder puts after its model.
//!
//! ```text
//!   modules.json   [ Transformer "" ][ Pooling "1_Pooling" ][ Dense "2_Dense" ]...[ Normalize "3_Normalize" ]
//!                    the model        config.json            config.json, model.safetensors
//! ```

use std::path::{Component, Path, PathBuf};

use rustllm_ops::{Activation, Backend};

use crate::LoadError;
use crate::checkpoint::Checkpoint;
use crate::config::families::MAX_WIDTH;
use crate::config::fields::Fields;
use crate::layers::{Head, HeadLayer};
use crate::loader::{Formats, Loader, Loading};
use crate::pooler::Reduction;

/// What a folder's `modules.json` says.
#[derive(Debug)]
pub(crate) struct SentenceTransformer {
    /// The folder of the model itself.
    pub(crate) transformer: PathBuf,
    /// How rows become one.
    pub(crate) reductions: Vec<Reduction>,
    /// Folders of the dense layers, in order.
    dense: Vec<PathBuf>,
    /// Whether vectors have length 1.
    pub(crate) normalizes: bool,
    /// Tokens that a prompt is cut to.
    pub(crate) max_seq_length: Option<usize>,
}

/// A pooling flag of `1_Pooling/config.json`, the mode's own name, and what it means; in the order that modes are joined.
const MODES: [(&str, &str, Reduction); 6] = [
    ("pooling_mode_cls_token", "cls", Reduction::Cls),
    ("pooling_mode_max_tokens", "max", Reduction::Max),
    ("pooling_mode_mean_tokens", "mean", Reduction::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Reduction::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", "weightedmean", Reduction::WeightedMean),
    ("pooling_mode_lasttoken", "lasttoken", Reduction::Last),
];

impl SentenceTransformer {
    /// Reads `dir/modules.json`; `None` when there is no such file.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, LoadError> {
        let Some(modules) = Fields::read_list(&dir.join("modules.json"))? else { return Ok(None) };
        let mut found = Self {
            transformer: dir.into(),
            reductions: vec![],
            dense: vec![],
            normalizes: false,
            max_seq_length: None,
        };
        for (index, module) in modules.iter().enumerate() {
            let class = module.text("type")?.ok_or_else(|| module.missing("type"))?;
            let folder = module_folder(dir, module)?;
            match class.rsplit('.').next() {
                Some("Transformer") if index == 0 => {
                    let limits = Fields::read(&folder.join("sentence_bert_config.json"))?;
                    found.max_seq_length = match limits {
                        Some(limits) => limits.optional_size("max_seq_length", 1..=i32::MAX as usize)?,
                        None => None,
                    };
                    found.transformer = folder;
                }
                Some("Pooling") if index == 1 => found.reductions = reductions(&folder)?,
                Some("Dense") if index > 1 && !found.normalizes => found.dense.push(folder),
                Some("Normalize") if index > 1 => found.normalizes = true,
                Some("Dropout") => {}
                _ => return Err(module.unsupported("type", "sentence-transformers")),
            }
        }
        if found.reductions.is_empty() {
            return Err(LoadError::Json {
                path: dir.join("modules.json"),
                detail: "there is no Pooling module".into(),
            });
        }
        Ok(Some(found))
    }

    /// The dense layers, for vectors of `width` columns.
    pub(crate) fn head(&self, backend: &dyn Backend, formats: Formats, width: usize) -> Result<Head, LoadError> {
        let mut head = Head::default();
        let mut columns = width * self.reductions.len();
        for folder in &self.dense {
            let fields = Fields::read_required(&folder.join("config.json"))?;
            let inputs = fields.size("in_features", 1..=MAX_WIDTH)?;
            if inputs != columns {
                return Err(fields.invalid("in_features", format!("the width of the vectors it is given, {columns}")));
            }
            columns = fields.size("out_features", 1..=MAX_WIDTH)?;
            let checkpoint = Checkpoint::open(folder)?;
            let mut ignored = |_, _| {};
            let loading = Loading::new(backend, &checkpoint, formats, false, &mut ignored);
            let loader = Loader::new(&loading);
            let linear = loader.head_linear_with("linear", columns, inputs, fields.flag("bias", true)?)?;
            head.layers.push(linear.into());
            head.layers.extend(activation(&fields)?.map(HeadLayer::Activation));
            loading.finish("Dense", |_| false)?;
        }
        Ok(head)
    }
}

/// The folder of a module: inside the model's, whatever the file says.
fn module_folder(dir: &Path, module: &Fields) -> Result<PathBuf, LoadError> {
    let path = Path::new(module.text("path")?.unwrap_or_default());
    if path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(dir.join(path));
    }
    Err(module.invalid("path", "a folder inside the model's"))
}

fn reductions(folder: &Path) -> Result<Vec<Reduction>, LoadError> {
    let fields = Fields::read_required(&folder.join("config.json"))?;
    if !fields.flag("include_prompt", true)? {
        return Err(fields.unsupported("include_prompt", "sentence-transformers"));
    }
    if let Some(name) = fields.text("pooling_mode")? {
        let mode = MODES.iter().find(|(_, mode, _)| *mode == name);
        let names = MODES.map(|(_, mode, _)| mode).join(", ");
        return Ok(vec![mode.ok_or_else(|| fields.invalid("pooling_mode", format!("one of {names}")))?.2]);
    }
    let mut found = Vec::new();
    for (flag, _, reduction) in MODES {
        if fields.flag(flag, false)? {
            found.push(reduction);
        }
    }
    if found.is_empty() {
        return Err(fields.invalid("pooling_mode_mean_tokens", "true, or another pooling_mode flag be"));
    }
    Ok(found)
}

/// The non-linearity of a dense layer, a class of torch by its full name.
fn activation(fields: &Fields) -> Result<Option<Activation>, LoadError> {
    match fields.text("activation_function")?.map(|name| name.rsplit('.').next().unwrap_or(name)) {
        Some("Identity") => Ok(None),
        None | Some("Tanh") => Ok(Some(Activation::Tanh)),
        Some("ReLU") => Ok(Some(Activation::Relu)),
        Some("GELU") => Ok(Some(Activation::Gelu)),
        Some("SiLU") => Ok(Some(Activation::Silu)),
        Some(_) => Err(fields.invalid("activation_function", "Identity, Tanh, ReLU, GELU or SiLU of torch.nn")),
    }
}
