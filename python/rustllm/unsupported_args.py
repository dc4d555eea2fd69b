"""vLLM's engine arguments that mean nothing here: which are accepted, which refused, and why.

Three tables, one for each answer a user may get:

- `NEUTRAL`: fine at the values listed, which say what rustllm does anyway; refused at any other.
- `IGNORED`: accepted with one warning, because they change how vLLM runs and not what it answers.
- What is in neither and is no field of `EngineArgs` is refused, with the closest name there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["IGNORED", "NEUTRAL"]

_LATER: Final = "rustllm does not support it yet"
_ONE_DEVICE: Final = "rustllm runs on one device so far"
_NO_LORA: Final = "LoRA adapters are not supported yet"
_NO_SPECULATION: Final = "speculative decoding is not supported yet"
_NO_OFFLOAD: Final = "weights stay on one device; memory-mapped files take no more room than needed"
_TEXT_ONLY: Final = "only text models are supported"
_NO_TASK: Final = "use runner= and convert="
_NO_MODEL_CODE: Final = "no Python code is ever put into the engine"

NEUTRAL: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "task": ((None, "auto", "generate"), _NO_TASK),
    "load_format": (("auto", "safetensors"), "weights are read from safetensors only"),
    "config_format": (("auto", "hf"), "models are described by config.json only"),
    "tensor_parallel_size": ((1,), _ONE_DEVICE),
    "pipeline_parallel_size": ((1,), _ONE_DEVICE),
    "data_parallel_size": ((1,), _ONE_DEVICE),
    "decode_context_parallel_size": ((1,), _ONE_DEVICE),
    "enable_expert_parallel": ((False,), _ONE_DEVICE),
    "distributed_executor_backend": ((None, "uni"), _ONE_DEVICE),
    "cpu_offload_gb": ((0,), _NO_OFFLOAD),
    "offload_group_size": ((0,), _NO_OFFLOAD),
    "offload_params": ((None,), _NO_OFFLOAD),
    "kv_offloading_size": ((None,), _LATER),
    "kv_transfer_config": ((None,), _LATER),
    "enable_lora": ((False,), _NO_LORA),
    "lora_modules": ((None,), _NO_LORA),
    "speculative_config": ((None,), _NO_SPECULATION),
    "spec_method": ((None,), _NO_SPECULATION),
    "spec_model": ((None,), _NO_SPECULATION),
    "spec_tokens": ((None,), _NO_SPECULATION),
    "structured_outputs_config": ((None,), _LATER),
    "reasoning_parser": ((None, ""), _LATER),
    "enable_sleep_mode": ((False,), _LATER),
    "enable_prompt_embeds": ((False,), "prompts are text or token ids"),
    "enable_return_routed_experts": ((False,), _LATER),
    "return_sampling_mask": ((False,), _LATER),
    "logits_processors": ((None,), _NO_MODEL_CODE),
    "worker_cls": (("auto",), _NO_MODEL_CODE),
    "worker_extension_cls": ((None, ""), _NO_MODEL_CODE),
    "model_impl": (("auto",), "models run on rustllm's own implementations"),
    "disable_sliding_window": ((False,), "a model's attention windows are part of the model"),
    "mm_processor_kwargs": ((None,), _TEXT_ONLY),
    "limit_mm_per_prompt": ((None,), _TEXT_ONLY),
    "allowed_local_media_path": (("", None), _TEXT_ONLY),
    "allowed_media_domains": ((None,), _TEXT_ONLY),
    "max_num_queued_reqs": ((None,), _LATER),
    "max_num_queued_tokens": ((None,), _LATER),
}
"""Name: values that are accepted, and why no other is."""

IGNORED: Final[Mapping[str, str]] = {
    "compilation_config": "kernels are compiled when the wheel is built",
    "optimization_level": "kernels are compiled when the wheel is built",
    "cudagraph_capture_sizes": "nothing is captured when the engine starts",
    "max_seq_len_to_capture": "nothing is captured when the engine starts",
    "attention_config": "the engine chooses its kernels itself",
    "attention_backend": "the engine chooses its kernels itself",
    "disable_custom_all_reduce": "the engine runs on one device",
    "max_parallel_loading_workers": "weights are memory-mapped",
    "safetensors_load_strategy": "weights are memory-mapped",
    "use_tqdm_on_load": "weights are memory-mapped",
    "model_loader_extra_config": "weights are memory-mapped",
    "swap_space": "preempted sequences are computed again",
    "offload_num_in_group": "weights are not offloaded",
    "offload_prefetch_step": "weights are not offloaded",
    "num_scheduler_steps": "the engine schedules every step",
    "prefix_caching_hash_algo": "blocks are hashed in one way",
    "disable_cascade_attn": "the engine chooses its kernels itself",
    "max_num_partial_prefills": "the token budget alone decides how prompts are cut",
    "max_long_partial_prefills": "the token budget alone decides how prompts are cut",
    "long_prefill_token_threshold": "the token budget alone decides how prompts are cut",
    "disable_chunked_mm_input": "prompts are text",
    "max_loras": "there are no adapters",
    "max_lora_rank": "there are no adapters",
    "max_cpu_loras": "there are no adapters",
    "code_revision": "no model code is ever run",
    "ignore_patterns": "only the files that are needed are downloaded",
    "disable_log_requests": "requests are not logged",
    "enable_log_requests": "requests are not logged",
    "profiler_config": "there is no profiler to configure",
    "observability_config": "there is no tracing to configure",
    "otlp_traces_endpoint": "there is no tracing to configure",
    "collect_detailed_traces": "there is no tracing to configure",
}
"""Name: why it changes nothing."""
