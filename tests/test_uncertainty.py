"Resampled means, intervals, digits, FID and KID in a stream, and the paired test: against literal definitions and against torchmetrics"
import math

import numpy as np
import pytest
import torch

from crossview_nb.uncertainty import FeatureDistance, ResampledMeans, flip_test, interval_of, kernel_distance, supported_digits


def test_fid_is_that_of_torchmetrics():
    fid = pytest.importorskip('torchmetrics.image.fid')
    features = torch.randn(2, 60, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + torch.tensor([0., .5])[:, None, None]
    theirs = fid.FrechetInceptionDistance(feature=torch.nn.Flatten(), input_img_size=(8, 1, 1), normalize=True).set_dtype(torch.float64)
    ours = FeatureDistance()
    for kind, real in ((0, True), (1, False)): theirs.update(features[kind].view(60, 8, 1, 1), real=real)
    for some in zip(*[part.split(7) for part in features]): ours.add(*some)
    assert abs(ours.fid()[0] - theirs.compute().item()) < 1e-6


def test_kid_is_unbiased_and_that_of_the_definition():
    random, n = np.random.default_rng(0), 9
    features = random.standard_normal((n, 2, 5))
    kernel = lambda x, y: (x @ y/5 + 1)**3
    mean = lambda a, b: np.mean([kernel(features[i, a], features[j, b]) for i in range(n) for j in range(n) if i != j])
    assert abs(kernel_distance(features) - (mean(0, 0) + mean(1, 1) - 2*mean(0, 1))) < 1e-9
    poly = pytest.importorskip('torchmetrics.image.kid').poly_mmd
    many = random.standard_normal((400, 2, 5)) + np.array([0, .3])[:, None]
    # theirs keeps pairs of the same place in the mixed mean: these differ in the order of 1/n
    assert abs(kernel_distance(many) - poly(*torch.tensor(many).unbind(1)).item()) < .02
    ours = FeatureDistance(block=20)
    for some in np.array_split(many, 13): ours.add(*torch.tensor(some).unbind(1))
    value, without = ours.kid()
    blocks = [many[g::10][start:start + 20] for g in range(10) for start in (0, 20)]
    assert abs(value - np.mean([kernel_distance(block) for block in blocks])) < 1e-9 and len(without) == 10
    # alike in truth: around zero
    same = [kernel_distance(random.standard_normal((30, 2, 5))) for _ in range(300)]
    assert abs(np.mean(same)) < 4*np.std(same)/300**.5


def test_intervals_hold_what_they_promise():
    "The mean of 60 draws whose true mean is 0: 95 of 100 intervals should hold it"
    hits = 0
    for seed in range(200):
        means = ResampledMeans(300, seed)
        means.add({'x': np.random.default_rng(1000 + seed).standard_normal(60)})
        low, high = interval_of(means('x')[0], means('x')[1:])
        hits += low <= 0 <= high
    assert 180 <= hits <= 198


def test_resamples_leave_out_what_is_missing():
    means = ResampledMeans(100)
    means.add({'x': np.array([1., math.nan, 3, math.inf])})
    assert means('x')[0] == 2 and means.infinite['x'] == 1 and means.counts['x'][0, 0] == 2


def test_flip_test():
    random = np.random.default_rng(0)
    noise = random.standard_normal((50, 3))
    p = flip_test([noise[:20] + [0, .5, 3], noise[20:] + [0, .5, 3]], 1999)
    assert p[0] > .05 and p[1] < .05 and p[2] == 1/2000
    assert flip_test([np.zeros((9, 1))], 99)[0] == 1
    exact = flip_test([np.array([[1.], [2], [4]])], 20000)[0]   # 2 of 8 sign patterns do as much
    assert abs(exact - 2/8) < .02


def test_no_digit_too_many():
    for value, low, high, text, interval in ((.62341, .5912, .6534, '0.62', '0.59 to 0.65'), (34.21, 20, 48, '30', '20 to 50'), (1.5, 1.49997, 1.50003, '1.50000', '1.49997 to 1.50003'),
                                             (.5, .5, .5, '0.5', 'no spread'), (-.00012, -.0009, .0006, '-0.0001', '-0.0009 to 0.0006'),
                                             (.98765, math.nan, math.nan, '0.99', 'none'), (math.nan, math.nan, math.nan, '', '')):
        assert supported_digits(value, low, high) == (text, interval)
    assert supported_digits(123456., 4567., 4.4e6, log=True) == ('100000', '5000 to 4e+06') and supported_digits(1.53, 1.21, 1.93, log=True) == ('1.5', '1.2 to 1.9')
