"""The libraries as they find most in few bytes, and what a row's code and factors take in each.

Law:       `row_bytes` counts what is stored for every row: codes, scales, shifts and other factors. No id, for everyone
           has ids of the same size or none, and nothing that all rows share: rotations, codebooks, means.
Why:       speed does not matter here, so FAISS's product and RaBitQ codes are searched by float tables and queries, not
           by fast scan's bytes.
Not here:  which codes (equal_plans.py); the engines as they are timed (polarindex/bench/engines.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.equal_plans import Cell, turbovec_bytes
from polarindex.bench import engines
from polarindex.bench.data import Floats, K

_FIT_ROWS = 20_000
_ID = 4  # bytes of rabitqlib's


class Ours(engines.PolarindexFlat):
    """FlatIndex with the most bits a coordinate of which a row takes no more bytes than a cell."""

    def __init__(self, dim: int, metric: str, cell: tuple[int, int], seed: int = 0, **build: Any) -> None:
        engines.Engine.__init__(self, dim, metric)
        self.cell, self.build = Cell(*cell), {"dim": dim, "metric": metric, "seed": seed, **build}
        self.keywords = {"exact_scan": True}

    def train(self, x: Floats) -> None:
        """The cell's bits fit; more of them do where a code has less beside its bits than a plain one."""
        plane = self.dim / 8 if self._ring else 4 * -(-self.dim // 32)  # bytes of a bit a coordinate
        self.index = self._fitted(self.cell.bits, x)
        while more := self._more((self.cell.bytes - self.index.bytes_per_vector) / plane):
            wider = self._fitted(self.index.bits + more, x)
            if not self.index.bytes_per_vector < wider.bytes_per_vector <= self.cell.bytes:
                return
            self.index = wider

    @property
    def _ring(self) -> bool:
        """Whether bits are in a row, without planes of whole words."""
        return str(self.build.get("quantizer")).startswith("trellis")

    def _more(self, bits: float) -> float:
        """So many bits more, or the whole ones of them where a code has no others; none beyond its most."""
        spectral = self.build.get("codes") == "spectral"
        bits = min(bits, (4 if self._ring and not spectral else 8) - self.index.bits)
        return bits if spectral else int(bits)

    def _fitted(self, bits: float, x: Floats) -> Any:
        index = self.library().FlatIndex(**self.build, bits=bits)
        index.fit(x[:_FIT_ROWS])
        return index

    def set(self, setting: dict[str, Any]) -> None:
        """There is nothing to set."""

    @property
    def row_bytes(self) -> int:
        return int(self.index.bytes_per_vector)

    @property
    def bits(self) -> float:
        return float(self.index.bits)


class Faiss(engines.Faiss):
    """As the factory makes it, with float queries, and by squared distances.

    Those of rows of unit length have the order of cosines, and find more: on GloVe R10@10 .704 in place of .669
    for PQ20x8 by inner products, .754 in place of .726 for OPQ24_96,PQ24x8, .534 in place of .528 for 1-bit EDEN.
    """

    def __init__(self, dim: int, metric: str, factory: str) -> None:
        super().__init__(dim, "l2", factory)
        self.metric = metric
        # Below 128,000 numbers, as 60,000 rows of 2 are, k-means takes twelve times as long to find the same.
        self.faiss.cvar.distance_compute_blas_threshold = 20
        self.codes, self.maps = self.index, []
        if isinstance(self.index, self.faiss.IndexPreTransform):
            self.codes = self.faiss.downcast_index(self.index.index)
            chain = self.index.chain
            self.maps = [self.faiss.downcast_VectorTransform(chain.at(at)) for at in range(chain.size())]
        if hasattr(self.codes, "do_polysemous_training"):
            self.codes.do_polysemous_training = False  # orders centroids for filters by Hamming distance, for minutes
        if hasattr(self.codes, "qb"):
            self.codes.qb = 0

    def add(self, x: Floats) -> None:
        super().add(x)
        if isinstance(self.codes, self.faiss.IndexEDEN):
            away = self._mapped(x) - self.faiss.vector_to_array(self.codes.center)
            self.halves = np.einsum("ij,ij->i", away, away)[:, None] / 2

    def many(self, q: Floats) -> Any:
        """By decoded rows, where that is the ranking of the index's own search: it takes a tenth of the time."""
        kinds = self.faiss.IndexPQ, self.faiss.IndexScalarQuantizer, self.faiss.IndexEDEN
        if not isinstance(self.codes, kinds):
            return super().many(q)
        q, rows = self._mapped(q), self.codes.reconstruct_n(0, self.codes.ntotal)
        if not isinstance(self.codes, self.faiss.IndexEDEN):
            return self.faiss.knn(q, rows, K)[1]
        centre = self.faiss.vector_to_array(self.codes.center)  # <q - c, x^ - c> - |x - c|^2 / 2, in one product
        rows, q = np.hstack([rows - centre, -self.halves]), np.hstack([q - centre, np.ones((len(q), 1), np.float32)])
        return self.faiss.knn(q, rows, K, metric=self.faiss.METRIC_INNER_PRODUCT)[1]

    def _mapped(self, x: Floats) -> Floats:
        for own in self.maps:
            x = own.apply(x)
        return x

    @property
    def row_bytes(self) -> int:
        return int(self.codes.code_size)


class Rabitqlib(engines.Rabitqlib):
    @property
    def row_bytes(self) -> int:
        return int(self.size()[0]) - _ID


class Turbovec(engines.Turbovec):
    """Rows are filled up with zeros to a multiple of 8 coordinates; `calibrated` moves levels to where rows are."""

    def __init__(self, dim: int, metric: str, bits: int, calibrated: bool) -> None:
        super().__init__(-(-dim // 8) * 8, metric, bits)
        self.bits, self.calibrated = bits, calibrated

    def rows(self, x: Floats) -> Floats:
        return super().rows(np.pad(x, ((0, 0), (0, self.dim - x.shape[1]))))

    def train(self, x: Floats) -> None:
        if self.calibrated:
            self.index.calibrate(x[np.random.default_rng(0).permutation(len(x))[:_FIT_ROWS]])

    @property
    def row_bytes(self) -> int:
        return turbovec_bytes(self.dim, self.bits)


class Scann(engines.Scann):
    @property
    def row_bytes(self) -> int:
        return (-(-self.dim // self.block) + 1) // 2  # 4 bits a block


ENGINES: dict[str, type[engines.Engine]] = {
    "polarindex": Ours,
    "faiss": Faiss,
    "rabitqlib": Rabitqlib,
    "turbovec": Turbovec,
    "scann": Scann,
}
