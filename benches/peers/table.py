"""The Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from roofline import Limits
from workloads import Workload


@dataclass
class Cell:
    """One engine on one workload: its repetitions, in the order of the rounds.

    Args:
        name: The engine's.
        values: Figures.
        others: Cores that other programs used meanwhile.
        peaks: Peak memory in bytes, where a start-up was measured.
        installed: Installed size in bytes, where it was asked for.
        error: Why it has none or no more.
    """

    name: str
    values: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    installed: float | None = None
    error: str | None = None


@dataclass
class Group:
    """All engines on one workload, with one model in one format.

    Args:
        model: `M1` or `M2`.
        weights: The format.
        workload: The workload.
        cells: The engines, ours first.
        limits: The machine's limits, as probed between the repetitions.
        limit: The best figure they allow.
    """

    model: str
    weights: str
    workload: Workload
    cells: list[Cell]
    limits: Limits | None = None
    limit: float | None = None


def number(value: float) -> str:
    """Three figures or whole."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(group: Group, cell: Cell) -> str:
    """How many times as fast ours is: the median over rounds that both have."""
    ours = group.cells[0].values
    if cell is group.cells[0] or not ours or not cell.values:
        return "-"
    pairs = zip(ours, cell.values, strict=False)
    return f"{median(group.workload.speed_ratio(a, b) for a, b in pairs):.2f}"


def share(group: Group, cell: Cell) -> str:
    """Share of the limit that the median reaches."""
    if group.limit is None:
        return "-"
    return f"{100 * group.workload.speed_ratio(median(cell.values), group.limit):.0f} %"


def row(group: Group, cell: Cell) -> list[str]:
    """A line of the main table."""
    head = [group.model, group.weights, group.workload.name, cell.name]
    if not cell.values:
        return [*head, f"not available: {cell.error}", "", "", "", "", ""]
    low, high = number(min(cell.values)), number(max(cell.values))
    middle = f"{number(median(cell.values))} {group.workload.unit}"
    others = f"{median(cell.others):.2f}"
    counts = str(len(cell.values)) + (f", then {cell.error}" if cell.error else "")
    return [*head, middle, f"{low}-{high}", ratio(group, cell), share(group, cell), others, counts]


def lines(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A Markdown table."""
    every = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in every]


def limits_row(group: Group) -> list[str]:
    """A line of the table of limits."""
    head = [group.model, group.weights, group.workload.name]
    if group.limits is None:
        return [*head, "-", "-", "-", "-"]
    limit = "-" if group.limit is None else f"{number(group.limit)} {group.workload.unit}"
    rates = (group.limits.read_bytes, group.limits.float_ops, group.limits.int8_ops)
    return [*head, *(f"{rate / 1e9:.1f}" for rate in rates), limit]


def memory_row(group: Group, cell: Cell) -> list[str]:
    """A line of the table of memory and disk."""
    installed = "-" if cell.installed is None else f"{cell.installed / 1e6:.0f} MB"
    return [group.model, group.weights, cell.name, f"{median(cell.peaks) / 1e9:.2f} GB", installed]


def report(groups: list[Group]) -> str:
    """All tables."""
    header = ["model", "weights", "workload", "engine", "median", "min-max"]
    header += ["ours is x times as fast", "of the limit", "cores others used", "n"]
    text = lines(header, (row(group, cell) for group in groups for cell in group.cells))
    header = ["model", "weights", "workload", "read GB/s", "float Gop/s", "int8 Gop/s", "limit"]
    text += ["", *lines(header, map(limits_row, groups))]
    started = [(group, cell) for group in groups for cell in group.cells if cell.peaks]
    if started:
        header = ["model", "weights", "engine", "peak memory at the first token", "installed"]
        text += ["", *lines(header, (memory_row(group, cell) for group, cell in started))]
    return "\n".join(text) + "\n"
