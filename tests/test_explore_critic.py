"Patch critic: what the notebook does not show, and one click in a real browser"
import pytest

from browser import cell_errors, console_errors, messages_within, pixels, runs_quietly, screenshot, too_wide, wait_for_change, wait_idle, widgets


@pytest.fixture(scope='module')
def stage():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.critic import PatchCritic
    return PatchCritic()


def test_every_pixel_of_every_depth_leads_to_a_patch_that_shows_it(stage):
    from crossview_nb.explore.critic import patch_frame, verdict_at
    for n in range(1, 5):
        for pixel in range(64):
            left, _, side = patch_frame(n, verdict_at(pixel, n), 0)
            assert left <= pixel < left + side


def test_a_drag_counts_where_it_ends(stage):
    stage.depth.value = 3
    stage.parts['fake'][1].pointed.stroke = [1, [3, 3], [30, 3], [60, 62]]
    assert (stage.across.value, stage.down.value) == (5, 5)
    assert stage.aerial.pointed.frame == stage.parts['real'][0].pointed.frame == [17., 17., 47., 47.]


def test_random_numbers_of_others_are_left_alone():
    import torch
    from crossview_nb.explore.critic import load_critic
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    for n in range(1, 5): load_critic(n)
    assert torch.equal(torch.rand(3), expected)


def test_an_error_is_shown_and_the_stage_goes_on(stage, monkeypatch):
    monkeypatch.setattr(stage, 'tell', lambda inside: 1/0)
    stage.place.value = 4
    assert isinstance(stage.fault, ZeroDivisionError) and 'division by zero' in stage.status.value
    monkeypatch.undo()
    stage.place.value = 3
    assert stage.fault is None and 'A patch of' in stage.status.value


def test_a_click_chooses_the_patch_and_its_reason(page):
    runs_quietly(page, 'nbs/explore/05_patch_critic.ipynb')
    stage = widgets(page).last
    glass, why = stage.locator('canvas').nth(3), stage.locator('img.widget-image').last    # on the imagined street; its gradient
    before, framed = pixels(page, why), pixels(page, glass)
    glass.click(position=dict(x=10, y=180))
    wait_for_change(page, why, before)
    wait_for_change(page, glass, framed)
    wait_idle(page)
    screenshot(page, 'critic-stage', of=stage)
    before = pixels(page, why)
    stage.get_by_role('slider').nth(1).press('ArrowLeft')                                  # the depth, by the keyboard
    wait_for_change(page, why, before)
    stage.get_by_text('A patch of 16 by 16 pixels').wait_for()
    screenshot(page, 'critic-depth', of=stage)
    wait_idle(page)
    assert messages_within(page, 1.) == 0 and not too_wide(page)
    assert not cell_errors(page) and not console_errors(page)
    screenshot(page, 'critic')
