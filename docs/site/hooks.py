"""Pages of the site that follow from the code: every model, every profile with its tests; and where mkdocstrings finds it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
FOLDERS = ("estimators", "runs", "calibrate", "harness")


@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let mkdocstrings read the folders under the names they install as; before it looks at its own configuration."""
    code = Path(tempfile.mkdtemp())
    (code / "shmoo").mkdir()
    (code / "shmoo" / "__init__.py").symlink_to(ROOT / "shmoo" / "__init__.py")
    for folder in FOLDERS:
        (code / "shmoo" / folder).symlink_to(ROOT / folder, target_is_directory=True)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(code)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are written from the code."""
    for name, text in (("models", models_page()), ("profiles", profiles_page())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def models_page() -> str:
    """Names that MODEL takes."""
    from shmoo.harness.workloads.configs import config_models
    from shmoo.harness.workloads.loading import WORKLOADS
    from shmoo.harness.workloads.zoo import DIFFUSION, zoo_names

    workloads = [[f"`{name}`", ", ".join(axis.name for axis in module.axes)] for name, module in sorted(WORKLOADS.items())]
    return "\n\n".join(
        (
            "# All models",
            "Names that `MODEL` takes. [Models by name](../models.md) says how inputs are chosen and which models have limits.",
            "## Operators and synthetic models",
            markdown_table(["name", "axes"], workloads),
            "## Transformers",
            ", ".join(f"`{name}`" for name in sorted(config_models())),
            "## Diffusion",
            ", ".join(f"`{name}`" for name in sorted(DIFFUSION)),
            "## torchvision",
            ", ".join(f"`{name}`" for name in sorted(zoo_names())),
        )
    )


def profiles_page() -> str:
    """Built-in profiles: where their numbers come from, and their errors on cases held out."""
    from shmoo.estimators.machine.profile import builtin_names, load_profile
    from shmoo.estimators.units import percent

    parts = [
        "# All profiles and their tests",
        "`shmoo profiles show NAME` lists every coefficient with its unit, source and uncertainty. A profile with a table of "
        "errors was tested on measurements that its fit had not seen; one without rests on datasheets and literature. "
        "[Held-out errors](../model.md#held-out-errors) says how cases are held out.",
    ]
    for name in builtin_names():
        profile = load_profile(name)
        sources = [coefficient.source for coefficient in profile.coefficients.values()]
        counted = ", ".join(f"{sources.count(source)} {source}" for source in dict.fromkeys(sources))
        parts += [f"## {name}", profile.description, f"Family {profile.family}; {len(sources)} coefficients: {counted}."]
        rows = [
            [
                split,
                group,
                e.n,
                percent(e.mean),
                percent(e.median),
                percent(e.p90),
                percent(e.bias, signed=True),
                percent(e.coverage),
            ]
            for split, groups in profile.error_card.items()
            for group, e in groups.items()
        ]
        headers = ["held out", "group", "cases", "mean", "median", "p90", "bias", "in the 90 % interval"]
        parts.append(markdown_table(headers, rows) if rows else "No measurement of this machine: not tested.")
    return "\n\n".join(parts)
