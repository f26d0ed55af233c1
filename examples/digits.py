"""Model selection on handwritten digits: which of many classifiers reads them best?

The UCI handwritten digits come with scikit-learn, so this needs no download. Every candidate is
cross-validated in a task of its own, the best of each family is fitted again and tried on images that no fit
has seen, and the winner's report is written as JSON and as a picture::

    load → split ─┬→ cross_validate [map] → summarise [map] → shortlist ─┐
                  └──────────────────────────────────────→ assess [map] ─┴→ choose → report

Run it with ``headrace demo``, or from Python::

    import headrace as hr
    from digits import digits

    with hr.DaskEnvironment("local") as environment:
        print(digits.run(folder="demo-output", environment=environment).result())

Each fit uses one thread: the flow is what runs in parallel, and nested thread pools would only fight over
cores.
"""

import json
from itertools import chain, islice, product, zip_longest
from typing import Any

import headrace as hr

Facts = dict[str, Any]


def grid(count: int) -> list[Facts]:
    """Return the first candidates of the grid, in turns from each family, so that few are still varied."""
    axes: dict[str, dict[str, list[Any]]] = {
        "Support vectors": {"C": [1, 3, 10, 30], "gamma": [0.02, 0.05, 0.1, 0.2]},
        "Random forest": {"n_estimators": [80, 120, 160], "max_features": [4, 8], "min_samples_leaf": [1, 2]},
        "Extra trees": {"n_estimators": [80, 120, 160], "max_features": [4, 8], "min_samples_leaf": [1, 2]},
        "Logistic regression": {"C": [0.1, 0.3, 1, 3, 10, 30, 100, 300]},
        "Nearest neighbours": {"n_neighbors": [1, 3, 5, 7, 9], "weights": ["uniform", "distance"]},
        "Neural network": {"hidden_layer_sizes": [[48], [96], [64, 32], [96, 48]], "alpha": [1e-4, 1e-2]},
        "Gradient boosting": {"learning_rate": [0.1, 0.2, 0.4], "max_leaf_nodes": [6, 12]},
    }
    families = [
        [{"family": family, "options": dict(zip(axis, each, strict=True))} for each in product(*axis.values())]
        for family, axis in axes.items()
    ]
    turns = [candidate for candidate in chain.from_iterable(zip_longest(*families)) if candidate is not None]
    if not 1 <= count <= len(turns):
        raise ValueError(f"candidates must be from 1 to {len(turns)}, got {count}")
    return list(islice(turns, count))


def build(candidate: Facts, seed: int) -> Any:
    """Return an unfitted model."""
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

    options = candidate["options"]
    match candidate["family"]:
        case "Support vectors":
            return SVC(**options)
        case "Random forest":
            return RandomForestClassifier(**options, random_state=seed)
        case "Extra trees":
            return ExtraTreesClassifier(**options, random_state=seed)
        case "Logistic regression":
            return LogisticRegression(**options, max_iter=1000)
        case "Nearest neighbours":
            return KNeighborsClassifier(**options)
        case "Neural network":
            return MLPClassifier(**options, early_stopping=True, max_iter=150, random_state=seed)
        case "Gradient boosting":
            return HistGradientBoostingClassifier(**options, max_iter=15, random_state=seed)
    raise ValueError(f"unknown family {candidate['family']!r}")


def title(candidate: Facts) -> str:
    """Return a candidate in words."""
    options = ", ".join(f"{key}={value}" for key, value in candidate["options"].items())
    return f"{candidate['family']} ({options})"


@hr.task
def load() -> Facts:
    """Return the images, as rows of 64 numbers from 0 to 1, and what they show."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return {"images": images / 16.0, "labels": labels}


@hr.task(nout=2)
def split(data: Facts, seed: int) -> tuple[Facts, Facts]:
    """Keep a quarter aside, with the same share of each digit."""
    from sklearn.model_selection import train_test_split

    seen, unseen, seen_labels, unseen_labels = train_test_split(
        data["images"], data["labels"], test_size=0.25, stratify=data["labels"], random_state=seed
    )
    return {"images": seen, "labels": seen_labels}, {"images": unseen, "labels": unseen_labels}


@hr.task
def cross_validate(candidate: Facts, train: Facts, folds: int, seed: int) -> Facts:
    """Fit a candidate once per fold and score it on the part that it did not see."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from threadpoolctl import threadpool_limits

    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with threadpool_limits(1):
        scores = cross_val_score(build(candidate, seed), train["images"], train["labels"], cv=parts)
    return {"candidate": candidate, "scores": scores.tolist()}


