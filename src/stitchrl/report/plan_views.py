"""Plans drawn in a maze's walls: all that were weighed, coloured by their score, and how one came about, as a moving picture.

Arrays and files in, bytes of a PNG or GIF out. A plan is a line of points `[T, 2]`; a point that is not a number is not drawn.
"""

from __future__ import annotations

import base64
import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from stitchrl.core.errors import DataError
from stitchrl.core.files import write_atomically
from stitchrl.report.page import Section, escape, figures, paragraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

FILE = "plans.npz"  # in a run's directory
_FRAMES = 40  # of a moving picture; of more stages some are left out, never the first or the last
_SECONDS = 4.0  # of a moving picture, before it rests on its last frame
_DRAWN = 200  # plans in one picture: the best, and of the others some
_WALL, _START, _GOAL, _STAGE = "#c9ced4", "#1b1f24", "#D55E00", "#0072B2"


@final
@dataclass(frozen=True)
class Plans:
    """What N starts were planned for, in the plane of the drawing.

    `plans [N, K, T, 2]` with `scores [N, K]`, higher is better; `stages [N, J, T, 2]`, how each start's best plan came about, first to last
    (J = 0: not told); `starts [N, 2]`; `goals [N, 2]`, not a number where there is none; `walls [W, 4]`: x, y of the lower left corner, width
    and height of each. `axes`: what the two coordinates are; `score`: what the scores are; `told`: with what settings in place of the run's.
    """

    plans: Array
    scores: Array
    stages: Array
    starts: Array
    goals: Array
    walls: Array
    axes: tuple[str, str] = ("x", "y")
    score: str = "score"
    told: str = ""

    def __post_init__(self) -> None:
        if self.plans.ndim != 4 or self.plans.shape[-1] != 2 or 0 in self.plans.shape:
            raise DataError(f"'plans' has shape {list(self.plans.shape)}; expected [N, K, T, 2], none of them 0")
        starts, candidates, length, _ = self.plans.shape
        stages = self.stages.shape[1] if self.stages.ndim == 4 else 0
        expected = {
            "scores": (starts, candidates),
            "stages": (starts, stages, length, 2),
            "starts": (starts, 2),
            "goals": (starts, 2),
            "walls": (len(self.walls), 4),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise DataError(f"'{name}' has shape {list(getattr(self, name).shape)}; expected {list(shape)} beside these plans")
        if not np.isfinite(self.scores).all():
            raise DataError("'scores' holds a number that is not finite; every plan needs one that it can be ranked by")


def write_plans(directory: Path, plans: Plans) -> Path:
    """Returns the file `plans.npz` written into a directory, whole or not at all."""
    out = io.BytesIO()
    arrays: dict[str, Any] = {field.name: np.asarray(getattr(plans, field.name)) for field in fields(Plans)}
    np.savez_compressed(out, **arrays)
    write_atomically(directory / FILE, out.getvalue())
    return directory / FILE


def read_plans(directory: Path) -> Plans | None:
    """Returns the plans written into a run's directory, None where there are none; raises DataError for a damaged file."""
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found: dict[str, Any] = {
                field.name: arrays[field.name] for field in fields(Plans) if field.name in arrays or field.name != "told"
            }
        found["axes"] = tuple(map(str, found["axes"]))
        found |= {name: str(found[name]) for name in ("score", "told") if name in found}
        numbers = {name: np.asarray(value, np.float64) for name, value in found.items() if name not in ("axes", "score", "told")}
        return Plans(**{**found, **numbers})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not the plans that `stitchrl plan` writes ({str(error)[:200]}); write them anew") from error


def plans_png(plans: Plans, start: int) -> bytes:
    """Returns a PNG of all plans from one start: the better the brighter, the best in front, wide and with its steps."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scores = plans.scores[start]
    figure, axes = _scene(plans, start)
    low, high = float(scores.min()), float(scores.max())
    scale, colours = Normalize(low, high if high > low else low + 1), colormaps["viridis"]
    order = np.argsort(scores, kind="stable")[:-1]
    if len(order) >= _DRAWN:
        order = order[np.linspace(0, len(order) - 1, _DRAWN - 1).round().astype(int)]
    for k in order:
        line = plans.plans[start, k]
        axes.plot(line[:, 0], line[:, 1], color=colours(scale(scores[k])), linewidth=0.9, alpha=0.65, zorder=3)
    best = plans.plans[start, int(scores.argmax())]
    axes.plot(best[:, 0], best[:, 1], color="black", linewidth=4.2, zorder=4, solid_capstyle="round")
    axes.plot(best[:, 0], best[:, 1], color=colours(1.0), linewidth=2.4, zorder=5, marker="o", markersize=3.2, markeredgewidth=0)
    _ends(plans, start, axes)
    if high > low:
        bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, shrink=0.8)
        bar.set_label(plans.score)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None}, bbox_inches="tight")
    return out.getvalue()


def stages_gif(plans: Plans, start: int) -> bytes:
    """Returns a GIF of how one start's best plan came about, resting on the last stage; raises DataError where stages were not kept."""
    from PIL import Image

    stages = plans.stages[start]
    if not len(stages):
        raise DataError("how the plans came about was not kept: 'stages' is empty")
    shown = np.unique(np.linspace(0, len(stages) - 1, min(len(stages), _FRAMES)).round().astype(int))
    figure, axes = _scene(plans, start)
    (line,) = axes.plot([], [], color=_STAGE, linewidth=1.4, marker="o", markersize=3.2, zorder=4, animated=True)
    title = axes.text(0.01, 0.99, "", transform=axes.transAxes, va="top", fontsize=9, zorder=7, animated=True)
    _ends(plans, start, axes)
    canvas: Any = figure.canvas
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)  # all that does not move is drawn once
    frames = []
    for j in shown:
        canvas.restore_region(still)
        line.set_data(stages[j, :, 0], stages[j, :, 1])
        title.set_text(f"stage {j} of {len(stages) - 1}")
        for moving in (line, title):
            axes.draw_artist(moving)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = frames[-1].quantize(48, Image.Quantize.MAXCOVERAGE)  # one for all frames: nothing that stands still changes its colour
    first, *rest = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    each = max(40, round(1000 * _SECONDS / len(frames)))
    out = io.BytesIO()
    first.save(out, format="GIF", save_all=True, append_images=rest, duration=[each] * len(rest) + [2500], loop=0)
    return out.getvalue()


