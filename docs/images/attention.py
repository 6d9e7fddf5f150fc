"""Makes docs/images/attention.png from the figure of drawn faces that docs/attention.md tells how to make."""

from pathlib import Path

from PIL import Image

FIGURE = Path("results/picture/figures/attention_demo_rafdb.png")
WIDTH = 760


def main() -> None:
    """The figure, smaller; 200 colours will do."""
    picture = Image.open(FIGURE).convert("RGB")
    picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(200).save("docs/images/attention.png", optimize=True)


if __name__ == "__main__":
    main()
