"""polarindex for ann-benchmarks: copy this folder to ann_benchmarks/algorithms/polarindex/ of that project."""

import polarindex as pi

from ..base.module import BaseANN

METRICS = {"angular": "cosine", "euclidean": "l2"}


def found(ids):
    """The ids without -1, which says that the lists looked into held no more rows."""
    return ids[ids >= 0]


class PolarIndex(BaseANN):
    """What flat index and inverted file share: queries on one thread, batches on all."""

    def __init__(self, metric, method_param):
        if metric not in METRICS:
            raise NotImplementedError(f"polarindex is set up for {', '.join(METRICS)} here; got {metric}")
        self.metric = METRICS[metric]
        self.param = method_param
        self.search = {}
        self.name = self._name()

    def fit(self, X):
        self.index = self._empty(X.shape[1])
        self.index.fit(X)
        self.index.add(X)
        self.index.search(X[:1], 10, num_threads=1)  # makes the form of the lists that single queries want

    def query(self, v, n):
        return found(self.index.search(v, n, num_threads=1, **self.search)[1])

    def batch_query(self, X, n):
        self.res = [found(ids) for ids in self.index.search(X, n, **self.search)[1]]

    def get_additional(self):
        return {"bytes_per_vector": self.index.bytes_per_vector, "bytes": self.index.nbytes}

    def done(self):
        self.index = None

    def _name(self):
        facts = {**self.param, **self.search}
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in facts.items())})"


class PolarFlat(PolarIndex):
    def _empty(self, dim):
        return pi.FlatIndex(dim, self.metric, self.param["bits"], store=self.param["store"])

    def set_query_arguments(self, rerank):
        self.search = {"rerank": rerank} if rerank else {}
        self.name = self._name()


class PolarIVF(PolarIndex):
    def _empty(self, dim):
        known = ("nlist", "bits", "store", "spill")
        options = {name: self.param[name] for name in known if name in self.param}
        return pi.IVFIndex(dim, self.metric, **options)

    def set_query_arguments(self, nprobe, rerank):
        self.search = {"nprobe": min(nprobe, self.index.nlist)} | ({"rerank": rerank} if rerank else {})
        self.name = self._name()
