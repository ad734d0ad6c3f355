"Watch it learn: what the notebook does not show, and a training in a real browser"
import asyncio
import math
import re

import pytest

from browser import cell_errors, console_errors, messages_within, pixels, runs_quietly, screenshot, too_wide, wait_for_change, wait_idle, widgets


@pytest.fixture
def learning():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.learning import Learning
    return Learning()


def test_training_pauses_goes_on_and_stops_by_itself(learning):
    async def train():
        learning.start.click()
        assert learning.start.disabled and not learning.pause.disabled
        while learning.lesson.taken < 3: await asyncio.sleep(.01)
        learning.lambda_l1.value = 5          # while it runs: the same lesson, other weights
        assert learning.ticker.on and learning.lesson.regime.config.lambda_l1 == 5
        learning.pause.click()
        paused = learning.lesson.taken
        await asyncio.sleep(.2)
        assert learning.lesson.taken == paused and not learning.start.disabled
        learning.ticker.patience = 12
        learning.start.click()
        while learning.ticker.on: await asyncio.sleep(.01)
        assert learning.lesson.taken == paused + 12 and 'Stopped by itself' in learning.status.value
        learning.ticker.patience = 500
        learning.start.click()
        learning.regime.value = 'X-Pix2pix'   # another lesson does not begin on its own
        assert not learning.ticker.on and learning.lesson.taken == 0
    asyncio.run(train())


def test_a_training_that_breaks_stops_and_says_so(learning):
    import torch
    async def train():
        with torch.no_grad(): next(learning.lesson.regime.G.parameters()).fill_(math.nan)
        learning.start.click()
        while learning.ticker.on: await asyncio.sleep(.01)
    asyncio.run(train())
    assert learning.lesson.taken == 1 and 'Broken' in learning.line.value and learning.fault is None
    learning.again.click()
    learning.twenty.click()
    assert learning.lesson.taken == 20 and 'Broken' not in learning.line.value


def test_all_knobs_at_their_ends(learning):
    learning.regime.value = 'X-Seq'
    for end in ('min', 'max'):
        for knob in (learning.lambda_l1, learning.lambda_grads): knob.value = getattr(knob, end)
        learning.learning_rate.value = learning.learning_rate.base**getattr(learning.learning_rate, end)
        learning.twenty.click()
        assert learning.fault is None
    assert learning.lesson.taken == 40


def test_without_an_event_loop_start_says_so(learning):
    learning.start.click()
    assert isinstance(learning.fault, RuntimeError) and not learning.start.disabled


def test_the_timeline_plays_to_its_end_and_again():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.learning import Scrubber
    film = Scrubber()
    film.ticker.seconds = 0
    async def play():
        last = len(film.story.iterations) - 1
        for begin in (last, last - 2):
            film.moment.value = begin
            film.play.click()
            assert film.moment.value == begin % last and film.play.description == 'pause'
            while film.ticker.on: await asyncio.sleep(.01)
            assert film.moment.value == last and film.play.description == 'play'
        film.moment.value = 0
        film.play.click()
        film.play.click()
        await asyncio.sleep(.1)
        assert film.moment.value == 0 and film.fault is None
    asyncio.run(play())


def test_training_in_the_browser(page):
    runs_quietly(page, 'nbs/explore/02_watch_it_learn.ipynb')
    stage, timeline = widgets(page).nth(0), widgets(page).nth(1)
    fake = stage.locator('img').first
    before = pixels(page, fake)
    stage.get_by_role('button', name='start', exact=True).click()
    wait_for_change(page, fake, before)
    stage.get_by_text('it stops by itself in').wait_for()
    weight = stage.get_by_role('slider').first                                   # λ, while it runs
    for _ in range(5): weight.press('ArrowLeft')
    before = pixels(page, fake)
    wait_for_change(page, fake, before)
    stage.get_by_role('button', name='pause').click()
    page.wait_for_function('button => !button.disabled', arg=stage.get_by_role('button', name='start', exact=True).element_handle())
    wait_idle(page)
    assert messages_within(page, 1.) == 0
    taken = re.search(r'Paused after step (\d+)', stage.inner_text())[1]          # all parts show the same step, although clicks come in another thread
    assert f'after {taken} steps' in stage.inner_text() and f'Step {taken}.' in stage.inner_text()
    screenshot(page, 'learning-stage', of=stage)
    moment, picture = timeline.get_by_role('slider').first, timeline.locator('img').nth(1)
    before = pixels(page, picture)
    moment.press('ArrowLeft')
    wait_for_change(page, picture, before)
    wait_idle(page)
    screenshot(page, 'learning-timeline', of=timeline)
    assert not too_wide(page) and not cell_errors(page) and not console_errors(page)