@hr.task
def summarise(scored: Facts) -> Facts:
    """Return a candidate's mean accuracy and the half width of its 95 % interval."""
    from statistics import fmean, stdev

    from scipy.stats import t

    scores = scored["scores"]
    reach = float(t.ppf(0.975, len(scores) - 1)) * stdev(scores) / len(scores) ** 0.5
    return {**scored, "mean": fmean(scores), "margin": reach}


@hr.task
def shortlist(summaries: list[Facts]) -> list[Facts]:
    """Return the best of each family, best first."""
    best: dict[str, Facts] = {}
    for summary in sorted(summaries, key=lambda summary: -summary["mean"]):
        best.setdefault(summary["candidate"]["family"], summary)
    return list(best.values())


@hr.task
def assess(summary: Facts, train: Facts, test: Facts, seed: int) -> Facts:
    """Fit a finalist on all training images and let it read the unseen ones."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        model = build(summary["candidate"], seed).fit(train["images"], train["labels"])
        read = model.predict(test["images"])
    return {**summary, "read": read.tolist(), "accuracy": float((read == test["labels"]).mean())}


@hr.task
def choose(finalists: list[Facts]) -> Facts:
    """Return the winner of the cross-validation.

    The unseen images only tell how good it is: choosing by them would make that number too good to be true.
    """
    return max(finalists, key=lambda finalist: finalist["mean"])


@hr.task
def report(
    best: Facts,
    finalists: list[Facts],
    test: Facts,
    *,
    tried: int,
    folds: int,
    folder: str,
) -> Facts:
    """Write ``report.json`` and ``confusion.png`` into a folder, which may be any fsspec URL."""
    from io import BytesIO

    from fsspec.core import url_to_fs
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(test["labels"], best["read"])
    picture = BytesIO()
    how = f"best of {tried} candidates in {folds}-fold cross-validation"
    draw(best, finalists, test, matrix, how).savefig(picture, format="png")
    facts = {
        "best": title(best["candidate"]),
        "accuracy": best["accuracy"],
        "how": how,
        "confusion": matrix.tolist(),
        "finalists": [
            {"model": title(one["candidate"]), **{key: one[key] for key in ("mean", "margin", "accuracy")}}
            for one in finalists
        ],
    }
    filesystem, path = url_to_fs(folder)
    filesystem.makedirs(path, exist_ok=True)
    filesystem.pipe_file(f"{path}/report.json", json.dumps(facts, indent=2).encode())
    filesystem.pipe_file(f"{path}/confusion.png", picture.getvalue())
    return {
        "best": title(best["candidate"]),
        "accuracy": round(best["accuracy"], 4),
        "report": f"{folder}/report.json",
        "picture": f"{folder}/confusion.png",
    }


def draw(best: Facts, finalists: list[Facts], test: Facts, matrix: Any, how: str) -> Any:
    """Return the picture: the confusion matrix, the finalists, and the images that the winner misread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The object interface: pyplot keeps global state, which tasks in threads would share.
    figure = Figure(figsize=(12, 7.4), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    ink, quiet = "#1f2933", "#616e7c"
    right = f"{best['accuracy']:.1%} of {matrix.sum()} unseen images read right"
    figure.text(0.045, 0.945, title(best["candidate"]), size=17, weight="bold", color=ink)
    figure.text(0.045, 0.908, f"{right} · {how}", size=11.5, color=quiet)
    draw_matrix(figure.add_axes((0.075, 0.09, 0.46, 0.745)), matrix, ink, quiet)
    draw_finalists(figure.add_axes((0.755, 0.49, 0.22, 0.345)), best, finalists, ink, quiet)
    draw_misread(figure, best, test, ink, quiet)
    return figure


def draw_matrix(axes: Any, matrix: Any, ink: str, quiet: str) -> None:
    """Draw what was shown against what was read: right ones in blue, wrong ones in red."""
    import numpy as np
    from matplotlib import colormaps

    digits = len(matrix)
    share = matrix / matrix.sum(axis=1, keepdims=True)
    cells = np.ones((digits, digits, 3)) * 0.975
    for shown, read in zip(*np.nonzero(matrix), strict=True):
        # A single misread image is already worth a colour, so red starts high and soon is full.
        tint = colormaps["Blues"](0.25 + 0.6 * share[shown, read] ** 4)
        if shown != read:
            tint = colormaps["Reds"](min(0.3 + 4 * share[shown, read], 0.8))
        cells[shown, read] = tint[:3]
    axes.imshow(cells, aspect="equal")
    for shown, read in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if cells[shown, read].mean() < 0.6 else ink
        axes.text(read, shown, matrix[shown, read], ha="center", va="center", size=11, color=colour)
    axes.set_xticks(range(digits))
    axes.set_yticks(range(digits))
    axes.set_xticks(np.arange(-0.5, digits), minor=True)
    axes.set_yticks(np.arange(-0.5, digits), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0, labelsize=12, colors=ink)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("read as", size=12, color=quiet, labelpad=8)
    axes.set_ylabel("image shows", size=12, color=quiet, labelpad=8)


def draw_finalists(axes: Any, best: Facts, finalists: list[Facts], ink: str, quiet: str) -> None:
    """Draw the best of each family: cross-validated mean with its interval, and the unseen images."""
    ranked = sorted(finalists, key=lambda one: one["mean"])
    unseen = {"marker": "D", "ms": 6, "mfc": "white", "mec": "#c0392b", "mew": 1.6, "linestyle": "none"}
    for place, one in enumerate(ranked):
        colour = "#2166ac" if one["candidate"] == best["candidate"] else "#9aa5b1"
        mean, margin = 100 * one["mean"], 100 * one["margin"]
        axes.errorbar(mean, place, xerr=margin, fmt="o", ms=7, color=colour, elinewidth=3)
        axes.plot(100 * one["accuracy"], place, **unseen)
    axes.plot([], [], "o", ms=7, color="#9aa5b1", label="cross-validated, 95 % interval")
    axes.plot([], [], **unseen, label="unseen images")
    axes.legend(
        frameon=False, fontsize=9.5, labelcolor=ink, loc="upper right", bbox_to_anchor=(1.04, -0.1), ncols=2,
        handletextpad=0.1, columnspacing=1.0,
    )  # fmt: skip
    axes.set_yticks(range(len(ranked)), [one["candidate"]["family"] for one in ranked], size=10.5)
    axes.set_ylim(-0.7, len(ranked) - 0.3)
    axes.tick_params(length=0, colors=ink)
    axes.grid(axis="x", color="#e4e7eb")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_title("Best of each family, accuracy in %", size=11.5, color=quiet, loc="left", x=-0.615, pad=12)


def draw_misread(figure: Any, best: Facts, test: Facts, ink: str, quiet: str) -> None:
    """Draw the first images that the winner misread."""
    labels = test["labels"]
    wrong = [place for place, read in enumerate(best["read"]) if read != labels[place]]
    columns, shown = 6, wrong[:12]
    heading = f"{len(shown)} of the {len(wrong)} misread images" if len(wrong) > 12 else "The misread images"
    figure.text(0.62, 0.345, heading if wrong else "No image was misread", size=11.5, color=quiet)
    for count, place in enumerate(shown):
        left, row = 0.62 + 0.06 * (count % columns), count // columns
        axes = figure.add_axes((left, 0.235 - 0.145 * row, 0.05, 0.081))
        axes.imshow(test["images"][place].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("#cbd2d9")
        axes.set_xlabel(f"{labels[place]} read as {best['read'][place]}", size=8, color=ink, labelpad=3)


@hr.flow
def digits(folder: str = "demo-output", candidates: int = 72, folds: int = 5, seed: int = 7):
    """Select the model that reads handwritten digits best."""
    train, test = split(load(), seed)
    scored = cross_validate.map(
        grid(candidates), train=hr.unmapped(train), folds=hr.unmapped(folds), seed=hr.unmapped(seed)
    )
    finalists = assess.map(
        shortlist(summarise.map(scored)),
        train=hr.unmapped(train),
        test=hr.unmapped(test),
        seed=hr.unmapped(seed),
    )
    return report(choose(finalists), finalists, test, tried=candidates, folds=folds, folder=folder)
