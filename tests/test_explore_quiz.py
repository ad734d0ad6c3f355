"Real or imagined: what the notebook does not show, and a question answered in a real browser"
import asyncio
import time

import pytest

from browser import cell_errors, console_errors, messages_within, pixels, runs_quietly, screenshot, too_wide, wait_for_change, wait_idle, widgets


@pytest.fixture
def quiz():
    pytest.importorskip('anywidget')
    from crossview_nb.explore.quiz import RealOrImagined
    return RealOrImagined()


def hidden(quiz): return quiz.shown.picture.shape == (8, 8, 3)


def test_a_quick_look_ends_by_itself_or_with_the_answer(quiz):
    async def play():
        quiz.look.value = .5
        begin = time.monotonic()
        assert quiz.ticker.on and not hidden(quiz)
        while quiz.ticker.on: await asyncio.sleep(.01)
        assert hidden(quiz) and time.monotonic() - begin >= .5
        assert quiz.at == 0 and quiz.said['you'] == [] and 'Question 1' in quiz.status.value
        quiz.real.click()
        assert not hidden(quiz) and not quiz.ticker.on          # the answer shows the picture again
        quiz.look.value = 1.
        assert not quiz.ticker.on                               # an answered question needs no hiding
        quiz.next.click()
        assert quiz.ticker.on and not hidden(quiz)
        quiz.imagined.click()                                   # quicker than the look
        assert not quiz.ticker.on
        await asyncio.sleep(1.2)
        assert not hidden(quiz)
        quiz.next.click()
        quiz.look.value = 0.
        assert not quiz.ticker.on and not hidden(quiz)
    asyncio.run(play())
    assert quiz.fault is None


def test_a_new_look_starts_its_time_anew_and_a_new_round_forgets_the_old_one(quiz):
    async def play():
        quiz.look.value = .5
        await asyncio.sleep(.3)
        quiz.again.click()
        await asyncio.sleep(.3)
        assert quiz.ticker.on and not hidden(quiz)
        other = type(quiz)()
        other.look.value = 2.
        assert not quiz.ticker.on and other.ticker.on           # one stage at a time
        other.ticker.stop()
    asyncio.run(play())


def test_without_an_event_loop_a_quick_look_says_so_and_the_round_goes_on(quiz):
    quiz.look.value = 1.
    assert isinstance(quiz.fault, RuntimeError) and not hidden(quiz)
    quiz.real.click()
    assert quiz.fault is None and quiz.said['you'] == [True]


def test_seeds_out_of_range_are_brought_into_it_and_the_last_one_is_followed_by_the_first(quiz):
    quiz.seed.value = -5
    assert quiz.seed.value == 0
    quiz.seed.value = 10**6
    assert quiz.seed.value == 9999
    quiz.again.click()
    assert quiz.seed.value == 0 and quiz.fault is None


def test_the_same_seed_gives_the_same_round_and_other_random_numbers_are_left_alone(quiz):
    import numpy as np
    import torch
    from crossview_nb.explore.quiz import forger_and_critic
    torch.manual_seed(3), np.random.seed(3)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(3), np.random.seed(3)
    forger_and_critic.cache_clear()
    again = type(quiz)()
    assert again.round == quiz.round and again.coin == quiz.coin
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(3) == expected[1]).all()


def test_before_the_answer_no_part_of_the_page_depends_on_it(quiz):
    told = {}
    for seed in range(8):
        quiz.seed.value = seed
        parts = [quiz.shown.heading, *quiz.other.children, quiz.source.heading, quiz.status, quiz.card, quiz.taken.plot, quiz.players.plot,
                 *(strip.image for strip in quiz.mistakes.values())]
        told[seed] = quiz.round[0].real, [part.value for part in parts]
    assert {real for real, _ in told.values()} == {True, False}
    assert all(values == told[0][1] for _, values in told.values())


def test_an_error_is_shown_and_the_stage_goes_on(quiz, monkeypatch):
    monkeypatch.setattr(quiz, 'lines', lambda: ['<b>'])
    quiz.size.value = 64
    assert '<b>' not in quiz.card.value and '&lt;b&gt;' in quiz.card.value
    monkeypatch.setattr(quiz, 'keep_score', lambda: 1/0)
    quiz.size.value = 320
    assert isinstance(quiz.fault, ZeroDivisionError) and 'division by zero' in quiz.status.value
    monkeypatch.undo()
    quiz.size.value = 192
    assert quiz.fault is None


def test_wilsons_interval_stays_within_bounds_and_holds_the_share():
    from crossview_nb.explore.quiz import wilson_interval
    for answers in range(1, 65):
        for hits in range(answers + 1):
            low, high = wilson_interval(hits, answers)
            assert 0 <= low <= hits/answers <= high <= 1 and high - low < 1
    assert wilson_interval(0, 0) == (0, 1)


def test_an_answer_reveals_and_the_next_question_follows(page):
    runs_quietly(page, 'nbs/explore/09_real_or_imagined.ipynb')
    stage = widgets(page).last
    shown, other = stage.locator('img.widget-image').nth(1), stage.locator('img.widget-image').nth(2)
    button = lambda name: stage.get_by_role('button', name=name, exact=True)
    stage.get_by_text('Question 1 of 64').wait_for()
    screenshot(page, 'quiz-waiting', of=stage)
    first, unseen = pixels(page, shown), pixels(page, other)
    button('imagined').focus()
    page.keyboard.press('Space')                                                          # as a player without a mouse would
    wait_for_change(page, other, unseen)
    stage.get_by_text('1 of 1').first.wait_for()
    assert pixels(page, shown) == first
    screenshot(page, 'quiz-answered', of=stage)
    button('next').click()
    wait_for_change(page, shown, first)
    stage.get_by_text('Question 2 of 64').wait_for()
    wait_idle(page)
    for turn in range(2, 15):
        button('real' if turn%3 else 'imagined').click()
        stage.get_by_text(f'of {turn} (').first.wait_for()
        if turn < 14: button('next').click()
    screenshot(page, 'quiz-played', of=stage)
    stage.locator('select').nth(3).select_option('half a second')
    button('next').click()
    stage.get_by_text('gone: real or imagined?').wait_for()                               # it goes away by itself
    wait_idle(page)
    stage.locator('select').nth(2).select_option('small')
    wait_idle(page)
    screenshot(page, 'quiz-gone', of=stage)
    assert messages_within(page, 1.) == 0 and not too_wide(page)
    assert not cell_errors(page) and not console_errors(page)
    screenshot(page, 'quiz')
