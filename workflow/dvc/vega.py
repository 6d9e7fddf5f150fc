"""Puts Vega beside the page of `dvc plots`, which then needs no network: python -m workflow.dvc.vega, by make plots.

DVC's own page loads Vega from the net. Snakemake brings the same libraries for its reports, in versions that DVC's
plots work with (a test looks at them); .dvc/page.html loads them from here.
"""

from pathlib import Path

from snakemake.assets import Assets

from transfer.utils.files import write_text

FOLDER = Path("dvc_plots/vega")
LIBRARIES = ("vega", "vega-lite", "vega-embed")


def main() -> None:
    """Copy the libraries into dvc_plots/vega."""
    for name in LIBRARIES:
        write_text(FOLDER / f"{name}.js", Assets.get_content(f"{name}/{name}.js"))


if __name__ == "__main__":
    main()
