"""The picture of the report page in the README: verdict, leaderboard and learning curves of a run.

    python -m benchmarks.page_picture runs/sample_cpu benchmarks/results/report_page.png

It needs chromium and what the tests need (`pip install -e ".[test]"`).
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

WIDTH_PX, PICTURE_PX, COLORS = 1120, 900, 256
# The comparisons stand between leaderboard and curves; the picture is to be small.
HIDDEN = "#comparisons, #ensembles, nav, #leaderboard .screen"


def main() -> None:
    """Draw the picture and print its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()

    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH_PX, "height": 900}, color_scheme="light")
        page.goto((args.run_dir.resolve() / "report.html").as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached")
        page.add_style_tag(content=f"{HIDDEN} {{ display: none !important; }}")
        end = page.locator("#curves").bounding_box()
        assert end is not None, "the run has no learning curves"
        raw = page.screenshot(
            full_page=True, clip={"x": 0, "y": 0, "width": WIDTH_PX, "height": end["y"] + end["height"] + 20}
        )
        browser.close()
    picture = Image.open(io.BytesIO(raw)).convert("RGB")
    height = round(picture.height * PICTURE_PX / picture.width)
    small = picture.resize((PICTURE_PX, height), Image.Resampling.LANCZOS)
    # Maximum coverage keeps the few saturated colors, which the median cut washes out.
    small.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(args.picture, optimize=True)
    print(f"{args.picture}: {PICTURE_PX} x {height} px, {args.picture.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
