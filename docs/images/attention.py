"""Makes docs/images/attention.png from the figure of drawn faces that docs/attention.md tells how to make."""

from pathlib import Path

from PIL import Image

FIGURE = Path("results/picture/figures/attention_demo_rafdb.png")
WIDTH = 760


def main() -> None:
    """The figure, smaller. The octree keeps the red of the maps, of which there is little."""
    picture = Image.open(FIGURE).convert("RGB")
    picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture = picture.quantize(256, Image.Quantize.FASTOCTREE)
    picture.save("docs/images/attention.png", optimize=True)


if __name__ == "__main__":
    main()
