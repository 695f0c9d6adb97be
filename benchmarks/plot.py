"""Draw docs/decode.svg, the plot of decoding speed against llama.cpp and generate.

    pip install matplotlib
    python benchmarks/plot.py [FIGURES] [--out FILE]

`benchmarks/decode_figures.json` holds the figures: tokens per second by batch size for each program, all
measured on one GPU in the same hour. To plot your own, put in the figures that `benchmarks/decode.py` prints.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COLOURS = ("#d9480f", "#1864ab", "#868e96")


def pyplot() -> Any:
    """Return matplotlib's pyplot, set up so that equal figures give equal files."""
    try:
        matplotlib: Any = import_module("matplotlib")
    except ModuleNotFoundError:
        sys.exit("expected the package matplotlib, found none; run `pip install matplotlib`")
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "decode", "font.family": "sans-serif"}
    )
    return import_module("matplotlib.pyplot")


def main() -> None:
    """Read the figures and write the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="?", type=Path, default=ROOT / "benchmarks" / "decode_figures.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "decode.svg")
    args = parser.parse_args()
    plt = pyplot()
    figures = json.loads(args.figures.read_text(encoding="utf-8"))

    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    for colour, (name, rates) in zip(COLOURS, figures["tokens_per_second"].items(), strict=True):
        batches = [int(batch) for batch in rates]
        axes.plot(batches, list(rates.values()), color=colour, marker="o", linewidth=2, label=name)
        last = batches[-1]
        axes.annotate(
            f"{rates[str(last)]:,}", (last, rates[str(last)]), (6, 0), textcoords="offset points", va="center"
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    axes.set_yticks([10, 100, 1000, 10_000], ["10", "100", "1,000", "10,000"])
    axes.set_xlim(0.9, 110)
    axes.set_xlabel("sequences decoded together")
    axes.set_ylabel("tokens per second")
    axes.set_title(figures["title"], fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(args.out, metadata={"Date": None})
    args.out.write_text(
        "\n".join(line.rstrip() for line in args.out.read_text("utf-8").splitlines()) + "\n", "utf-8"
    )


if __name__ == "__main__":
    main()
