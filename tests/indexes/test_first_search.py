"""The first search of an index from many threads at once, each of which prepares what kernels read."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import polarindex as pi


def test_threads_that_search_a_new_inverted_file_first_agree(rng):
    """Each may make its own tables; none may be given back while a kernel reads them."""
    x = rng.standard_normal((3000, 32)).astype(np.float32)
    trained = pi.IVFIndex(32, nlist=40).fit(x)
    wanted = None
    for _ in range(8):
        index = pi.IVFIndex(32, nlist=40)
        index._take(trained._held.centroids)
        index.add(x)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _, index=index: index.search(x[:64], 5, num_threads=1), range(8)))
        wanted = wanted or answers[0]
        for distances, ids in answers:
            np.testing.assert_array_equal(ids, wanted[1])
            np.testing.assert_array_equal(distances, wanted[0])
