"""What one setting is worth: runs with and without it, compared pair by pair.

Whatever else varies and can be shared is shared within a pair: the seed, the learning rate, the data. What that does to
both runs cancels in their difference; in two means it would not.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtr, stdtrit

from elmnet import models, tables
from elmnet.errors import ConfigError
from elmnet.scores import larger_is_better, leading
from elmnet.tables import Table
from elmnet.train.identity import deciding
from elmnet.train.results import Finished

SYMBOLS = ("model", "N", "d_m", "d_tree", "d_s", "k_e", "k_c", "P")
"""What a run may be told by besides its settings (`elmnet.models.Counts.by_symbol`)."""
FEW = 4
"""Settings of a network that are named one by one."""


@dataclass(frozen=True)
class Value:
    """What the runs of one value of the setting reach, and how much that is above what they are compared with."""

    value: Any
    reached: tuple[float, ...]
    """Score of every run."""
    differences: tuple[float, ...] = ()
    """Of every pair with a run of the value compared with."""
    unpaired: int = 0
    """Runs without a partner."""

    @property
    def mean(self) -> float:
        """Of all its runs."""
        return fmean(self.reached)

    @property
    def difference(self) -> float | None:
        """Mean over pairs; None without any."""
        return fmean(self.differences) if self.differences else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of that mean, 95 % by Student's t; None with fewer than two pairs."""
        count = len(self.differences)
        if count < 2:
            return None
        half = float(stdtrit(count - 1, 0.975)) * stdev(self.differences) / math.sqrt(count)
        return fmean(self.differences) - half, fmean(self.differences) + half

    @property
    def chance(self) -> float | None:
        """p of Student's t: how often a mean this far from 0, or farther, comes by chance where there is no difference;
        None with fewer than two pairs."""
        count = len(self.differences)
        if count < 2:
            return None
        mean, error = fmean(self.differences), stdev(self.differences) / math.sqrt(count)
        if not error:
            return 0.0 if mean else 1.0
        return float(2 * stdtr(count - 1, -abs(mean) / error))


@dataclass(frozen=True)
class Comparison:
    """Every value of a setting against one of them."""

    by: str
    against: Any
    score: str
    values: tuple[Value, ...]
    """The one compared with comes first, without differences."""
    shared: tuple[str, ...]
    """What varies among the runs and is the same in both of a pair."""
    along: tuple[str, ...]
    """What differs within pairs besides the setting, so that the difference is theirs, too."""
    without: int
    """Runs left out because their network has no such size."""

    @property
    def sense(self) -> str:
        """Which way is up."""
        return "more is better" if larger_is_better(self.score) else "less is better"

    def better(self, value: Value) -> int:
        """Pairs in which this value's run is the better one."""
        sign = 1 if larger_is_better(self.score) else -1
        return sum(sign * difference > 0 for difference in value.differences)

    @property
    def chances(self) -> tuple[float | None, ...]:
        """p of every value, by Holm's method: the more values there are, the more differ by chance. Where none differs,
        any of them is below 0.05 in at most 5 % of such comparisons."""
        raw = [one.chance for one in self.values]
        ordered = sorted((p, i) for i, p in enumerate(raw) if p is not None)
        found, least = list(raw), 0.0
        for rank, (p, i) in enumerate(ordered):
            found[i] = least = max(least, min(1.0, (len(ordered) - rank) * p))
        return tuple(found)

    def table(self) -> Table:
        """A row for every value."""
        columns = (self.by, "runs", self.score, "pairs", "difference", "95 % interval", "p", "better in")
        rows = []
        for i, (one, chance) in enumerate(zip(self.values, self.chances, strict=True)):
            pairs, mean, form = len(one.differences), one.difference, tables.digits(one.mean)
            rows.append(
                (
                    str(one.value),
                    tables.whole(len(one.reached)),
                    tables.score(one.mean),
                    tables.whole(pairs if i else None),
                    "" if mean is None else f"{mean:+{form}}",
                    tables.between(one.interval, f"+{form}"),
                    "" if chance is None else f"{chance:.4f}" if chance >= 1e-4 else "< 0.0001",
                    f"{self.better(one)} of {pairs}" if pairs else "",
                )
            )
        return Table(f"{self.score} ({self.sense}) by {self.by}, against {self.against}", columns, rows)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        values = [
            {
                **asdict(one),
                "mean": one.mean,
                "difference": one.difference,
                "interval": one.interval,
                "p": chance,
                "better": self.better(one),
            }
            for one, chance in zip(self.values, self.chances, strict=True)
        ]
        return {**asdict(self), "values": values}

    def remarks(self) -> Iterator[str]:
        """What the table's numbers rest on, in words."""
        inside = [fact for fact in self.shared if fact.startswith("model.")]
        named = [fact for fact in self.shared if fact not in inside or len(inside) <= FEW]
        named += [f"{len(inside)} settings of the network"] if len(inside) > FEW else []
        yield f"pairs share {', '.join(named)}" if named else "nothing that varies is the same in both of a pair"
        tested = sum(chance is not None for chance in self.chances)
        if tested > 1:
            yield f"p is adjusted for {tested} values compared (Holm); each interval stands by itself"
        if self.along:
            yield f"with {self.by} also differ: {', '.join(self.along)}"
        if self.without:
            count = self.without + sum(len(one.reached) for one in self.values)
            yield f"{self.without} of {count} runs have no {self.by}"
        for one in self.values[1:]:
            if one.unpaired:
                yield f"{one.unpaired} of {len(one.reached)} runs of {one.value} have no partner of {self.against}"


