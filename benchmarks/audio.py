"""How near `elmnet data encode-audio` comes to the public encoder, on the recordings of the Free Spoken Digit Dataset.

    Z=../shared/data/fsdd_recordings.zip
    elmnet data encode-audio $Z --match '*_[0-4].wav' --out spikes/ours_test.h5
    elmnet data encode-audio $Z --match '*_[0-4].wav' --seed 1 --out spikes/again_test.h5
    elmnet data encode-audio $Z --match '*_[5-9].wav' --match '*_[1-4][0-9].wav' --out spikes/ours_train.h5
    python benchmarks/audio.py spikes ../shared/data         # into docs/results/audio.md

The public encoder draws chance, so two of its runs differ. `again` is our encoder with another seed: what differs more
than it does is not chance.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from report import ROOT, command, commit, machine, today, wrap

from elmnet.data.spikes import CHANNELS, load_spikes
from elmnet.files import write_atomic

GROUP, GROUPS, BINS = 10, 70, 10
Counts = NDArray[np.float64]


def counts(path: Path) -> tuple[dict[str, Counts], dict[str, int]]:
    """Spikes in BINS equal parts of a recording (up to its last spike) × channels, and labels, by recording."""
    import h5py

    data = load_spikes(path)
    with h5py.File(path) as file:
        names = [name.decode() for name in file["extra/recording"][:]]
    found = {}
    for i, name in enumerate(names):
        here = slice(data.offsets[i], data.offsets[i + 1])
        times = data.times[here].astype(np.float64)
        place = np.minimum((times / times.max() * BINS).astype(int), BINS - 1) if len(times) else times.astype(int)
        grid = np.zeros((BINS, CHANNELS))
        np.add.at(grid, (place, data.units[here]), 1)
        found[name] = grid
    return found, dict(zip(names, data.labels.tolist(), strict=True))


def accuracy(train: tuple[Any, Any], test: tuple[Any, Any]) -> float:
    """Logistic regression on the standardised square roots of counts in time bins × channel groups."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(grids: dict[str, Counts]) -> Counts:
        return np.stack([np.sqrt(g.reshape(BINS, GROUPS, GROUP).sum(2)).ravel() for g in grids.values()])

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    model.fit(features(train[0]), [train[1][name] for name in train[0]])
    return float(model.score(features(test[0]), [test[1][name] for name in test[0]]))


def main(
    ours: Annotated[Path, typer.Argument(help="ours_test.h5, again_test.h5, ours_train.h5")],
    theirs: Annotated[Path, typer.Argument(help="fsdd_spikes_test.h5, fsdd_spikes_train.h5")],
    out: Annotated[Path, typer.Option(help="the page to write")] = ROOT / "docs" / "results" / "audio.md",
) -> None:
    """Compare, and write the page."""
    from scipy.stats import chi2, f, ttest_1samp

    us, labels = counts(ours / "ours_test.h5")
    again, _ = counts(ours / "again_test.h5")
    them, labels_there = counts(theirs / "fsdd_spikes_test.h5")
    names = sorted(them)
    assert set(us) == set(again) == set(them)
    assert labels == labels_there
    total = {key: np.array([grid[n].sum() for n in names]) for key, grid in (("u", us), ("a", again), ("t", them))}
    apart, chance = (total["u"] - total["t"]) / total["t"], (total["u"] - total["a"]) / total["t"]
    drift = ttest_1samp(apart, 0)
    ratio = apart.var() / chance.var()
    wider = 2 * min(f.sf(ratio, len(names) - 1, len(names) - 1), f.cdf(ratio, len(names) - 1, len(names) - 1))

    def profile(grid: dict[str, Counts]) -> Counts:
        return np.stack([grid[n].sum(0).reshape(GROUPS, GROUP).sum(1) for n in names])

    def square(a: dict[str, Counts], b: dict[str, Counts]) -> float:
        gap = profile(a) - profile(b)
        return float((gap.sum(0) ** 2 / np.maximum((gap**2).sum(0), 1e-9)).sum())

    theirs_chi, ours_chi = square(us, them), square(us, again)
    correlation = np.corrcoef(profile(us).sum(0), profile(them).sum(0))[0, 1]
    rows = [
        ("spikes a recording, ours / theirs / ours again", " / ".join(f"{total[k].mean():,.1f}" for k in "uta")),
        ("mean relative difference, ours - theirs (t test)", f"{apart.mean():+.3%} (p = {drift.pvalue:.2f})"),
        ("spread of the relative difference, ours - theirs", f"{apart.std():.2%}, at most {np.abs(apart).max():.1%}"),
        ("the same between two seeds of ours", f"{chance.std():.2%}, at most {np.abs(chance).max():.1%}"),
        ("ratio of the variances (F test)", f"{ratio:.2f} (p = {wider:.2f})"),
        (f"profile over {GROUPS} channel groups: χ² of ours - theirs", _chi(theirs_chi, chi2.sf(theirs_chi, GROUPS))),
        ("the same between two seeds of ours", _chi(ours_chi, chi2.sf(ours_chi, GROUPS))),
        ("correlation of the profiles", f"{correlation:.5f}"),
    ]
    train, train_labels = counts(theirs / "fsdd_spikes_train.h5")
    reference = accuracy((train, train_labels), (them, labels))
    rows += [
        (f"accuracy: trained on theirs ({len(train):,}), tested on theirs", f"{reference:.1%}"),
        ("trained on theirs, tested on ours", f"{accuracy((train, train_labels), (us, labels)):.1%}"),
    ]
    if (ours / "ours_train.h5").exists():
        mine, mine_labels = counts(ours / "ours_train.h5")
        rows += [
            (f"trained on ours ({len(mine):,}), tested on ours", f"{accuracy((mine, mine_labels), (us, labels)):.1%}"),
            ("trained on ours, tested on theirs", f"{accuracy((mine, mine_labels), (them, labels)):.1%}"),
        ]
    text = f"""\
        The {len(names)} test recordings of the Free Spoken Digit Dataset (index 0-4), encoded here and by the public
        encoder (spikes that came with the data; CC BY-SA 4.0, not SHD). No constant was fitted (docs/signals.md).
        Tests: the relative difference of the number of spikes of a recording, its mean by a t test, its spread against
        that between two seeds of ours by an F test; the number of spikes of each channel group, χ² = Σ (sum of the
        differences)² / sum of squared differences, {GROUPS} degrees of freedom. The classifier is logistic regression
        (C = 0.01) on standardised square roots of counts in {BINS} equal parts of a recording × {GROUPS} groups.
    """
    lines = ["# Sound to spikes, against the public encoder", "", *wrap(text), ""]
    lines += ["| what | value |", "|---|--:|", *(f"| {what} | {value} |" for what, value in rows), ""]
    lines += wrap(
        f"`{command()}`, {today()}, commit {commit()}, {machine()}; `benchmarks/audio.py` says how the spikes "
        "were made."
    )
    write_atomic(out, "\n".join(lines) + "\n")
    typer.echo("\n".join(lines))


def _chi(value: float, chance: float) -> str:
    return f"{value:.0f} (p = {chance:.2f})"


if __name__ == "__main__":
    typer.run(main)
