"""One way to drive each library: train, add, choose a setting, ask many queries or one.

Law:       an engine is asked as its documentation asks it, on one thread. What can be done before the clock runs (unit
           length, the shape of a query, setting a parameter) is done before. All settings have the library's own names.
Why:       libraries are imported where an engine is made, in a process of its own: OpenMP, BLAS and thread pools of
           several libraries do not share one process well.
Not here:  which engines and settings are measured (lists.py, codes.py); clocks and processes (worker.py)."""

from __future__ import annotations

import tempfile
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex.bench.data import Floats, K, unit
from polarindex.bench.plans import Setting

Size = tuple[float, str]  # bytes a vector, and whose count that is

HELD = "in memory"  # the library says what it holds
SAVED = "serialized"  # it does not: what it writes, over n

_WARM_ROWS = 8_192  # more than any nlist


class Missing(Exception):
    """The library, or the class of it that is wanted, is not installed."""


class Engine:
    """What the worker asks for.

    package, module : what is installed, and what is imported
    one_step : nothing is trained, or in the same call as rows are added
    """

    package = module = ""
    one_step = False

    @classmethod
    def library(cls) -> Any:
        """The module; ImportError or Missing where it is not there."""
        return import_module(cls.module)

    def __init__(self, dim: int, metric: str) -> None:
        self.dim, self.metric = dim, metric

    def rows(self, x: Floats) -> Floats:
        """Rows or queries as the library wants them; by inner product, cosine needs unit length."""
        return unit(x) if self.metric == "cosine" else x

    def singles(self, q: Floats) -> list[Any]:
        """Queries one by one, in the shape the library likes best."""
        return [q[at : at + 1] for at in range(len(q))]

    def warm_up(self, x: Floats) -> None:
        """What happens once on a machine and belongs to no build."""

    def train(self, x: Floats) -> None:
        """Learn what has to be learnt before rows are added."""

    def add(self, x: Floats) -> None:
        raise NotImplementedError

    def set(self, setting: Setting) -> None:
        raise NotImplementedError

    def many(self, q: Floats) -> Any:
        """Ids (nq, K) of the nearest; -1, or any other number that is no row, where there are fewer."""
        raise NotImplementedError

    def one(self, q: Any) -> Any:
        """Ids of the nearest to one of `singles`."""
        return self.many(q)

    def size(self) -> Size:
        raise NotImplementedError


class Polarindex(Engine):
    """IVFIndex. `rerank` originals a result are looked at, where there are any."""

    package = module = "polarindex"
    kind = "IVFIndex"

    @classmethod
    def library(cls) -> Any:
        found = super().library()
        if not hasattr(found, cls.kind):
            raise Missing(f"polarindex {found.__version__} has no {cls.kind}")
        return found

    def __init__(self, dim: int, metric: str, **build: Any) -> None:
        super().__init__(dim, metric)
        self.make = partial(getattr(self.library(), self.kind), dim, metric=metric, seed=0, **build)
        self.index = self.make()
        self.keywords: Setting = {}

    def rows(self, x: Floats) -> Floats:
        return x  # cosine is its own business

    def singles(self, q: Floats) -> list[Any]:
        return list(q)

    def warm_up(self, x: Floats) -> None:
        """Compile on a small index."""
        small = self.make()
        small.fit(x[:_WARM_ROWS])
        small.add(x[:_WARM_ROWS])
        small.search(x[:1], K, num_threads=1)

    def train(self, x: Floats) -> None:
        self.index.fit(x)

    def add(self, x: Floats) -> None:
        self.index.add(x)

    def set(self, setting: Setting) -> None:
        """`gap` is given in units of the mean squared distance of a row to its centroid."""
        self.keywords = dict(setting)
        if (gap := self.keywords.pop("gap", None)) is not None:
            unit = self.index.info()["centroid_distance"] * (1 if self.metric == "l2" else 0.5)
            self.keywords["gap"] = gap * unit

    def many(self, q: Floats) -> Any:
        return self.index.search(q, K, num_threads=1, **self.keywords)[1]

    def size(self) -> Size:
        return self.index.nbytes / len(self.index), HELD


class PolarindexFlat(Polarindex):
    """FlatIndex."""

    kind = "FlatIndex"


