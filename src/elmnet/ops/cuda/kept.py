"""The plans that were fastest when somebody tried (`elmnet.bench.cuda_tune`): one file for each GPU's name."""

import json
import logging
import re
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

from elmnet.errors import DataError
from elmnet.files import cache_directory, write_atomic
from elmnet.ops.cuda.plan import Limits, Plan, Regime, Sizes, laid

_log = logging.getLogger("elmnet")


def place(gpu: Limits) -> Path:
    """Where a GPU's plans are kept.

    Raises:
        DataError: the cache cannot be created.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-")
    return cache_directory() / "cuda-plans" / f"{name}.json"


@lru_cache
def kept(sizes: Sizes, gpu: Limits) -> Plan | None:
    """The plan that was fastest when these sizes were tuned; None: they never were, or it fits no longer."""
    stored = _read(gpu).get(_key(sizes))
    return None if stored is None else laid(sizes, gpu, **stored)


def keep(best: Plan, sizes: Sizes, gpu: Limits) -> None:
    """From now on `kept` answers this plan for these sizes.

    Raises:
        DataError: the cache cannot be created.
    """
    chosen = {"regime": best.regime, "block": best.block, "lanes": best.lanes, "warps": best.warps}
    plans = {**_read(gpu), _key(sizes): chosen}
    file = place(gpu)
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, json.dumps({"triton": metadata.version("triton"), "plans": plans}, indent=2) + "\n")
    kept.cache_clear()


def _key(sizes: Sizes) -> str:
    return " ".join(f"{name}={value}" for name, value in asdict(sizes).items())


def _read(gpu: Limits) -> dict[str, dict[str, Any]]:
    """One of another Triton's, or a damaged one, is as none."""
    try:
        file = place(gpu)
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["triton"] != metadata.version("triton"):
            return {}
        for plan in stored["plans"].values():
            if plan["regime"] not in get_args(Regime) or not all(
                type(plan[k]) is int for k in ("block", "lanes", "warps")
            ):
                raise ValueError(f"{plan} is no plan")
        return stored["plans"]  # type: ignore[no-any-return]
    except (FileNotFoundError, DataError, ImportError):  # the last: pooch, which knows where caches are
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("elmnet: %s is damaged and not used (%s); delete it, then tune again", file, error)
        return {}
