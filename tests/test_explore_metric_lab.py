"Metric lab: what the notebook does not show, and one lever in a real browser"
import math

import pytest

from browser import cell_errors, console_errors, messages_within, pixels, runs_quietly, screenshot, too_wide, wait_for_change, wait_idle, widgets


@pytest.fixture(scope='module')
def stage():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.metric_lab import MetricLab
    return MetricLab()


def test_the_untouched_street_has_no_error_at_any_place(stage):
    for stage.place.value in range(0, 32, 5):
        assert max(map(abs, stage.moved.values())) < 1e-3 and not stage.sentences
        assert math.isinf(stage.told['PSNR, standard']) and 88 < stage.told['PSNR, paper'] < 89
    stage.place.value = 0


def test_all_levers_at_their_ends(stage):
    for lever in stage.levers:
        lever.value = True if isinstance(lever.value, bool) else lever.max
        assert stage.fault is None and all(map(math.isfinite, stage.moved.values()))
        assert 'nan' not in stage.bars.plot.value
    stage.reset.click()
    assert max(map(abs, stage.moved.values())) < 1e-3


def test_the_same_noise_each_time_and_nobody_elses(stage):
    import torch
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    stage.noise.value = .1
    first = stage.pictures['fake'].picture
    stage.noise.value = 0
    stage.noise.value = .1
    assert (stage.pictures['fake'].picture == first).all() and torch.equal(torch.rand(3), expected)
    stage.reset.click()


def test_a_blurred_street(page):
    runs_quietly(page, 'nbs/explore/08_metric_lab.ipynb')
    stage = widgets(page).last
    copy = stage.locator('img.widget-image').nth(1)
    before = pixels(page, copy)
    stage.get_by_role('slider').nth(2).press('ArrowRight')     # blur, by the keyboard
    wait_for_change(page, copy, before)
    stage.get_by_text('The eye: hardly changed').wait_for()
    before = pixels(page, copy)
    stage.get_by_label('mirror').click()                       # by the mouse
    wait_for_change(page, copy, before)
    stage.get_by_text('The eye: the wrong way round').wait_for()
    wait_idle(page)
    screenshot(page, 'metric-lab-stage', of=stage)
    assert messages_within(page, 1.) == 0 and not too_wide(page)
    assert not cell_errors(page) and not console_errors(page)