def compare(
    runs: Sequence[Finished],
    by: str,
    *,
    against: str | None = None,
    score: str | None = None,
    within: Sequence[str] | None = None,
) -> Comparison:
    """Compare what runs reach that differ in one setting.

    Args:
        runs: of one task; what stands there twice counts once.
        by: one of `SYMBOLS`, or the end of a setting's path: `learning_rate` of `training.learning_rate`.
        against: its value that the others are compared with; None: the first, in order.
        score: `valid_bpc`, `test_accuracy`, ...; None: that of the validation which stands for such runs.
        within: settings that both runs of a pair share; None: all that vary and have values in common. Several runs
            of one value that share them count as their mean.

    Raises:
        ConfigError: no runs; several tasks; a setting that does not exist or does not vary; a value or score that
            there is not.
    """
    if not runs:
        raise ConfigError("there is no finished run to compare")
    tasks = sorted({run.config.task for run in runs})
    if len(tasks) > 1:
        raise ConfigError(f"these runs are of several tasks, {', '.join(tasks)}; compare those of one")
    runs = list({_identity(run): run for run in runs}.values())
    score, reached = _scores(runs, score)
    told = [_facts(run) for run in runs]
    name = _named(by, told)
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, facts in enumerate(told):
        if facts.get(name) is not None or name not in SYMBOLS:
            groups[facts.get(name)].append(i)
    if len(groups) < 2:
        raise ConfigError(
            f"{by!r} is {next(iter(groups))} in all runs that have it; there is nothing to compare it with"
        )
    values = sorted(groups, key=lambda value: (value is not None, isinstance(value, str), value))
    first = values[0] if against is None else _value(against, values, name)
    fixed = None if within is None else [_named(one, told) for one in within]
    found = [Value(first, tuple(reached[i] for i in groups[first]))]
    shared: dict[str, None] = {}
    along: dict[str, None] = {}
    for value in values:
        if value == first:
            continue
        common, others = _shared(groups[first], groups[value], told, name)
        common = common if fixed is None else fixed
        keys = [tuple(facts.get(one) for one in common) for facts in told]
        found.append(_against(value, groups[first], groups[value], keys, reached))
        shared |= dict.fromkeys(common)
        along |= dict.fromkeys(one for one in others if one not in common)
    return Comparison(
        by, first, score, tuple(found), tuple(shared), tuple(along), len(runs) - sum(map(len, groups.values()))
    )


def _identity(run: Finished) -> str:
    """The same for a run in its directory and in a table: training is deterministic, so equal scores are one run's."""
    return repr((deciding(run.config), [sorted(run.scores[part].items()) for part in ("valid", "test")]))


