"""One thread for every library that is imported after this is said, here and in processes that are started later.

Why:       OpenMP, BLAS and rayon read these when they are loaded; so nothing is imported here that may load them."""

from __future__ import annotations

import os

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def one_thread() -> None:
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
