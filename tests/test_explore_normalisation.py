"Batch norm and dropout: what the notebook does not show, and one choice in a real browser"
import pytest

from browser import cell_errors, console_errors, messages_within, pixels, runs_quietly, screenshot, too_wide, wait_for_change, wait_idle, widgets


@pytest.fixture(scope='module')
def stage():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.normalisation import NormLab
    return NormLab()


def test_company_never_holds_a_place_twice():
    from crossview_nb.explore.normalisation import company
    for place in range(32):
        for draw in range(5):
            batch = company(place, 16, draw)
            assert batch[0] == place and len(set(batch)) == 16 and max(batch) < 32


def test_random_numbers_of_others_are_left_alone(stage):
    import torch
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    stage.dropout.value = True
    stage.again.click()
    stage.dropout.value = False
    assert torch.equal(torch.rand(3), expected)


def test_playing_leaves_no_trace(stage):
    "Back at the first state the picture is the first picture, whatever statistics were used in between"
    first = stage.pictures[2].picture
    for stage.norm.value in ('batch', 'running'):
        for stage.size.value in (1, 2, 16): pass
    assert (stage.pictures[2].picture == first).all() and stage.fault is None


def test_a_batch_of_one_blinds_the_generator(page):
    runs_quietly(page, 'nbs/explore/07_batch_norm_and_dropout.ipynb')
    stage = widgets(page).last
    imagined = stage.locator('img.widget-image').nth(2)
    before = pixels(page, imagined)
    stage.get_by_role('button', name="the batch's own").click()
    wait_for_change(page, imagined, before)
    stage.get_by_text('differ by').wait_for()
    wait_idle(page)
    screenshot(page, 'normalisation-16', of=stage)
    before = pixels(page, imagined)
    stage.get_by_role('button', name='1', exact=True).click()
    wait_for_change(page, imagined, before)
    stage.get_by_text('the generator is blind').wait_for()
    wait_idle(page)
    screenshot(page, 'normalisation-stage', of=stage)
    assert messages_within(page, 1.) == 0 and not too_wide(page)
    assert not cell_errors(page) and not console_errors(page)