def _scores(runs: Sequence[Finished], score: str | None) -> tuple[str, list[float]]:
    """The score's name, and what every run reached."""
    flat = [
        {f"{part}_{kind}": run.scores[part][kind] for part in ("valid", "test") for kind in run.scores[part]}
        for run in runs
    ]
    known = [name for name in flat[0] if all(name in one for one in flat)]
    if score is None:
        score = f"valid_{leading([name.removeprefix('valid_') for name in known if name.startswith('valid_')])}"
    if score not in known:
        have = f"they have {', '.join(known)}" if known else "they have no score in common"
        raise ConfigError(f"--score: not all of these runs have {score!r}; {have}")
    reached = [one[score] for one in flat]
    wrong = [run.name for run, value in zip(runs, reached, strict=True) if not math.isfinite(value)]
    if wrong:
        raise ConfigError(f"{score} of {', '.join(wrong[:3])} is no number, so no difference is; leave such runs out")
    return score, reached


def _facts(run: Finished) -> dict[str, Any]:
    """Everything that tells a run from others: its sizes by symbol, its settings by path."""
    model = run.config.model
    symbols = {"model": models.kind_of(model), **models.counts(model).by_symbol}
    return {**symbols, "data": run.contents or run.data, **dict(_flat(deciding(run.config)))}


def _flat(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by path, as `--set` takes them."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from _flat(value, f"{path}.{name}" if path else name)
    elif isinstance(settings, list) and any(isinstance(one, Mapping) for one in settings):
        for i, value in enumerate(settings):
            yield from _flat(value, f"{path}.{i}")
    else:
        yield path, tuple(settings) if isinstance(settings, list) else settings


def _named(name: str, told: Sequence[Mapping[str, Any]]) -> str:
    """The symbol or path that a user means."""
    known = list(dict.fromkeys(fact for facts in told for fact in facts))
    varied = [fact for fact in known if len({facts.get(fact) for facts in told}) > 1]
    meant = [fact for fact in known if fact == name] or [fact for fact in known if fact.endswith(f".{name}")]
    several = [fact for fact in meant if fact in varied]
    if len(several) == 1:
        return several[0]
    if several:
        raise ConfigError(f"{name!r} may be {', '.join(several)}; write one of them out")
    apart = [fact for fact in varied if fact in SYMBOLS or not fact.startswith("model.")] or varied
    differ = f"they differ in {', '.join(apart)}" if apart else "they do not differ at all"
    raise ConfigError(f"{name!r} is {'the same in all runs' if meant else 'no setting of these runs'}; {differ}")


def _value(text: str, values: Sequence[Any], name: str) -> Any:
    """The value that a user means."""

    def same(value: Any) -> bool:
        if str(value).lower() == text.lower():
            return True
        try:
            return isinstance(value, int | float) and float(text) == value
        except ValueError:
            return False

    for value in values:
        if same(value):
            return value
    raise ConfigError(f"--against: {name} is {', '.join(map(str, values))} in these runs, never {text}")


def _shared(
    ours: Sequence[int], theirs: Sequence[int], told: Sequence[Mapping[str, Any]], name: str
) -> tuple[list[str], list[str]]:
    """What varies among two groups of runs: settings with values that both have, and what goes along with `name`."""
    shared, along = [], []
    for fact in dict.fromkeys(fact for i in (*ours, *theirs) for fact in told[i]):
        here, there = ({told[i].get(fact) for i in group} for group in (ours, theirs))
        if fact == name or len(here | there) == 1:
            continue
        if fact in SYMBOLS:
            along += [] if here & there else [fact]
        elif here & there:
            shared.append(fact)
        elif not fact.startswith("model."):  # those show in the symbols
            along.append(fact)
    return shared, along


def _against(
    value: Any, ours: Sequence[int], theirs: Sequence[int], keys: Sequence[tuple[Any, ...]], reached: Sequence[float]
) -> Value:
    """Runs of one value in pairs with those of another, where their keys are equal."""

    def means(group: Sequence[int]) -> dict[tuple[Any, ...], float]:
        found = defaultdict(list)
        for i in group:
            found[keys[i]].append(reached[i])
        return {key: fmean(scores) for key, scores in found.items()}

    before, after = means(ours), means(theirs)
    differences = tuple(after[key] - before[key] for key in after if key in before)
    return Value(value, tuple(reached[i] for i in theirs), differences, sum(keys[i] not in before for i in theirs))