class Faiss(Engine):
    """Whatever index_factory makes; settings are ParameterSpace's."""

    package, module = "faiss-cpu", "faiss"

    def __init__(self, dim: int, metric: str, factory: str) -> None:
        super().__init__(dim, metric)
        self.faiss = self.library()
        self.faiss.omp_set_num_threads(1)
        by = self.faiss.METRIC_L2 if metric == "l2" else self.faiss.METRIC_INNER_PRODUCT
        self.index = self.faiss.index_factory(dim, factory, by)

    def train(self, x: Floats) -> None:
        self.index.train(x)

    def add(self, x: Floats) -> None:
        self.index.add(x)

    def set(self, setting: Setting) -> None:
        text = ",".join(f"{name}={value}" for name, value in setting.items())
        self.faiss.ParameterSpace().set_index_parameters(self.index, text)

    def many(self, q: Floats) -> Any:
        return self.index.search(q, K)[1]

    def size(self) -> Size:
        total = 0

        def count(part: bytes) -> None:
            nonlocal total
            total += len(part)

        writer = self.faiss.PyCallbackIOWriter(count)  # counted as it goes by: no second copy is made
        self.faiss.write_index(self.index, writer)
        del writer
        return total / self.index.ntotal, SAVED


class Rabitqlib(Engine):
    """IvfIndex over its own k-means; nbits=32 ranks the 1-bit codes' candidates by the rows themselves."""

    package = module = "rabitqlib"

    def __init__(self, dim: int, metric: str, nlist: int, nbits: int) -> None:
        super().__init__(dim, metric)
        self.nlist, self.nbits = nlist, nbits
        self.keywords: Setting = {}

    def train(self, x: Floats) -> None:
        """One list is around the mean."""
        self.means = x.mean(axis=0, keepdims=True), np.zeros(len(x), np.uint32)
        if self.nlist > 1:
            means = self.library().RaBitQKMeans(self.dim, self.nlist, num_threads=1)
            means.train(x)
            self.means = means.centroids, means.assignments

    def add(self, x: Floats) -> None:
        metric = "l2" if self.metric == "l2" else "ip"
        self.index = self.library().IvfIndex(
            dim=self.dim, max_elements=len(x), num_clusters=self.nlist, nbits=self.nbits, metric=metric
        )
        self.index.build(x, *self.means, num_threads=1)
        del self.means

    def set(self, setting: Setting) -> None:
        self.keywords = setting

    def many(self, q: Floats) -> Any:
        return self.index.search(q, k=K, num_threads=1, **self.keywords)[0]

    def size(self) -> Size:
        with tempfile.TemporaryDirectory() as folder:
            self.index.save(str(Path(folder) / "index"))
            return written(folder) / self.index.num_points, SAVED


