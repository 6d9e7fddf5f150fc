"""Makes docs/images/faces_page.png of a quality page of drawn faces, in the root of the repository:

snakemake --cores all results/demo/data/demo_rafdb/faces.html && python docs/images/faces_page.py
"""

from pathlib import Path

from PIL import Image

PAGE = Path("results/demo/data/demo_rafdb")
WIDTH, WORST_HEIGHT = 950, 622  # two of the sections of the worst faces


def main() -> None:
    """The distributions, and below them the beginning of the worst faces; 128 colours will do."""
    shown = Image.open(PAGE / "distributions.png").convert("RGB")
    shown = shown.resize((WIDTH, round(shown.height * WIDTH / shown.width)), Image.Resampling.LANCZOS)
    worst = Image.open(PAGE / "montage_worst.png").convert("RGB").crop((0, 0, WIDTH, WORST_HEIGHT))
    picture = Image.new("RGB", (WIDTH, shown.height + WORST_HEIGHT), "white")
    picture.paste(shown, (0, 0))
    picture.paste(worst, (0, shown.height))
    picture.quantize(128).save("docs/images/faces_page.png", optimize=True)


if __name__ == "__main__":
    main()
