"""The paper's measures against what the authors' script computed, and against the literal definition"""
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossview_nb.metrics import (class_iou, class_overlap, inception_score, keep_top, kl_to_data, label_accuracy, label_hits, mean_iou, measure,
                                  pixel_accuracy, psnr, score_of_means, score_parts, sharpness_difference, ssim)

SHARED = Path(os.environ.get('CROSSVIEW_SHARED', Path(__file__).parents[2]/'shared'))/'golden/metrics'
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f'{SHARED} is not here: set CROSSVIEW_SHARED')


def picture(name, dtype):
    return torch.tensor(np.array(Image.open(SHARED/name).convert('RGB'))).permute(2, 0, 1)[None].to(dtype)/255


@needs_shared
@pytest.mark.parametrize('dtype,tolerance', [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_the_authors_figures(dtype, tolerance):
    pairs = json.loads((SHARED/'metrics.json').read_text())['pairs']
    assert len(pairs) == 9
    for pair in pairs:
        found = measure(picture(pair['true'], dtype), picture(pair['synthesized'], dtype))
        for ours, theirs in dict(SSIM='SSIM', PSNR='PSNR', SD='sharpness').items():
            assert abs(found[ours].item() - pair[theirs]) <= tolerance*abs(pair[theirs]), (pair, ours)


def literal(real, imagined):
    "The paper's three measures of one pair, pixel by pixel as METHOD.md words them; NumPy, float64, a two-dimensional window"
    c, h, w = real.shape
    mse = ((real - imagined)**2).mean()
    gray_r, gray_i = (np.tensordot([.299, .587, .114], x, 1)*255 for x in (real, imagined))
    tap = np.exp(-(np.arange(11) - 5)**2/4.5)
    window = np.outer(tap, tap)/tap.sum()**2
    def full(x):
        x, out = np.pad(x, 10), np.zeros((h + 10, w + 10))
        for i in range(11):
            for j in range(11): out += window[i, j]*x[i:i + h + 10, j:j + w + 10]
        return out
    a, b = full(gray_r), full(gray_i)
    va, vb, cov = full(gray_r**2) - a*a, full(gray_i**2) - b*b, full(gray_r*gray_i) - a*b
    c1, c2 = 2.55**2, 7.65**2
    total = 0
    for k in range(c):
        for y in range(1, h - 1):
            for x in range(1, w - 1):
                total += sum(abs(abs(imagined[k, y, x] - imagined[k, v, u]) - abs(real[k, y, x] - real[k, v, u])) for v, u in ((y, x - 1), (y - 1, x)))
    db = lambda error: 10*math.log10(255**2/max(128**2*error, 1e-4))
    return dict(SSIM=((2*a*b + c1)*(2*cov + c2)/((a*a + b*b + c1)*(va + vb + c2))).mean(), PSNR=db(mse), SD=db(total/(c*h*w)))


@pytest.mark.parametrize('h,w', [(24, 24), (17, 30), (3, 5)])
def test_literal_definition(h, w):
    rng = np.random.default_rng(h)
    real, imagined = rng.random((6, 3, h, w)), rng.random((6, 3, h, w))
    imagined[0] = real[0]
    imagined[1] = real[1]*0.999
    imagined[2], real[2] = 0, 1
    found = measure(torch.tensor(real), torch.tensor(imagined))
    for n in range(6):
        for key, expected in literal(real[n], imagined[n]).items(): assert abs(found[key][n].item() - expected) < 1e-9*max(1, abs(expected)), (n, key)


def test_standard_against_torchmetrics():
    functional = pytest.importorskip('torchmetrics.functional.image')
    real = torch.rand(3, 3, 40, 33, dtype=torch.float64)
    imagined = (real + 0.1*torch.randn_like(real)).clamp(0, 1)
    for n in range(3):
        a, b = real[n:n + 1], imagined[n:n + 1]
        assert abs(psnr(a, b, 'standard') - functional.peak_signal_noise_ratio(b, a, data_range=1.)).item() < 1e-5
        assert abs(ssim(a, b, 'standard') - functional.structural_similarity_index_measure(b, a, data_range=1.)).item() < 1e-6


def test_paper_and_standard_psnr():
    real, imagined = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    gap = psnr(real, imagined) - psnr(real, imagined, 'standard')
    assert torch.allclose(gap, torch.full((2,), 20*math.log10(255/128)), atol=1e-4)
    assert psnr(real, real, 'standard').isinf().all() and sharpness_difference(real, real, 'standard').isinf().all()
    assert torch.allclose(ssim(real, real, 'standard'), torch.ones(2), atol=1e-5)
    assert abs(psnr(real, real) - 88.1308036).max() < 1e-4


@pytest.mark.parametrize('measure_one', [ssim, psnr, sharpness_difference])
def test_bad_input(measure_one):
    x = torch.rand(2, 3, 16, 16)
    for real, imagined, message in ((x, x[:1], 'shape'), (x, x*2 - 1, 'instead of 0 to 1'), (x, x*float('nan'), 'nan'), (x[0], x[0], 'shape'),
                                    ((x*255).byte(), x, 'divide bytes'), (x[:0], x[:0], 'shape')):
        with pytest.raises(ValueError, match=message): measure_one(real, imagined)
    with pytest.raises(ValueError, match='mode'): measure_one(x, x, 'usual')


def test_batch_by_batch():
    real, imagined = torch.rand(20, 3, 256, 256), torch.rand(20, 3, 256, 256)
    together = measure(real, imagined)
    for key, values in measure(real[7:8], imagined[7:8]).items(): assert abs(values[0] - together[key][7]) < 1e-4


# --- measures of meaning: METHOD.md word by word, in NumPy, one image at a time ------------------------------------

def distributions(n, classes, seed=0, sharpness=3):
    scores = sharpness*np.random.default_rng(seed).standard_normal((n, classes))
    return np.exp(scores)/np.exp(scores).sum(1, keepdims=True)


def literal_inception(rows, top=None):
    rows = rows.copy()
    if top:
        for row in rows: row[np.argsort(row)[:-top]] = 1e-9
    mean = sum(rows)/len(rows)
    return math.exp(sum((row*np.log(row/mean)).sum() for row in rows)/len(rows))


@pytest.mark.parametrize('top', [None, 1, 5])
@pytest.mark.parametrize('n,classes', [(7, 365), (40, 8)])
def test_inception_score(n, classes, top):
    rows = distributions(n, classes)
    found = inception_score(torch.tensor(rows), top)
    assert abs(found.item()/literal_inception(rows, top) - 1) < 1e-9


def test_inception_score_from_sums_of_batches():
    rows = torch.tensor(distributions(90, 12))
    parts = sum(score_parts(keep_top(some, 5)).sum(0) for some in rows.split(7))
    assert abs(score_of_means(parts/90) - inception_score(rows, 5)) < 1e-12


def test_kl_to_data():
    imagined, real = distributions(30, 12), distributions(30, 12, seed=1)
    each = [sum(p*math.log(p/q) for p, q in zip(a, b)) for a, b in zip(imagined, real)]
    score, spread = kl_to_data(torch.tensor(imagined), torch.tensor(real))
    assert abs(score.item()/math.exp(np.mean(each)) - 1) < 1e-9 and abs(spread.item() - np.std(each)) < 1e-9
    assert kl_to_data(torch.tensor(real), torch.tensor(real))[0] == 1
    impossible = torch.tensor([[1., 0, 0]]), torch.tensor([[0., 1, 0]])
    assert kl_to_data(*impossible)[0].isinf() and kl_to_data(*[impossible[0]]*2)[0] == 1


@pytest.mark.parametrize('top', [1, 5])
@pytest.mark.parametrize('confident', [False, True])
def test_label_accuracy(top, confident):
    imagined, real = distributions(60, 9, sharpness=1.5), distributions(60, 9, seed=1, sharpness=1.5)
    hits = [label in np.argsort(row)[-top:] for row, label, sure in zip(imagined, real.argmax(1), real.max(1)) if sure > .5 or not confident]
    assert 0 < len(hits) < 60 or not confident
    assert abs(label_accuracy(torch.tensor(imagined), torch.tensor(real), top, confident).item() - np.mean(hits)) < 1e-12


def test_nobody_is_confident():
    assert label_accuracy(*[torch.full((3, 4), .25)]*2, confident=True).isnan()


def test_bad_probabilities():
    fine = torch.tensor(distributions(4, 6))
    for rows in (fine.log(), fine*2, fine*float('nan'), fine[:0], fine[0]):
        with pytest.raises(ValueError, match='probabilities'): inception_score(rows)
    with pytest.raises(ValueError, match='alike'): kl_to_data(fine, fine[:2])
    for top in (0, 7):
        with pytest.raises(ValueError, match='there are 6 classes'): inception_score(fine, top)
        with pytest.raises(ValueError, match='there are 6 classes'): label_hits(fine, fine, top)


# --- maps --------------------------------------------------------------------------------------------------------

def test_class_iou():
    rng = np.random.default_rng(0)
    real, imagined = rng.integers(0, 5, (2, 6, 9, 7))
    real[real == 3] = 2         # class 3 occurs in the imagined maps only
    imagined[imagined == 4] = 3
    real[real == 4] = 0         # class 4 nowhere
    expected = []
    for k in range(5):
        both, either = ((real == k) & (imagined == k)).sum(), ((real == k) | (imagined == k)).sum()
        expected.append(both/either if either else math.nan)
    found = class_iou(torch.tensor(real), torch.tensor(imagined), 5)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert expected[3] == 0 and math.isnan(expected[4])
    assert abs(mean_iou(torch.tensor(real), torch.tensor(imagined), 5).item() - np.nanmean(expected)) < 1e-6
    np.testing.assert_allclose(pixel_accuracy(torch.tensor(real), torch.tensor(imagined)).numpy(), (real == imagined).mean((1, 2)))
    both, either = class_overlap(torch.tensor(real), torch.tensor(imagined), 5)
    assert both.shape == (6, 5) and both[2, 1] == ((real == 1) & (imagined == 1))[2].sum() and either[2, 1] == ((real == 1) | (imagined == 1))[2].sum()


def test_bad_maps():
    x = torch.zeros(2, 4, 4, dtype=torch.long)
    for real, imagined, message in ((x, x[:1], 'must be'), (x[0], x[0], 'must be'), (x, x + 5, 'classes 0 to 5'), (x - 1, x, 'classes -1')):
        with pytest.raises(ValueError, match=message): class_iou(real, imagined, 5)
    with pytest.raises(ValueError, match='cannot be compared'): pixel_accuracy(x, x[:1])
