"Step the game: what the notebook does not show, and an update in a real browser"
import asyncio
import copy

import pytest

from browser import cell_errors, console_errors, messages_within, pixels, runs_quietly, screenshot, too_wide, wait_for_change, wait_idle, widgets


@pytest.fixture
def game():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.game import Game
    return Game()


def test_play_stops_when_paused_when_nobody_is_there_and_when_another_game_plays(game):
    async def play():
        game.speed.value = 0.
        game.play.click()
        assert game.play.description == 'pause' and game.ticker.on
        while game.match.taken < 3: await asyncio.sleep(.01)
        game.play.click()
        paused = game.match.taken
        await asyncio.sleep(.2)
        assert (game.match.taken, game.play.description) == (paused, 'play')
        game.ticker.patience = 4
        game.play.click()
        while game.ticker.on: await asyncio.sleep(.01)
        assert (game.match.taken, game.play.description) == (paused + 4, 'play')
        game.ticker.patience = 500
        game.play.click()
        game.regime.value = 'X-Seq'      # a new match is not played on its own
        assert not game.ticker.on and game.match.taken == 0
        game.play.click()
        other = type(game)()
        other.play.click()
        assert other.ticker.on and not game.ticker.on
        other.ticker.stop()
    asyncio.run(play())


def test_without_an_event_loop_play_says_so(game):
    game.play.click()
    assert isinstance(game.fault, RuntimeError) and game.play.description == 'play'
    game.one.click()
    assert game.fault is None and game.match.taken == 2


def test_an_error_in_an_update_frees_the_buttons_and_stops_nothing_else(game, monkeypatch):
    monkeypatch.setattr(game.match, 'update', lambda name: 1/0)
    game.ten.click()
    assert isinstance(game.fault, ZeroDivisionError) and not game.ten.disabled
    monkeypatch.undo()
    game.ten.click()
    assert game.fault is None and game.match.taken == 20


def test_looking_and_playing_leave_shipped_weights_and_other_random_numbers_alone(game):
    import torch
    from crossview_nb.explore.game import Game
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    before = copy.deepcopy(Game().match.regime.state_dict())
    for control in (game.one, game.ten, game.again): control.click()
    game.start.value = 'untrained'
    assert torch.equal(torch.rand(3), expected)
    game.start.value = 'trained'
    assert all(torch.equal(value, before[name]) for name, value in game.match.regime.state_dict().items())


def test_one_update_in_the_browser(page):
    runs_quietly(page, 'nbs/explore/01_step_the_game.ipynb')
    stage = widgets(page).first
    fake, verdicts = stage.locator('img').nth(2), stage.locator('img').nth(4)
    screenshot(page, 'game-stage', of=stage)
    before, judged = pixels(page, fake), pixels(page, verdicts)
    stage.get_by_role('button', name='D', exact=True).click()
    wait_for_change(page, verdicts, judged)
    wait_idle(page)
    assert pixels(page, fake) == before and 'the picture stayed' in stage.inner_text()
    stage.get_by_role('button', name='G', exact=True).press('Enter')                 # the keyboard does what the mouse does
    wait_for_change(page, fake, before)
    stage.get_by_label('regime').select_option('X-Seq')
    wait_idle(page)
    for name in ('D2', 'G2'): stage.get_by_role('button', name=name, exact=True).click()
    stage.get_by_text('G2 left feedback').wait_for()
    wait_idle(page)
    screenshot(page, 'game-seq', of=stage)
    before = pixels(page, fake)
    stage.get_by_role('button', name='play').click()
    wait_for_change(page, fake, before)
    stage.get_by_role('button', name='pause').click()
    stage.get_by_role('button', name='play').wait_for()                              # the kernel has heard it
    wait_idle(page)
    assert messages_within(page, 1.) == 0 and not too_wide(page)
    assert not cell_errors(page) and not console_errors(page)
    screenshot(page, 'game')
