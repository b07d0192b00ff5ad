"""Import and export."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from elmnet.cli.output import say
from elmnet.errors import CheckpointError, ConfigError
from elmnet.files import ending, write_atomic

TOLERANCE = 1e-4
"""Largest difference of an exported network's outputs in float32, relative where they exceed 1, that passes."""


class Format(StrEnum):
    """What `elmnet export` can write."""

    onnx = "onnx"
    torch_export = "torch-export"
    c = "c"
    eqx = "eqx"
    nir = "nir"


ENDINGS = {".onnx": Format.onnx, ".pt2": Format.torch_export, ".h": Format.c, ".hpp": Format.c, ".eqx": Format.eqx}


def import_(
    source: Annotated[Path, typer.Argument(help=".pt, .pth or .eqx beside its model_config.json", metavar="SOURCE")],
    path: Annotated[Path, typer.Option("--out", help="directory for the network", metavar="DIR")],
) -> None:
    """Convert a checkpoint of another implementation: the first ELM neuron, or the authors' ELM Network."""
    from elmnet.interop import import_checkpoint

    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(f"{path} is not an empty directory; choose another --out")
    network = import_checkpoint(source)
    network.save_pretrained(path)
    layers = ", ".join(f"{layer.units} × d_m {layer.neuron.memory}" for layer in network.config.stack)
    say(f"{path}: {layers}, P {network.count_parameters():,}")


def export(
    source: Annotated[Path, typer.Argument(help="a run, or a directory with a saved network", metavar="RUN|DIR")],
    path: Annotated[Path, typer.Option("--out", help="the file to write", metavar="FILE")],
    format_: Annotated[Format | None, typer.Option("--format", help="default: by the file's ending")] = None,
    sequence: Annotated[bool, typer.Option("--sequence", help="whole sequences instead of single steps")] = False,
    length: Annotated[int | None, typer.Option(help="torch-export: time steps of the sequences")] = None,
) -> None:
    """Write a network for other runtimes: ONNX and C (both run and compared), torch.export, the authors' Equinox."""
    format_ = _format(path, format_)
    if format_ is Format.nir:
        raise ConfigError("NIR's primitives hold no ReLU² and no tanh to build the neuron from: see docs/interop.md")
    if sequence and format_ is Format.torch_export and length is None:
        raise ConfigError("torch-export unrolls sequences of one length: give --length")
    if length is not None and not (sequence and format_ is Format.torch_export):
        raise ConfigError("--length goes with --format torch-export --sequence")
    if sequence and format_ is Format.c:
        raise ConfigError("a C header holds one step, to be called again and again: leave out --sequence")
    if sequence and format_ is Format.eqx:
        raise ConfigError("an .eqx file holds weights, no graph: leave out --sequence")
    from elmnet.tasks.standard import Standard

    network, facts = _network(source)
    standard, note = Standard.of(facts), ""
    if format_ is Format.onnx:
        from elmnet.interop.graphs import check_onnx, export_onnx

        aside = path.with_name(f".{path.name}.tmp")
        try:
            export_onnx(network, aside, sequence=sequence, standard=standard)
            difference = check_onnx(network, aside, standard=standard)
            if not difference < TOLERANCE:
                raise CheckpointError(f"{path} differed from elmnet by {difference:.1e} in ONNX Runtime; not written")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        note = f", differs from elmnet by at most {difference:.1e} in ONNX Runtime (20 random steps)"
    elif format_ is Format.torch_export:
        from elmnet.interop.graphs import export_torch

        export_torch(network, path, steps=length, standard=standard)
    elif format_ is Format.c:
        from elmnet.interop.c import check_c, export_c

        with tempfile.TemporaryDirectory() as place:
            aside = Path(place) / path.name  # names in the header are the file's
            export_c(network, aside, standard=standard)
            found = check_c(network, aside, standard=standard)
            if found is not None and not found < TOLERANCE:
                raise CheckpointError(f"{path} differed from elmnet by {found:.1e} when compiled; not written")
            write_atomic(path, aside.read_bytes())
        note = ", not compiled: no C compiler is here"
        if found is not None:
            note = f", differs from elmnet by at most {found:.1e} when compiled (20 random steps)"
    else:
        from elmnet.interop.equinox import write_network

        write_network(network, path)
        note = f" and {path.with_name('model_config.json')}"
        if "target_scale" in facts:
            note += "; it takes and gives standardised numbers: mean and scale stand in the run's config.yaml"
    say(f"{path}{note}")


def _format(path: Path, asked: Format | None) -> Format:
    """What to write: as asked, or as the file's ending says, which must agree."""
    said = ENDINGS.get(ending(path))
    if said is None and asked is None:
        raise ConfigError(f"--out {path}: name the format by the ending, {', '.join(ENDINGS)}, or by --format")
    if None not in (said, asked) and said is not asked:
        raise ConfigError(f"--out {path} has the ending of {said}, --format asks for {asked}")
    return asked or said or Format.onnx


def _network(source: Path) -> Any:
    """A run's best network and the facts of its data, or the one saved in a directory and none."""
    from elmnet import models
    from elmnet.network import ELMNetwork
    from elmnet.train.run import RunDirectory

    facts: dict[str, Any] = {}
    if (source.parent / "config.yaml").is_file() and source.resolve() == RunDirectory(source.parent).best.resolve():
        source = source.parent  # which knows how the data were standardised
    if (source / "config.yaml").is_file():
        run = RunDirectory.open(source)
        (_, facts), network = run.read_config(), run.best_network()
    else:
        network = models.load(source)
    if not isinstance(network, ELMNetwork):
        raise ConfigError(f"{source} holds a {models.kind_of(network.config)}; only ELM networks can be exported")
    return network, facts
