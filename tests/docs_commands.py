"""The commands that the documentation shows, and the files that they name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ESTIMATING = ("estimate", "advise", "explore", "sweep", "inspect", "fusion", "trace", "generate", "profiles")
"""Verbs that measure nothing, or a single call."""
CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_layer": 2,
    "n_embd": 64,
    "n_head": 4,
    "n_positions": 4096,
    "vocab_size": 500,
}
FACTORY = "import torch\n\n\ndef build():\n    return torch.nn.Conv2d(3, 8, 3).eval()\n"


def shown(page: Path) -> tuple[list[str], list[str]]:
    """Commands in blocks, and those in the text, of a page."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    lines += [line.strip() for line in text.splitlines() if line.startswith("    ")]
    parts = [part.strip() for line in lines for part in re.split(r"&&|\|", line.removeprefix("$ "))]
    return [p for p in parts if p.startswith(("shmoo ", "python -m "))], re.findall(r"`(shmoo [^`\n]+)`", text)


def arguments(command: str) -> list[str]:
    """The words of a command after its first, comments left out."""
    return shlex.split(command, comments=True)[1:]
