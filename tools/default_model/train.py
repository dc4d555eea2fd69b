"""Train the default model on a CPU within a wall-clock budget.

    python train.py --tokenizer ../../python/rustllm/default_model/tokenizer.json \
        --output run --minutes 65

The learning rate warms up, stays, and falls linearly to zero over the last part of the budget
(``--decay``, a fraction). Progress is wall-clock time, so the run ends on time on a busy machine
too. To stop early, or to go on, start again from a checkpoint:

    python train.py ... --resume run/checkpoint.pt --minutes 10 --decay 1.0

One single-threaded process per core. A step is a number of small batches; each process takes the
next one when it is ready, so that a core busy with something else delays a step but little:

    step n   process 0   [batch][batch][batch] ┐
             process 1   [  batch  ][ batch  ] ┴ sum of gradients ── same update in each process
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from corpus import Corpus, collect
from data import CONTEXT, Tokens, batches, encode_stream
from evaluate import held_out_loss
from model import LlamaForCausalLM, ModelConfig
from muon import Muon
from tokenizers import Tokenizer

MUON_LR = 0.02
ADAM_LR = 4e-3
WEIGHT_DECAY = 0.1
WARMUP_STEPS = 60
BATCH_TOKENS = 1024
QUICK_TOKENS = 16384  # held-out tokens looked at with every checkpoint


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Give the layers' matrices to Muon, the embedding and the gains to AdamW."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed_tokens" not in name
        (matrices if is_matrix else others).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=MUON_LR, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def learning_rate_factor(progress: float, step: int, decay: float) -> float:
    """Return the fraction of the peak rate: warm up by steps, decay by progress (0 to 1)."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmup * min(1.0, max(0.0, 1.0 - progress) / decay)


def claim(taken: Synchronized[int], limit: int) -> bool:
    """Take one of the batches below ``limit``, counted over all processes, if one is left."""
    with taken.get_lock():
        if taken.value >= limit:
            return False
        taken.value += 1
        return True


class Run:
    """One process of a training run: the model, its optimizers, and how far they have come."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.step = 0
        self.model = LlamaForCausalLM(ModelConfig())
        self.optimizers = make_optimizers(self.model)
        if arguments.resume is not None:
            self.load(arguments.resume)
        self.forward = torch.compile(self.model, dynamic=False)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def save(self, output: Path) -> None:
        """Write the checkpoint, replacing the one before in a single rename."""
        state = {
            "step": self.step,
            "config": asdict(self.model.config),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        partial = output / "checkpoint.partial"
        torch.save(state, partial)
        partial.rename(output / "checkpoint.pt")

    def accumulate(
        self, data: Iterator[torch.Tensor], taken: Synchronized[int], limit: int
    ) -> float:
        """Add the gradients of the batches this process gets hold of; return their summed loss."""
        total = 0.0
        while claim(taken, limit):
            batch = next(data)
            loss = self.forward(batch[:, :-1], batch[:, 1:])
            loss.backward()
            total += loss.item()
        return total

    def share(self, num_batches: int, *numbers: float) -> list[float]:
        """Average gradients over the step's batches; return ``numbers`` summed over processes."""
        parameters = list(self.model.parameters())
        gradients = [
            torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() / num_batches
            for p in parameters
        ]
        flat = torch.cat([*gradients, torch.tensor(numbers)])
        torch.distributed.all_reduce(flat)
        sizes = [p.numel() for p in parameters]
        for parameter, gradient in zip(
            parameters, flat.split([*sizes, len(numbers)]), strict=False
        ):
            parameter.grad = gradient.view_as(parameter)
        return [float(number) for number in flat[-len(numbers) :]]

    def update(self, factor: float) -> None:
        """Apply the gradients at ``factor`` of the peak learning rates."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1


def train(
    run: Run,
    data: Iterator[torch.Tensor],
    taken: Synchronized[int],
    held_out: Tokens,
    arguments: argparse.Namespace,
) -> None:
    """Train until the budget is spent; the first process reports and saves."""
    is_first = torch.distributed.get_rank() == 0
    begin = saved = time.monotonic()
    progress, done, recent = 0.0, 0, 0.0
    while progress < 1.0:
        done += 1
        loss = run.accumulate(data, taken, done * arguments.batches_per_step)
        elapsed = time.monotonic() - begin if is_first else 0.0
        loss, elapsed = run.share(arguments.batches_per_step, loss, elapsed)
        progress = elapsed / (60.0 * arguments.minutes)
        run.update(learning_rate_factor(progress, run.step, arguments.decay))
        recent += loss / arguments.batches_per_step
        if is_first and done % 10 == 0:
            print(
                f"step {run.step} progress {progress:.3f} loss {recent / 10:.4f} "
                f"seconds/step {elapsed / done:.2f}",
                flush=True,
            )
        if done % 10 == 0:
            recent = 0.0
        if is_first and time.monotonic() - saved > 60.0 * arguments.checkpoint_minutes:
            run.save(arguments.output)
            report("held-out (part)", run.model, held_out[:QUICK_TOKENS])
            saved = time.monotonic()


def report(name: str, model: LlamaForCausalLM, stream: Tokens) -> float:
    """Print loss and perplexity of ``stream``; return the loss in nats per token."""
    loss = held_out_loss(model, stream, CONTEXT)
    print(f"{name}: loss {loss:.4f} perplexity {math.exp(loss):.3f}", flush=True)
    return loss


def work(
    rank: int, taken: Synchronized[int], corpus: Corpus, arguments: argparse.Namespace
) -> None:
    """Run one of the training processes."""
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    rendezvous = torch.distributed.FileStore(
        str(arguments.output / "rendezvous"), arguments.workers
    )
    torch.distributed.init_process_group(
        "gloo", store=rendezvous, rank=rank, world_size=arguments.workers
    )
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    random = np.random.default_rng([arguments.seed, rank])
    random.shuffle(corpus.train)
    random.shuffle(corpus.snippets)
    files, snippets, held_out = (
        encode_stream(tokenizer, documents)
        for documents in (corpus.train, corpus.snippets, corpus.held_out)
    )
    run = Run(arguments)
    train(run, batches(files, snippets, BATCH_TOKENS, random), taken, held_out, arguments)
    if rank == 0:
        run.save(arguments.output)
        loss = report("held-out (all)", run.model, held_out)
        num_bytes = sum(len(document.encode()) for document in corpus.held_out)
        print(f"bits per byte {loss * (len(held_out) - 1) / math.log(2) / num_bytes:.4f}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the default model on a CPU.")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of checkpoint.pt")
    parser.add_argument("--minutes", type=float, default=65.0, help="wall-clock budget")
    parser.add_argument("--decay", type=float, default=0.5, help="last fraction of the budget")
    parser.add_argument("--checkpoint-minutes", type=float, default=4.0)
    parser.add_argument("--batches-per-step", type=int, default=4, help="of 1024 tokens each")
    parser.add_argument("--workers", type=int, default=2, help="processes, one per core")
    parser.add_argument("--seed", type=int, default=0, help="change it when resuming")
    parser.add_argument("--resume", type=Path, default=None, help="a checkpoint to go on from")
    return parser.parse_args()


def main() -> None:
    """Run the training named on the command line."""
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "rendezvous").unlink(missing_ok=True)
    taken = torch.multiprocessing.get_context("spawn").Value("q", 0)
    torch.multiprocessing.spawn(work, args=(taken, collect(), arguments), nprocs=arguments.workers)


if __name__ == "__main__":
    main()
