"""polarindex info: what an index is, what it costs, and what would make it better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polarindex.cli import options

if TYPE_CHECKING:
    from polarindex.indexes.flat import FlatIndex
    from polarindex.indexes.ivf import IVFIndex

_WIDEST = 2048  # dimensions whose spectrum is computed: the time goes with their cube
_ROWS, _ROWS_A_DIM = 2048, 4  # that are looked at: so many, and so many times the dimensions
_TOGETHER = 1024
_MOST = 0.9  # of the energy


def info(index: options.Index, json: options.Json = False) -> None:
    """Show what an index is, what it takes, and what would make it better.

    The spectrum is that of a sample of the stored vectors, or of the decoded ones where none are stored: the fewer
    components have most of the energy, the less room it could take.
    """
    from polarindex.cli.advice import advice
    from polarindex.cli.labels import records_at
    from polarindex.cli.places import bytes_on_disk
    from polarindex.cli.screen import print_json
    from polarindex.indexes.opened import open as open_index

    held = open_index(index, read_only=True, mmap=True)
    facts = held.info()
    records = records_at(index)
    facts["path"], facts["bytes_on_disk"] = str(index), bytes_on_disk(index)
    facts["keys"] = None
    if records is not None:
        with records:
            facts["keys"] = len(records)
    facts["spectrum"] = spectrum = _spectrum(held) if len(held) and held.dim <= _WIDEST else None
    facts["advice"] = advice(facts, spectrum["components"] if spectrum else None)
    del facts["read_only"]
    if json:
        print_json(facts)
    else:
        _print(facts)


def _spectrum(index: FlatIndex | IVFIndex) -> dict[str, Any] | None:
    """How the energy of some rows, less their mean, is spread over components; None where there is none."""
    import numpy as np

    from polarindex.sweep.theory import spectrum

    count = min(len(index), max(_ROWS, _ROWS_A_DIM * index.dim))
    ids = np.sort(np.random.default_rng(index.seed).choice(index.ids, count, replace=False))
    parts = [index.reconstruct(ids[start : start + _TOGETHER]) for start in range(0, count, _TOGETHER)]
    mean = sum(part.sum(axis=0, dtype=np.float64) for part in parts) / count
    centred = [(part - mean).astype(np.float32) for part in parts]
    if not any(part.any() for part in centred):
        return None
    shares = np.cumsum(spectrum(centred, index.dim))
    first = {str(1 << power): float(shares[(1 << power) - 1]) for power in range(index.dim.bit_length())}
    components = int(np.searchsorted(shares, _MOST * shares[-1])) + 1
    of = "decoded" if index.store == "none" else "stored"
    return {"rows": count, "of": of, "share_of_energy_in_first": first, "components": components}


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from polarindex.cli.advice import listed_from, of_kind
    from polarindex.cli.screen import out, tell

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, value in _lines(facts).items():
        table.add_row(Text(name), Text(value))
    out().print(table)
    fewest = float(f"{listed_from(facts['dim']):.1g}")
    if facts["kind"] == "flat" and not of_kind(facts):
        tell(f"\na flat index is the right kind up to about {fewest:,.0f} rows of so many dimensions")
    for line in facts["advice"]:
        tell(f"\nadvice: {line}")


def _learned(facts: dict[str, Any]) -> str:
    """What is told of spectral codes."""
    if facts["codes"] == "plain":
        return ""
    found = facts["spectral"]
    if not found["learned"]:
        return ", spectral (not learned yet)"
    if found["segments"] is None:
        return ", spectral (where little is to be gained: plain ones)"
    widths = ", ".join(f"{dims} x {bits}" for dims, bits in found["segments"])
    now = f", now {100 * found['head_now']:.0f} %" if "head_now" in found else ""
    return f", spectral (axes x bits: {widths}; {100 * found['head_learned']:.0f} % of the energy in the first{now})"


def _words(facts: dict[str, Any]) -> str:
    if facts.get("factor_bits") != 16:
        return ""
    return ", short scales and shift" if facts.get("codes") == "spectral" else ", scale and shift in one word"


def _lines(facts: dict[str, Any]) -> dict[str, str]:
    megabytes = "{:,.1f} MB".format
    log = f"{megabytes(facts['log_bytes'] / 1e6)} of {facts['log_records']} syncs"
    lines = {
        "index": facts["path"],
        "kind": facts["kind"],
        "rows": f"{facts['n']:,}",
        "dimensions": f"{facts['dim']:,}",
        "metric": facts["metric"],
        "codes": f"{facts['quantizer']}, {facts['bits']} bits{_learned(facts)}{_words(facts)}, seed {facts['seed']}",
        "stored vectors": facts["store"],
        "bytes a vector": f"{facts['bytes_per_vector']:,.4g}, which are {facts['bits_per_dim']:.2f} bits a dimension",
        "in memory": megabytes(facts["nbytes"] / 1e6),
        "on disk": megabytes(facts["bytes_on_disk"] / 1e6),
        "log": log if facts["log_bytes"] else "none",
        "keys": "none" if facts["keys"] is None else f"{facts['keys']:,}",
    }
    if facts["kind"] == "ivf":
        tuned = "tuned" if facts["tuned"] else "not tuned"
        lines["lists"] = f"{facts['nlist']:,}, of which a search reads {facts['nprobe']:,} ({tuned})"
        lines["drift"] = "unknown" if facts["drift"] is None else f"{facts['drift']:.2f}"
        if facts["spill"]:
            lines["in two lists"] = f"{100 * facts['spilled']:.1f} % of the rows"
    elif facts["center_frozen"]:
        lines["centre"] = f"removes {100 * facts['energy_removed_by_center']:.1f} % of the energy"
    if facts["spectrum"]:
        found = facts["spectrum"]
        components = f"{found['components']:,} of {facts['dim']:,} components"
        lines["spectrum"] = f"90 % of the energy in {components} ({found['rows']:,} {found['of']} rows)"
    return lines