def write_pictures(plans: Plans, directory: Path) -> list[Path]:
    """Returns the pictures written into a directory: `plans_1.png` and, where stages were kept, `plans_1.gif` of each start.

    Those of other plans that were there are taken away.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for old in (*directory.glob("plans_[0-9]*.png"), *directory.glob("plans_[0-9]*.gif")):
        old.unlink()
    written = []
    for start in range(len(plans.plans)):
        for name, picture in _pictures_of(plans, start).items():
            write_atomically(directory / name, picture)
            written.append(directory / name)
    return written


def standing(plans: Plans) -> str:
    """Returns what to say where plans go nowhere, so that a picture without a line is no riddle; nothing where all starts have one that moves."""
    still = int((np.ptp(plans.plans, axis=2) == 0).all((1, 2)).sum())
    return f" From {still} of {len(plans.plans)} every plan stays where it starts: only the start is drawn." if still else ""


def plans_section(plans: Plans) -> Section:
    """Returns the part of a run's report that shows the plans, its pictures inside."""
    count, candidates, length, _ = plans.plans.shape
    about = (
        f"{count} start{'s' if count > 1 else ''}, {candidates} plan{'s' if candidates > 1 else ''} of {length} states each{plans.told}. "
    )
    drawn = []
    for start in range(count):
        for name, picture in _pictures_of(plans, start).items():
            moving = name.endswith(".gif")
            best = f"{plans.scores[start].max():.4g}"
            words = "How its best plan came about" if moving else f"Start {start + 1}: plans by {plans.score}; the best, wide, has {best}"
            drawn.append(_image(picture, "image/gif" if moving else "image/png", words))
    key = "Black: start. Orange: goal." if np.isfinite(plans.goals).any() else "Black: start."
    return Section("Plans", paragraph(about + key + standing(plans), "soft") + figures(drawn))


def _pictures_of(plans: Plans, start: int) -> dict[str, bytes]:
    found = {f"plans_{start + 1}.png": plans_png(plans, start)}
    return found | ({f"plans_{start + 1}.gif": stages_gif(plans, start)} if plans.stages.shape[1] else {})


def _image(picture: bytes, kind: str, caption: str) -> str:
    text = base64.b64encode(picture).decode()
    # white behind: a picture's ink does not change with the page's colours
    style = "width:100%;max-width:34rem;height:auto;display:block;background:#fff;border-radius:.3rem"
    image = f'<img src="data:{kind};base64,{text}" alt="{escape(caption)}" style="{style}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _scene(plans: Plans, start: int) -> tuple[Figure, Axes]:
    """A white picture with the walls, wide enough for all that will be drawn from this start."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    low, high = _limits(plans, start)
    wide, tall = high - low
    width = 5.2
    figure = Figure(figsize=(width, float(np.clip(width * tall / wide, 2.4, 6.4))), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for x, y, w, h in plans.walls:
        axes.add_patch(Rectangle((x, y), w, h, facecolor=_WALL, edgecolor="none", zorder=1))
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel=plans.axes[0], ylabel=plans.axes[1])
    if len(plans.walls):  # a map: both coordinates are lengths
        axes.set_aspect("equal")
    axes.tick_params(labelsize=8)
    for side in axes.spines.values():
        side.set_color("#888888")
    return figure, axes


def _limits(plans: Plans, start: int) -> tuple[Array, Array]:
    """The walls' corners, or without walls those of the start's plans; not of early stages, which are noise."""
    if len(plans.walls):
        return plans.walls[:, :2].min(0), (plans.walls[:, :2] + plans.walls[:, 2:]).max(0)
    points = np.concatenate([plans.plans[start].reshape(-1, 2), plans.starts[start][None], plans.goals[start][None]])
    points = points[np.isfinite(points).all(1)]
    low, high = points.min(0), points.max(0)
    margin = np.where(high > low, 0.15 * (high - low), 0.5)
    return low - margin, high + margin


def _ends(plans: Plans, start: int, axes: Axes) -> None:
    axes.plot(*plans.starts[start], color=_START, marker="o", markersize=7.5, markeredgecolor="white", zorder=6)
    if np.isfinite(plans.goals[start]).all():
        axes.plot(*plans.goals[start], color=_GOAL, marker="*", markersize=14, markeredgecolor="white", zorder=6)
