"""Three days and a million points; ``python -m pytest -m slow tests/pages/test_train_soak.py``."""

from __future__ import annotations

import pytest

from so8t_studio.pages.train.live_panel import LivePanel
from so8t_studio.theme import Theme
from so8t_studio.widgets.log_view import LIMIT
from tests.helpers.soak import DAYS_S, STEPS, soak


@pytest.mark.slow
def test_three_days_and_a_million_points_fit_and_none_is_lost(qtbot):
    Theme("light").apply()
    panel = LivePanel()
    qtbot.addWidget(panel)
    panel.resize(1072, 700)
    panel.show()
    found = soak(panel, frames=5)
    assert found.memory < 500 << 20, f"{found.memory >> 20} MiB"
    loss = panel.loss.history("train.loss")
    assert len(loss) == STEPS + 5 and loss.x[0] == 1
    assert len(panel.machine.use.history("gpu0")) == DAYS_S + 5
    assert len(panel.log.lines()) <= LIMIT
