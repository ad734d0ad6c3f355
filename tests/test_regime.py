"All switches, regimes and orders of updates that 05 to 08 have no room for."
import itertools
import warnings

import pytest
import torch

from crossview_nb.data import CrossViewBatch
from crossview_nb.fork import XFork
from crossview_nb.pix2pix import XPix2pix
from crossview_nb.regime import Gradients, RegimeConfig
from crossview_nb.seq import XSeq

LOSSES = {XPix2pix: {'D', 'G', 'L1'}, XFork: {'D', 'G', 'L1', 'L1_seg'}, XSeq: {'D1', 'D2', 'G1', 'G2', 'L1_1', 'L1_2'}}
every_regime = pytest.mark.parametrize('kind', LOSSES)


def make(kind, gradients=None, **options):
    torch.manual_seed(0)
    return kind(RegimeConfig(**dict(size=32, ngf=2, ndf=2) | options), gradients)


def batch(n=3, size=32, channels=(3, 3, 3)):
    torch.manual_seed(1)
    return CrossViewBatch(*(torch.rand(n, c, size, size)*2 - 1 for c in channels), [''] * n)


def weights(regime):
    return {name: torch.cat([p.detach().flatten().clone() for p in network.parameters()]) for name, network in regime.networks.items()}


def moved(before, regime):
    return {name for name, after in weights(regime).items() if not torch.equal(after, before[name])}


@every_regime
@pytest.mark.parametrize('options', [
    {}, dict(direction='g2a'), dict(size=64), dict(use_gan=False), dict(use_l1=False), dict(conditional=False),
    dict(discriminator='pixel'), dict(n_layers=1), dict(size=64, n_layers=4), dict(dropout=False), dict(bias='ends'), dict(bias='all'),
    dict(source_channels=1, target_channels=2, segmentation_channels=4)])
def test_every_switch_takes_a_step(kind, options):
    regime = make(kind, **options)
    channels = [regime.config.source_channels, regime.config.target_channels, regime.config.segmentation_channels]
    before = weights(regime)
    losses = regime.step(batch(size=regime.config.size, channels=channels))
    assert set(losses) == LOSSES[kind] and all(loss.isfinite() and not loss.requires_grad for loss in losses.values())
    expected = set(regime.networks) if regime.config.use_gan else set(regime.generators)
    assert moved(before, regime) == expected
    for name, loss in losses.items():
        off = not regime.config.use_l1 if name.startswith('L1') else not regime.config.use_gan
        assert (loss == 0) == off, name


@every_regime
def test_an_update_moves_its_own_network_only(kind):
    regime = make(kind)
    state = regime.generate(batch())
    for name in regime.updates:
        before = weights(regime)
        regime.update(name, state)
        assert moved(before, regime) == {name}


@every_regime
def test_any_order_and_any_repetition(kind):
    for order in itertools.permutations(make(kind).updates * 2, 3):
        regime = make(kind)
        state = regime.generate(batch())
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # G1 without feedback
            for name in order:
                assert all(loss.isfinite() for loss in regime.update(name, state).values()), order


@every_regime
def test_step_is_generate_and_updates(kind):
    one, other = make(kind), make(kind)
    torch.manual_seed(2)
    losses = one.step(batch())
    torch.manual_seed(2)
    state = other.generate(batch())
    apart = {}
    for name in other.updates: apart |= other.update(name, state)
    assert losses == apart
    for name in one.state_dict(): assert torch.equal(one.state_dict()[name], other.state_dict()[name]), name


@every_regime
@pytest.mark.parametrize('option, loss', [('lambda_l1', 0.), ('lambda_segmentation', 0.), ('real_label', 1.), ('fake_label', .1),
                                          ('learning_rate', 1e-3), ('beta1', .9), ('beta2', .9), ('lambda_grads', 5.)])
def test_every_number_has_an_effect(kind, option, loss):
    one, other = make(kind, dropout=False), make(kind, dropout=False, **{option: loss})
    for _ in range(2): one.step(batch()); other.step(batch())
    same = all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values()))
    unused = option == 'lambda_segmentation' and kind is XPix2pix or option == 'lambda_grads' and kind is not XSeq
    assert same == unused


@every_regime
def test_batch_of_one(kind):
    regime = make(kind)
    with pytest.raises(ValueError, match='training batch of one'): regime.step(batch(1))
    assert regime.eval().generate(batch(1)).images


def test_seq_without_feedback_says_so():
    regime = make(XSeq)
    state = regime.generate(batch())
    with pytest.warns(UserWarning, match='without feedback'): regime.update('G1', state)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        regime.step(batch())
        quiet = make(XSeq, lambda_grads=0.)
        quiet.update('G1', quiet.generate(batch()))


class Scaled(Gradients):
    "A loss scale that changes whenever it is used"
    def __init__(self, scales): self.scales, self.at = scales, 0
    @property
    def scale(self): return self.scales[self.at % len(self.scales)]
    def backward(self, loss, inputs, retain_graph=False): (loss*self.scale).backward(inputs=inputs, retain_graph=retain_graph)
    def step(self, optimizer):
        for group in optimizer.param_groups:
            for p in group['params']: p.grad.div_(self.scale)
        optimizer.step()
    def end_iteration(self): self.at += 1


def test_changing_loss_scale_changes_nothing():
    plain, scaled = make(XSeq, dropout=False).double(), make(XSeq, Scaled([2.**10, 2.**4, 2.**16]), dropout=False).double()
    for _ in range(3): plain.step(batch().to(torch.float64)); scaled.step(batch().to(torch.float64))
    for name in plain.state_dict(): torch.testing.assert_close(scaled.state_dict()[name], plain.state_dict()[name], rtol=1e-9, atol=1e-12)


def test_overflowed_feedback_is_left_out_and_counted():
    regime = make(XSeq)
    state = regime.generate(batch())
    regime.update('G2', state)
    kept = regime.unscaled(torch.tensor([1., float('nan')]))
    assert kept.tolist() == [0., 0.] and regime.feedback_left_out == 1
    assert torch.equal(regime.unscaled(state.feedback), state.feedback) and regime.feedback_left_out == 1


@pytest.mark.parametrize('options, message', [
    (dict(direction='up'), 'a2g'), (dict(size=100), 'power of two'), (dict(discriminator='cnn'), "'patch' or 'pixel'"),
    (dict(use_gan=False, use_l1=False), 'nothing is left')])
def test_bad_configurations(options, message):
    with pytest.raises(ValueError, match=message): RegimeConfig(**options)


def test_depth_that_does_not_fit_names_the_largest():
    with pytest.raises(ValueError, match='deepest that fits is 3'): make(XFork, n_layers=4)


def test_unknown_update():
    regime = make(XFork)
    with pytest.raises(ValueError, match='no update'): regime.update('G1', regime.generate(batch()))