class Scann(Engine):
    """Asymmetric hashing with 4 bits a block of dimensions; with leaves also a tree, and reordering by the rows."""

    package = module = "scann"
    one_step = True

    def __init__(self, dim: int, metric: str, dimensions_per_block: int, num_leaves: int = 0, **tree: Any) -> None:
        super().__init__(dim, metric)
        self.leaves, self.block, self.tree = num_leaves, dimensions_per_block, tree
        self.keywords: Setting = {}

    def singles(self, q: Floats) -> list[Any]:
        return list(q)

    def add(self, x: Floats) -> None:
        by_product = self.metric != "l2"
        builder = self.library().scann_ops_pybind.builder(x, K, "dot_product" if by_product else "squared_l2")
        builder = builder.set_n_training_threads(1)
        if self.leaves:
            builder = builder.tree(self.leaves, num_leaves_to_search=self.leaves // 10, **self.tree).reorder(100)
        threshold = 0.2 if by_product else float("nan")  # a loss for inner products: without effect on distances
        self.index = builder.score_ah(self.block, anisotropic_quantization_threshold=threshold).build()
        self.index.set_num_threads(1)
        self.n = len(x)

    def set(self, setting: Setting) -> None:
        self.keywords = setting

    def many(self, q: Floats) -> Any:
        return self.index.search_batched(q, final_num_neighbors=K, **self.keywords)[0]

    def one(self, q: Any) -> Any:
        return self.index.search(q, final_num_neighbors=K, **self.keywords)[0]

    def size(self) -> Size:
        with tempfile.TemporaryDirectory() as folder:
            self.index.serialize(folder)
            return written(folder) / self.n, SAVED


class Hnswlib(Engine):
    """The graph over float32 rows."""

    package = module = "hnswlib"
    one_step = True

    def __init__(self, dim: int, metric: str, M: int, ef_construction: int) -> None:
        super().__init__(dim, metric)
        self.index = self.library().Index(space="l2" if metric == "l2" else "ip", dim=dim)
        self.build: dict[str, int] = {"M": M, "ef_construction": ef_construction}

    def add(self, x: Floats) -> None:
        self.index.init_index(max_elements=len(x), random_seed=0, **self.build)
        self.index.set_num_threads(1)
        self.index.add_items(x, num_threads=1)

    def set(self, setting: Setting) -> None:
        self.index.set_ef(setting["ef"])

    def many(self, q: Floats) -> Any:
        return self.index.knn_query(q, K, num_threads=1)[0]

    def size(self) -> Size:
        return self.index.index_file_size() / self.index.get_current_count(), SAVED


class Turbovec(Engine):
    """TurboQuantIndex, which knows inner products only."""

    package = module = "turbovec"
    one_step = True

    def __init__(self, dim: int, metric: str, bits: int) -> None:
        super().__init__(dim, metric)
        if metric == "l2":
            raise ValueError("it has no squared distances")
        if dim % 8:
            raise ValueError(f"it wants a multiple of 8 dimensions, not {dim}")
        self.index = self.library().TurboQuantIndex(dim=dim, bit_width=bits)

    def add(self, x: Floats) -> None:
        self.index.add(x)
        self.index.prepare()
        self.n = len(x)

    def set(self, setting: Setting) -> None:
        """There is nothing to set."""

    def many(self, q: Floats) -> Any:
        return self.index.search(q, K)[1]

    def size(self) -> Size:
        return len(self.index.to_bytes()) / self.n, SAVED


class Usearch(Engine):
    """A scan of all rows, of a type that they are rounded to."""

    package = module = "usearch"
    one_step = True

    @classmethod
    def library(cls) -> Any:
        return import_module("usearch.index")

    def __init__(self, dim: int, metric: str, dtype: str, **graph: int) -> None:
        super().__init__(dim, metric)
        if dtype == "i8" and metric == "l2":
            raise ValueError("its int8 rows are scaled one by one, which loses the order of squared distances")
        by = "l2sq" if metric == "l2" else "ip"
        self.index = self.library().Index(ndim=dim, metric=by, dtype=dtype, **graph)

    def add(self, x: Floats) -> None:
        self.index.add(np.arange(len(x), dtype=np.uint64), x, threads=1)
        self.n = len(x)

    def set(self, setting: Setting) -> None:
        """There is nothing to set."""

    def many(self, q: Floats) -> Any:
        return self._found(q, exact=True)

    def size(self) -> Size:
        return self.index.serialized_length / self.n, SAVED

    def _found(self, q: Floats, exact: bool) -> Any:
        return np.asarray(self.index.search(q, K, threads=1, exact=exact).keys).reshape(len(q), -1)


class UsearchGraph(Usearch):
    """The graph; its `expansion_search` is what others call ef."""

    def set(self, setting: Setting) -> None:
        self.index.expansion_search = setting["expansion_search"]

    def many(self, q: Floats) -> Any:
        return self._found(q, exact=False)


ENGINES: dict[str, type[Engine]] = {
    "polarindex": Polarindex,
    "polarindex-flat": PolarindexFlat,
    "faiss": Faiss,
    "rabitqlib": Rabitqlib,
    "scann": Scann,
    "hnswlib": Hnswlib,
    "turbovec": Turbovec,
    "usearch": Usearch,
    "usearch-graph": UsearchGraph,
}


def written(folder: str) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def as_ids(found: list[Any]) -> NDArray[np.int64]:
    """(nq, K) int64 from one answer a query, of any shape; -1 where a library gave fewer."""
    ids = np.full((len(found), K), -1, np.int64)
    for row, answer in zip(ids, found, strict=True):
        flat = np.asarray(answer).ravel()[:K]
        row[: len(flat)] = flat
    return ids
