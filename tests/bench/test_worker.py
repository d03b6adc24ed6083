"""The conversation with an engine in a process of its own."""

from __future__ import annotations

from multiprocessing import Pipe
from threading import Thread

import numpy as np

from polarindex.bench.engines import Engine
from polarindex.bench.worker import serve


def test_an_engine_answers_every_setting_of_a_turn_until_the_pipe_closes():
    asked = []

    class Echo(Engine):
        def set(self, setting):
            self.first = setting["first"]

        def many(self, q):
            asked.append(len(q))
            return np.tile(np.arange(10), (len(q), 1)) + self.first

    ours, theirs = Pipe()
    thread = Thread(target=serve, args=(theirs, Echo(4, "l2"), np.zeros((150, 4), np.float32), 20))
    thread.start()
    for _ in range(2):
        ours.send([{"first": 5}, {"first": 7}])
        what, answers = ours.recv()
        assert what == "done"
        assert [answer.many_ids[0, 0] for answer in answers] == [5, 7]
        assert [answer.singles_ids.shape for answer in answers] == [(20, 10)] * 2
        assert all(answer.many_s >= 0 and answer.singles_s >= 0 for answer in answers)
    ours.send([{"wrong": 1}])
    assert ours.recv() == ("failed", "KeyError: 'first'")
    thread.join(10)
    assert not thread.is_alive()
    assert asked.count(150) == 4  # one that counts a setting and turn
