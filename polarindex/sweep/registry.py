"""The public data sets of ann-benchmarks.com that are known by name: one table.

Law:       a file has 4 bytes a coordinate, 800 a query (100 neighbours and distances) and 8,288 of HDF5.
Checksums: those that at least two independent publications agree on. `None`: there is none such, and the
           first download's own is recorded instead (download.py).
Not here:  how a file is fetched (download.py) or read (hdf5.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteDataset:
    """One data set that can be downloaded."""

    name: str
    metric: str  # "l2" | "ip" | "cosine"
    rows: int
    dim: int
    queries: int
    size: int | None  # bytes of the file; None: not known exactly
    sha256: str | None

    @property
    def filename(self) -> str:
        return f"{self.name}.hdf5"

    @property
    def url(self) -> str:
        return f"https://ann-benchmarks.com/{self.filename}"


_TABLE = (
    RemoteDataset("fashion-mnist-784-euclidean", "l2", 60_000, 784, 10_000, 227_528_288, None),
    RemoteDataset("mnist-784-euclidean", "l2", 60_000, 784, 10_000, 227_528_288, None),
    RemoteDataset(
        "sift-128-euclidean", "l2", 1_000_000, 128, 10_000, 525_128_288,
        "dd6f0a6ed6b7ebb8934680f861a33ed01ff33991eaee4fd60914d854a0ca5984",
    ),
    RemoteDataset(
        "gist-960-euclidean", "l2", 1_000_000, 960, 1_000, 3_844_648_288,
        "8e95831936bfdbfa0a56086942e2cf98cd703517c67f985914183eb4cdbf026a",
    ),
    RemoteDataset(
        "glove-25-angular", "cosine", 1_183_514, 25, 10_000, 127_359_688,
        "51004cb0ae962159f0db507a51fec2b395de14b166f55976c89f16bd2f8b6391",
    ),
    RemoteDataset(
        "glove-50-angular", "cosine", 1_183_514, 50, 10_000, 246_711_088,
        "388b0aedc2dad689549e6587932c8c9efeaf8a95f383f36dc567a40233a11f40",
    ),
    RemoteDataset(
        "glove-100-angular", "cosine", 1_183_514, 100, 10_000, 485_413_888,
        "544af1d5e84e112cd4749571dcfd8ca109818a572f850af75a3a09e093a953c4",
    ),
    RemoteDataset(
        "glove-200-angular", "cosine", 1_183_514, 200, 10_000, 962_819_488,
        "4839085e5a8bb293434a1a66e1aa0193afc3f07c6797a85f1dbd91656172da20",
    ),
    RemoteDataset("nytimes-256-angular", "cosine", 290_000, 256, 10_000, 315_208_288, None),
    RemoteDataset(
        "deep-image-96-angular", "cosine", 9_990_000, 96, 10_000, 3_848_008_288,
        "a0a44dfe80c58e63860862eeea2d34e62cff958dc3aec14fd65263d1d3c751f8",
    ),
    # 64 factors, and a column that makes all norms equal: so a cosine search ranks by inner product
    RemoteDataset("lastfm-64-dot", "cosine", 292_385, 65, 50_000, None, None),
)  # fmt: skip

REGISTRY: dict[str, RemoteDataset] = {remote.name: remote for remote in _TABLE}
