"""Which button does what in each state, and that no two ends look alike (no window)."""

from __future__ import annotations

import itertools

import pytest

from so8t_studio.jobs.state import FINAL, JobState, Phase, phase_word
from so8t_studio.pages.train import job_card, runs_model
from so8t_studio.pages.train.controls import buttons_for, duration


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_its_buttons(phase):
    found = buttons_for(JobState(phase))
    assert found.start == (phase in FINAL), "a new run starts only when no process lives"
    assert found.pause == (phase is Phase.RUNNING)
    assert found.resume == (phase is Phase.PAUSED)
    assert found.stop == (phase in (Phase.QUEUED, Phase.STARTING, Phase.RUNNING, Phase.PAUSED))
    assert found.kill == (phase not in FINAL and phase is not Phase.QUEUED)


def test_a_pause_that_is_not_confirmed_yet_cannot_be_asked_for_again():
    state = JobState(Phase.RUNNING, pause_requested=True)
    assert not buttons_for(state).pause and buttons_for(state).stop


def test_no_two_states_look_alike():
    for signs in (job_card.SIGNS, runs_model.SIGNS):
        assert len(set(signs.values())) == len(signs)
    words = [phase_word(phase) for phase in Phase]
    assert len(set(words)) == len(words)
    ends = [Phase.DONE, Phase.CANCELLED, Phase.FAILED, Phase.CRASHED]
    assert set(job_card.SIGNS) == set(Phase)
    for one, other in itertools.combinations(ends, 2):
        if {one, other} != {Phase.FAILED, Phase.CRASHED}:
            assert job_card.TOKENS[one] != job_card.TOKENS[other]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (260_000, "3 d 0 h"),
     (-5, "0 s")],
)  # fmt: skip
def test_times_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words
